#include "kv/block_pool.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <string>

namespace tailor::kv {
namespace {

BlockLayout small_layout() {
  BlockLayout layout;
  layout.block_tokens = 16;
  layout.num_layers = 3;
  layout.num_groups_local = 2;
  layout.head_dim = 8;
  return layout;
}

/// The default model at tp 1: 30 layers, 3 groups of 64.
PoolRequest default_model_request() {
  PoolRequest request;
  request.layout = {16, 30, 3, 64, 4};
  request.available_bytes = 64ull << 30;
  request.max_context = 8192;
  return request;
}

int64_t resident_kib() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.rfind("VmRSS:", 0) == 0) return std::stoll(line.substr(6));
  }
  return 0;
}

TEST(BlockPool, SlabsAreContiguousAndTileTheMemory) {
  const BlockLayout layout = small_layout();
  EXPECT_EQ(layout.slab_bytes(), 3 * 2 * 16 * 8 * 4);
  EXPECT_EQ(layout.block_bytes(), 2 * layout.slab_bytes());
  auto pool = BlockPool::create(layout, 5);
  ASSERT_TRUE(pool.has_value()) << to_string(pool.error());
  std::byte* expected = (*pool)->data();
  for (int32_t block = 0; block < 5; ++block) {
    for (int32_t group = 0; group < 2; ++group) {
      const auto slab = (*pool)->slab(block, group);
      EXPECT_EQ(slab.data(), expected);
      expected += slab.size();
    }
  }
  EXPECT_EQ(layout.plane_offset(1, 2, 1), layout.slab_values() + 5 * layout.plane_values());
}

TEST(BlockPool, BeginsZeroedAndAnIdlePoolCostsNothing) {
  BlockLayout layout = small_layout();
  layout.num_layers = 64;
  layout.head_dim = 128;
  const int64_t before = resident_kib();
  auto pool = BlockPool::create(layout, 2048);  // 8 GiB of address space
  ASSERT_TRUE(pool.has_value()) << to_string(pool.error());
  const auto slab = (*pool)->slab(1024, 1);
  EXPECT_TRUE(std::all_of(slab.begin(), slab.end(), [](std::byte b) { return b == std::byte{0}; }));
  EXPECT_LT(resident_kib() - before, 64 * 1024);
}

TEST(BlockPool, RefusesWhatTheSystemRefuses) {
  BlockLayout layout = small_layout();
  layout.num_layers = int64_t{1} << 30;
  auto pool = BlockPool::create(layout, 1 << 20);
  ASSERT_FALSE(pool.has_value());
  EXPECT_EQ(pool.error().code, ErrorCode::kOutOfBlocks);
}

TEST(PoolSize, ChoosesTheCeilingTheShareOrTheTarget) {
  PoolRequest request = default_model_request();
  auto size = choose_pool_size(request);
  ASSERT_TRUE(size.has_value());
  EXPECT_EQ(size->num_blocks, (2ll << 30) / 737280);
  EXPECT_EQ(size->max_context, 8192);
  EXPECT_NE(size->sentence.find("ceiling of 2048 MiB"), std::string::npos) << size->sentence;

  request.available_bytes = 4ull << 30;
  size = choose_pool_size(request);
  ASSERT_TRUE(size.has_value());
  EXPECT_EQ(size->num_blocks, (1ll << 30) / 737280);
  EXPECT_NE(size->sentence.find("25 % of 4096 MiB"), std::string::npos) << size->sentence;

  request.max_context = 256;
  size = choose_pool_size(request);
  ASSERT_TRUE(size.has_value());
  EXPECT_EQ(size->num_blocks, 32 * 256 / 16);
  EXPECT_NE(size->sentence.find("32 sequences of 256 tokens"), std::string::npos) << size->sentence;
}

TEST(PoolSize, CapsAContextThatNobodyAskedForAndSaysSo) {
  PoolRequest request = default_model_request();
  request.kv_bytes = 100 * 737280 + 5;
  auto size = choose_pool_size(request);
  ASSERT_TRUE(size.has_value());
  EXPECT_EQ(size->num_blocks, 100);
  EXPECT_EQ(size->max_context, 1600);
  EXPECT_NE(size->sentence.find("lowered from 8192 to 1600"), std::string::npos) << size->sentence;
}

TEST(PoolSize, RefusesAContextThatWasAskedForWithTheNumbers) {
  PoolRequest request = default_model_request();
  request.kv_bytes = 100 * 737280;
  request.max_context_given = true;
  auto size = choose_pool_size(request);
  ASSERT_FALSE(size.has_value());
  EXPECT_EQ(size.error().code, ErrorCode::kLimitExceeded);
  for (const char* number : {"100 blocks", "8192 tokens", "needs 512"}) {
    EXPECT_NE(size.error().message.find(number), std::string::npos) << size.error().message;
  }
  request.max_context = 1600;
  EXPECT_TRUE(choose_pool_size(request).has_value());
  request.kv_bytes = 1000;  // not even one block
  request.max_context_given = false;
  EXPECT_FALSE(choose_pool_size(request).has_value());
}

}  // namespace
}  // namespace tailor::kv
