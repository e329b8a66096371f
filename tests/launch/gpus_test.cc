// launch/gpus: what nvidia-smi prints becomes what ranks can be given, and which engine serves.
#include "launch/gpus/gpus.h"

#include <gtest/gtest.h>

#include "launch/gpus/engine_choice.h"

namespace tailor::launch {
namespace {

using Uuids = std::vector<std::string>;

constexpr const char* kTwo =
    "0, GPU-aaaa, NVIDIA H200, 580.65.06, 9.0, Disabled, 143771, 143100\n"
    "1, GPU-bbbb, NVIDIA H200, 580.65.06, 9.0, Disabled, 143771, 70000\n";
constexpr const char* kCut = "0, GPU-aaaa, NVIDIA H100, 580.65.06, 9.0, Enabled, 81559, 81000\n";
constexpr const char* kInstances =
    "GPU 0: NVIDIA H100 (UUID: GPU-aaaa)\n  MIG 1g.10gb     Device  0: (UUID: MIG-1111)\n"
    "  MIG 1g.10gb     Device  1: (UUID: MIG-2222)\n";

TEST(Gpus, AreReadAsNvidiaSmiPrintsThem) {
  const Gpus gpus = read_gpus(kTwo, "", std::nullopt);
  ASSERT_EQ(gpus.all.size(), 2u);
  EXPECT_EQ(gpus.all[1].name, "NVIDIA H200");
  EXPECT_EQ(gpus.all[1].driver, "580.65.06");
  EXPECT_EQ(gpus.all[1].capability, 90);
  EXPECT_EQ(gpus.all[1].free_bytes, uint64_t{70000} << 20);
  EXPECT_EQ(gpus.usable, (Uuids{"GPU-aaaa", "GPU-bbbb"}));
  EXPECT_EQ(gpus.trouble, "");
}

TEST(Gpus, CudaVisibleDevicesIsReadAsCudaReadsIt) {
  const auto usable = [](const std::string& visible) {
    return read_gpus(kTwo, "", visible).usable;
  };
  EXPECT_EQ(usable("1"), (Uuids{"GPU-bbbb"}));
  EXPECT_EQ(usable("1,0"), (Uuids{"GPU-bbbb", "GPU-aaaa"}));
  EXPECT_EQ(usable("GPU-b"), (Uuids{"GPU-bbbb"}));
  EXPECT_EQ(usable("0,7,1"), (Uuids{"GPU-aaaa"}));  // what names nothing ends the list
  EXPECT_EQ(usable(""), Uuids());
  EXPECT_EQ(read_gpus(kTwo, "", "").trouble, "");  // as the user wants it
  EXPECT_NE(read_gpus(kTwo, "", "7").trouble.find("names none of the 2"), std::string::npos);
}

TEST(Gpus, MigCountsByItsInstances) {
  EXPECT_EQ(read_gpus(kCut, kInstances, std::nullopt).usable, (Uuids{"MIG-1111", "MIG-2222"}));
  EXPECT_EQ(read_gpus(kCut, kInstances, "MIG-2222").usable, (Uuids{"MIG-2222"}));
  const Gpus none = read_gpus(kCut, "GPU 0: NVIDIA H100 (UUID: GPU-aaaa)\n", std::nullopt);
  EXPECT_TRUE(none.usable.empty());
  EXPECT_NE(none.trouble.find("has no instance"), std::string::npos) << none.trouble;
}

TEST(Gpus, AnOldDriverOrCardIsNamedWithWhatToChange) {
  const Gpus old =
      read_gpus("0, GPU-a, NVIDIA H100, 470.82, 9.0, Disabled, 81559, 81000\n", "", std::nullopt);
  EXPECT_TRUE(old.usable.empty());
  EXPECT_NE(old.trouble.find("the NVIDIA driver is 470.82"), std::string::npos) << old.trouble;
  EXPECT_NE(old.trouble.find("update the driver"), std::string::npos) << old.trouble;
  const Gpus card =
      read_gpus("0, GPU-a, Tesla V100, 580.1, 7.0, [N/A], 16000, 16000\n", "", std::nullopt);
  EXPECT_TRUE(card.usable.empty());
  EXPECT_NE(card.trouble.find("BF16 needs 8.0"), std::string::npos) << card.trouble;
}

std::function<Gpus()> found(const std::string& query, const std::string& list = "") {
  return [=] { return read_gpus(query, list, std::nullopt); };
}
Gpus not_asked() {
  ADD_FAILURE() << "nvidia-smi was asked";
  return {};
}

TEST(EngineChoice, AutoTakesTheGpusWhereThereAreSome) {
  const EngineQuestion q{.replicas = 2, .has_cuda_worker = true};
  const auto on_gpu = choose_engine(q, found(kTwo));
  ASSERT_TRUE(on_gpu) << to_string(on_gpu.error());
  EXPECT_EQ(on_gpu->engine, "cuda");
  EXPECT_EQ(on_gpu->device, "cuda");
  EXPECT_EQ(on_gpu->gpus, (Uuids{"GPU-aaaa", "GPU-bbbb"}));
  const auto on_cpu = choose_engine(q, found(""));
  ASSERT_TRUE(on_cpu);
  EXPECT_EQ(on_cpu->engine, "cpu");
  EXPECT_EQ(on_cpu->warning, "");
}

TEST(EngineChoice, WhereAGpuCannotBeUsedTheCpuComputesAndSaysWhy) {
  const char* old = "0, GPU-a, NVIDIA H100, 470.82, 9.0, Disabled, 81559, 81000\n";
  const auto auto_ = choose_engine({.has_cuda_worker = true}, found(old));
  ASSERT_TRUE(auto_);
  EXPECT_EQ(auto_->engine, "cpu");
  EXPECT_NE(auto_->warning.find("470.82"), std::string::npos) << auto_->warning;
  for (const EngineQuestion& q : {EngineQuestion{.engine = "cuda", .has_cuda_worker = true},
                                  EngineQuestion{.device = "cuda", .has_cuda_worker = true}}) {
    const auto asked = choose_engine(q, found(old));
    ASSERT_FALSE(asked);
    EXPECT_EQ(asked.error().code, ErrorCode::kUnavailable);
    EXPECT_NE(asked.error().message.find("470.82"), std::string::npos);
  }
}

TEST(EngineChoice, EveryRankNeedsAGpu) {
  const auto more = choose_engine({.replicas = 2, .tp = 2, .has_cuda_worker = true}, found(kTwo));
  ASSERT_FALSE(more);
  EXPECT_EQ(more.error().code, ErrorCode::kLimitExceeded);
  EXPECT_NE(more.error().message.find("needs 4 GPUs"), std::string::npos) << more.error().message;
  const auto mig = choose_engine({.tp = 2, .has_cuda_worker = true}, found(kCut, kInstances));
  ASSERT_FALSE(mig);
  EXPECT_NE(mig.error().message.find("MIG"), std::string::npos) << mig.error().message;
  EXPECT_TRUE(choose_engine({.replicas = 2, .has_cuda_worker = true}, found(kCut, kInstances)));
}

TEST(EngineChoice, OtherHostsGpusAreNotCounted) {
  const auto choice = choose_engine(
      {.replicas = 8, .tp = 8, .several_hosts = true, .has_cuda_worker = true}, not_asked);
  ASSERT_TRUE(choice);
  EXPECT_EQ(choice->engine, "cuda");
  EXPECT_TRUE(choice->gpus.empty());
}

TEST(EngineChoice, WhatWasAskedForIsHeldOrRefused) {
  const auto engine = [](const EngineQuestion& q) {
    const auto choice = choose_engine(q, not_asked);
    return choice ? choice->engine + " " + choice->device : std::string("-");
  };
  EXPECT_EQ(engine({}), "cpu cpu");
  EXPECT_EQ(engine({.device = "cpu", .has_cuda_worker = true}), "cpu cpu");
  EXPECT_EQ(engine({.engine = "cpu", .has_cuda_worker = true}), "cpu cpu");
  EXPECT_EQ(engine({.engine = "torch", .has_cuda_worker = true}), "torch cpu");
  EXPECT_EQ(engine({.engine = "torch", .device = "cpu", .torch_takes_gpus = true}), "torch cpu");
  EXPECT_EQ(engine({.engine = "cpu", .device = "cuda", .has_cuda_worker = true}), "-");
  EXPECT_EQ(engine({.engine = "cuda", .device = "cpu", .has_cuda_worker = true}), "-");
  EXPECT_EQ(engine({.engine = "cuda"}), "-");
  EXPECT_EQ(engine({.device = "cuda"}), "-");
  EXPECT_EQ(engine({.engine = "torch", .device = "cuda", .has_cuda_worker = true}), "-");
  const auto torch = choose_engine({.engine = "torch", .torch_takes_gpus = true}, found(kTwo));
  ASSERT_TRUE(torch);
  EXPECT_EQ(torch->engine + " " + torch->device, "torch cuda");
}

}  // namespace
}  // namespace tailor::launch
