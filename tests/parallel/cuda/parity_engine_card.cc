#include <gtest/gtest.h>

#include "parallel/cuda/engine_cuda.h"
#include "tests/parallel/parity_engine.h"

namespace tailor::parallel::testing {
namespace {

/// An engine and the GPU it stands on.
class CardEngine final : public Engine {
 public:
  CardEngine(std::unique_ptr<gpu::Device> device, std::unique_ptr<Engine> engine)
      : device_(std::move(device)), engine_(std::move(engine)) {}
  const EngineInfo& info() const override { return engine_->info(); }
  int depth() const override { return engine_->depth(); }
  void open_slot(const OpenSlot& open) override { engine_->open_slot(open); }
  void close_slot(SlotId slot) override { engine_->close_slot(slot); }
  Result<void> submit(const StepInput& input, const RowSampling& rows) override {
    return engine_->submit(input, rows);
  }
  Result<StepOutcome> collect() override { return engine_->collect(); }

 private:
  const std::unique_ptr<gpu::Device> device_;
  const std::unique_ptr<Engine> engine_;
};

/// Without a GPU nothing is tested, in one sentence.
class NeedsDevice final : public ::testing::Environment {
  void SetUp() override {
    const auto opened = gpu::Device::open("cuda");
    if (!opened && opened.error().code == ErrorCode::kUnavailable)
      GTEST_SKIP() << opened.error().message;
    ASSERT_TRUE(opened) << to_string(opened.error());
  }
};
[[maybe_unused]] const auto* const needs_device =
    ::testing::AddGlobalTestEnvironment(new NeedsDevice);

}  // namespace

Result<std::unique_ptr<Engine>> make_parity_engine(const weights::WeightFiles& files,
                                                   const TpContext& tp) {
  EngineOptions options;
  options.device = "cuda";
  options.dtype = "f32";
  options.kv_bytes = 64 << 20;
  options.max_rows = 1024;
  TAILOR_ASSIGN(auto device, gpu::Device::open("cuda"));
  TAILOR_ASSIGN(auto engine, make_cuda_engine(*device, files, tp, options));
  return std::make_unique<CardEngine>(std::move(device), std::move(engine));
}

}  // namespace tailor::parallel::testing
