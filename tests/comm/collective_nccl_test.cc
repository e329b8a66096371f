// NCCL on the GPUs of this machine, one rank a GPU (threads). The same contents as the other
// transports, on device memory.
#include "comm/collective_nccl.h"

#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <thread>

#include "comm/collective_inprocess.h"
#include "tests/comm/collective_conformance.h"

namespace tailor::comm {
namespace {

/// A Collective on host memory that stages through the device, so that the shared conformance tests
/// run on NCCL.
class StagedOnDevice final : public Collective {
 public:
  explicit StagedOnDevice(Collective& device) : device_(device) {}
  int rank() const override { return device_.rank(); }
  int size() const override { return device_.size(); }
  Result<void> broadcast(std::span<std::byte> data, int root) override {
    Staged staged(data);
    TAILOR_TRY(device_.broadcast(staged.span, root));
    staged.read(data);
    return {};
  }
  Result<void> all_gather(std::span<const std::byte> mine, std::span<std::byte> out) override {
    Staged from(mine), to(out);
    TAILOR_TRY(device_.all_gather(from.span, to.span));
    to.read(out);
    return {};
  }
  Result<void> gather(std::span<const std::byte> mine, std::span<std::byte> out,
                      int root) override {
    Staged from(mine), to(out);
    TAILOR_TRY(device_.gather(from.span, to.span, root));
    to.read(out);
    return {};
  }
  Result<void> barrier() override { return device_.barrier(); }

 private:
  struct Staged {
    explicit Staged(std::span<const std::byte> host) {
      EXPECT_EQ(cudaMalloc(&data, host.size() + 1), cudaSuccess);
      EXPECT_EQ(cudaMemcpy(data, host.data(), host.size(), cudaMemcpyHostToDevice), cudaSuccess);
      span = {static_cast<std::byte*>(data), host.size()};
    }
    ~Staged() { cudaFree(data); }
    void read(std::span<std::byte> host) {
      EXPECT_EQ(cudaMemcpy(host.data(), data, host.size(), cudaMemcpyDeviceToHost), cudaSuccess);
    }
    void* data = nullptr;
    std::span<std::byte> span;
  };
  Collective& device_;
};

class NcclCollective : public testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Sizes, NcclCollective, testing::Values(1, 2, 3));

TEST_P(NcclCollective, IsBitEqualToTheInProcessTransport) {
  const int size = GetParam();
  if (nccl_device_count() < size)
    GTEST_SKIP() << "needs " << size << " NVIDIA GPU(s), found " << nccl_device_count();
  InProcessGroup hosts(size, seconds(60));
  std::vector<std::thread> ranks;
  for (int rank = 0; rank < size; ++rank)
    ranks.emplace_back([&, rank] {
      auto host = hosts.join(rank);
      auto nccl = make_nccl_collective(*host, {.device = rank});
      ASSERT_TRUE(nccl) << to_string(nccl.error());
      StagedOnDevice device(**nccl);
      EXPECT_EQ(transcript(device, 3, 60), transcript(*host, 3, 60));
      check_large_gather(device);
    });
  for (auto& rank : ranks) rank.join();
}

TEST(NcclCollectiveErrors, NoGpuIsADeviceFailureNotACrash) {
  if (nccl_device_count() > 0) GTEST_SKIP() << "this machine has a GPU";
  InProcessGroup host(1, seconds(60));
  auto nccl = make_nccl_collective(*host.join(0), {});
  ASSERT_FALSE(nccl);
  EXPECT_EQ(nccl.error().code, ErrorCode::kDeviceFailure) << nccl.error().message;
}

}  // namespace
}  // namespace tailor::comm
