#include "kv/block_pool.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

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
  request.layout = {16, 30, 3, 64};
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
  ASSERT_NE((*pool)->device_data(), nullptr);
  int64_t expected = 0;
  for (int32_t block = 0; block < 5; ++block) {
    for (int32_t group = 0; group < 2; ++group) {
      EXPECT_EQ(layout.slab_offset(block, group), expected);
      expected += layout.slab_bytes();
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
  const std::span slab((*pool)->device_data() + layout.slab_offset(1024, 1),
                       static_cast<size_t>(layout.slab_bytes()));
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

TEST(BlockPool, MovesCopyWholeBlocksInOrder) {
  const BlockLayout layout = small_layout();
  auto pool = BlockPool::create(layout, 8);
  ASSERT_TRUE(pool.has_value());
  const auto fill = [&](int32_t block, int value) {
    std::memset((*pool)->device_data() + layout.slab_offset(block, 0), value,
                static_cast<size_t>(layout.block_bytes()));
  };
  const auto sum = [&](int32_t block, int32_t group) {
    return (*pool)->checksum(kDeviceTier, block, group).value();
  };
  for (int32_t block = 0; block < 8; ++block) fill(block, block + 1);
  const uint64_t two = sum(2, 0), three = sum(3, 1), seven = sum(7, 1);
  const std::vector<BlockMove> moves = {{.from = 2, .to = 5, .count = 2}, {.from = 5, .to = 0}};
  ASSERT_TRUE((*pool)->begin(moves).has_value());
  EXPECT_EQ((*pool)->status(0).done, 2u);
  EXPECT_EQ((*pool)->status(0).failed, 0u);
  EXPECT_EQ(sum(5, 0), two);
  EXPECT_EQ(sum(6, 1), three);
  EXPECT_EQ(sum(0, 0), two) << "the second sees what the first did";
  EXPECT_EQ(sum(7, 1), seven);
  EXPECT_NE(two, three);
}

TEST(BlockPool, AMoveThatIsNotThereBeginsNothing) {
  const BlockLayout layout = small_layout();
  auto pool = BlockPool::create(layout, 8);
  ASSERT_TRUE(pool.has_value());
  (*pool)->device_data()[0] = std::byte{1};
  for (const BlockMove& bad :
       {BlockMove{.from = 0, .to = 8}, BlockMove{.from = -1, .to = 1},
        BlockMove{.from = 0, .to = 1, .count = 0}, BlockMove{.from = 0, .to = 6, .count = 3},
        BlockMove{.from = 0, .to = 1, .count = 2}, BlockMove{.from = 3, .to = 3},
        BlockMove{.from = 0, .to = 1, .from_tier = 1},
        BlockMove{.from = 0, .to = 1, .to_tier = 200},
        BlockMove{.from = 0x7fffffff, .to = 0, .count = 0x7fffffff}}) {
    const std::vector<BlockMove> moves = {{.from = 0, .to = 1}, bad};
    const auto refused = (*pool)->begin(moves);
    ASSERT_FALSE(refused.has_value());
    EXPECT_EQ(refused.error().code, ErrorCode::kInvalidArgument);
    EXPECT_EQ((*pool)->device_data()[layout.slab_offset(1, 0)], std::byte{0});
    EXPECT_EQ((*pool)->status(0).done, 0u);
  }
  EXPECT_FALSE((*pool)->checksum(1, 0, 0).has_value());
  EXPECT_FALSE((*pool)->checksum(kDeviceTier, 8, 0).has_value());
  EXPECT_FALSE((*pool)->checksum(kDeviceTier, 0, 2).has_value());
}

TEST(BlockLayout, ASlabOfAnotherLayoutNeverMatches) {
  const BlockLayout layout = small_layout();
  std::vector<std::byte> slab(static_cast<size_t>(layout.slab_bytes()), std::byte{7});
  EXPECT_EQ(layout.slab_format(), "16 tokens, 3 layers, 8 F32, K by slot");
  const uint64_t own = slab_checksum(layout, slab);
  BlockLayout other = layout;
  other.num_groups_local = 5;  // how many groups a rank has is not the slab's affair
  EXPECT_EQ(slab_checksum(other, slab), own);
  EXPECT_EQ(other.slab_format(), layout.slab_format());
  const std::vector<void (*)(BlockLayout&)> changes = {
      [](BlockLayout& l) { l.key_plane = KeyPlane::kByDimension; },
      [](BlockLayout& l) { l.value_type = ValueType::kBF16; },
      [](BlockLayout& l) { l.num_layers = 6, l.head_dim = 4; },
      [](BlockLayout& l) { l.block_tokens = 32, l.head_dim = 4; }};
  for (const auto& change : changes) {
    other = layout;
    change(other);
    EXPECT_NE(slab_checksum(other, slab), own) << other.slab_format();
  }
  slab[100] ^= std::byte{1};
  EXPECT_NE(slab_checksum(layout, slab), own);
}

TEST(BlockLayout, ChecksumIsXxh64) {
  const auto hash = [](const std::string& text, uint64_t seed = 0) {
    return xxh64(std::as_bytes(std::span(text)), seed);
  };
  EXPECT_EQ(hash(""), 0xEF46DB3751D8E999u);
  EXPECT_EQ(hash("a"), 0xD24EC4F1A98C6E5Bu);
  EXPECT_EQ(hash("abc"), 0x44BC2CF5AD770999u);
  EXPECT_EQ(hash("Nobody inspects the spammish repetition"), 0xFBCEA83C8A378BF1u);
  EXPECT_NE(hash("abc", 1), hash("abc"));
}

TEST(BlockMoves, RanksAgreeOnWhatIsDoneAndOnTheFirstFailure) {
  const auto agreed = [](std::vector<MoveStatus> ranks, uint64_t before) {
    const MoveStatus s = agree(ranks, before);
    return std::pair(s.done, s.failed);
  };
  using P = std::pair<uint64_t, uint64_t>;
  EXPECT_EQ(agreed({}, 3), P(3, 0));
  EXPECT_EQ(agreed({{5, 0}, {2, 0}}, 0), P(2, 0)) << "the slowest counts";
  EXPECT_EQ(agreed({{5, 4}, {2, 0}}, 0), P(2, 0)) << "not over everywhere yet";
  EXPECT_EQ(agreed({{5, 4}, {5, 0}}, 0), P(3, 4)) << "a miss on one is a miss on all";
  EXPECT_EQ(agreed({{5, 4}, {5, 2}}, 0), P(1, 2)) << "one at a time, in order";
  EXPECT_EQ(agreed({{5, 4}, {5, 0}}, 4), P(5, 0)) << "it was agreed about";
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
