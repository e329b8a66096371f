// Weights on a device that has no room for them.
#include <gtest/gtest.h>

#include "parallel/cuda/device_fake.h"
#include "parallel/cuda/weights_cuda.h"
#include "tests/parallel/cpu/random_model.h"

namespace tailor::parallel::gpu {
namespace {

TEST(CudaWeights, WhatDoesNotFitIsSaidWithItsSize) {
  weights::ScratchFolder folder;
  const auto files = weights::open_random(folder, weights::random_formats()[2]);
  ASSERT_NE(files, nullptr);
  const auto sharding = make_sharding(files->config(), 1);
  const auto device = open_fake_device({.memory_bytes = 1 << 16});
  const auto refused = load_shard(*device, *files, sharding->ranks[0], {});
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().code, ErrorCode::kLimitExceeded);
}

}  // namespace
}  // namespace tailor::parallel::gpu
