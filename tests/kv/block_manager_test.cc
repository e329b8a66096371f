#include "kv/block_manager.h"

#include <gtest/gtest.h>

#include <map>
#include <random>
#include <set>
#include <vector>

namespace tailor::kv {
namespace {

BlockManagerOptions small(int32_t blocks, int32_t tables = 8) {
  return {.num_blocks = blocks, .block_tokens = 16, .max_tables = tables};
}

TEST(BlockManager, ReservesWholeBlocksForTokens) {
  BlockManager m(small(4));
  TableId t = m.open_table();
  ASSERT_TRUE(m.reserve(t, 1));
  EXPECT_EQ(m.table(t).size(), 1u);
  ASSERT_TRUE(m.reserve(t, 16));
  EXPECT_EQ(m.table(t).size(), 1u);
  ASSERT_TRUE(m.reserve(t, 17));
  EXPECT_EQ(m.table(t).size(), 2u);
  EXPECT_EQ(m.free_blocks(), 2);
  EXPECT_EQ(m.used_blocks(), 2);
  ASSERT_TRUE(m.reserve(t, 3)) << "never shortens";
  EXPECT_EQ(m.table(t).size(), 2u);
}

TEST(BlockManager, OutOfBlocksChangesNothingAndSaysHowMany) {
  BlockManager m(small(3));
  TableId a = m.open_table(), b = m.open_table();
  ASSERT_TRUE(m.reserve(a, 20));
  auto r = m.reserve(b, 33);
  ASSERT_FALSE(r);
  EXPECT_EQ(r.error().code, ErrorCode::kOutOfBlocks);
  EXPECT_NE(r.error().message.find("3 more KV blocks"), std::string::npos) << r.error().message;
  EXPECT_EQ(m.table(b).size(), 0u);
  EXPECT_EQ(m.free_blocks(), 1);
  EXPECT_TRUE(m.check_integrity());
}

TEST(BlockManager, ForkSharesFullBlocksOnly) {
  BlockManager m(small(8));
  TableId a = m.open_table(), b = m.open_table();
  ASSERT_TRUE(m.reserve(a, 40));
  EXPECT_EQ(m.fork(a, b, 40), 32);
  ASSERT_TRUE(m.reserve(b, 40));
  EXPECT_EQ(m.table(a)[0], m.table(b)[0]);
  EXPECT_EQ(m.table(a)[1], m.table(b)[1]);
  EXPECT_NE(m.table(a)[2], m.table(b)[2]);
  EXPECT_EQ(m.ref_count(m.table(a)[0]), 2);
  EXPECT_EQ(m.used_blocks(), 4);
  m.close_table(a);
  EXPECT_EQ(m.used_blocks(), 3) << "what b still holds stays";
  EXPECT_TRUE(m.check_integrity());
  m.close_table(b);
  EXPECT_EQ(m.free_blocks(), 8);
}

TEST(BlockManagerDeathTest, ClosingTwiceAborts) {
  BlockManager m(small(2));
  TableId a = m.open_table();
  m.close_table(a);
  EXPECT_DEATH(m.close_table(a), "closed twice");
}

// Random operations against a model that only knows sets of owners.
class BlockManagerProperty : public testing::TestWithParam<int> {};

TEST_P(BlockManagerProperty, AgreesWithNaiveModel) {
  std::mt19937 rng(GetParam());
  auto below = [&](int n) { return static_cast<int>(rng() % n); };
  const int capacity = 1 + below(40), tables = 1 + below(10);
  BlockManager m(small(capacity, tables));
  struct Model {
    int tokens = 0;
    std::vector<BlockId> blocks;
  };
  std::map<TableId, Model> open;

  for (int round = 0; round < 3000; ++round) {
    int op = below(10);
    if (op < 2 && static_cast<int>(open.size()) < tables) {
      TableId t = m.open_table();
      ASSERT_TRUE(open.emplace(t, Model{}).second) << "a table is given out twice";
      ASSERT_TRUE(m.table(t).empty());
    } else if (op < 3 && !open.empty()) {
      auto it = std::next(open.begin(), below(static_cast<int>(open.size())));
      m.close_table(it->first);
      open.erase(it);
    } else if (op < 5 && open.size() >= 2) {
      auto from = std::next(open.begin(), below(static_cast<int>(open.size())));
      auto to = std::next(open.begin(), below(static_cast<int>(open.size())));
      if (from == to || !to->second.blocks.empty()) continue;
      int tokens = below(from->second.tokens + 1);
      int shared = m.fork(from->first, to->first, tokens);
      ASSERT_EQ(shared, tokens / 16 * 16);
      to->second.blocks.assign(from->second.blocks.begin(),
                               from->second.blocks.begin() + shared / 16);
      to->second.tokens = shared;
    } else if (!open.empty()) {
      auto it = std::next(open.begin(), below(static_cast<int>(open.size())));
      Model& model = it->second;
      int tokens = model.tokens + below(40);
      int needed = (tokens + 15) / 16 - static_cast<int>(model.blocks.size());
      int free_before = m.free_blocks();
      std::vector<BlockId> before(m.table(it->first).begin(), m.table(it->first).end());
      ASSERT_EQ(m.blocks_missing(it->first, tokens), std::max(needed, 0));
      if (m.reserve(it->first, tokens)) {
        ASSERT_LE(needed, free_before);
        model.tokens = std::max(model.tokens, tokens);
        auto now = m.table(it->first);
        ASSERT_EQ(static_cast<int>(now.size()),
                  static_cast<int>(before.size()) + std::max(needed, 0));
        model.blocks.assign(now.begin(), now.end());
      } else {
        ASSERT_GT(needed, free_before);
        ASSERT_EQ(m.free_blocks(), free_before);
      }
    }
    std::map<BlockId, int> owners;
    for (auto& [t, model] : open) {
      auto table = m.table(t);
      ASSERT_EQ(std::vector<BlockId>(table.begin(), table.end()), model.blocks);
      ASSERT_EQ(std::set<BlockId>(table.begin(), table.end()).size(), table.size());
      for (BlockId b : table) ++owners[b];
    }
    for (auto& [block, count] : owners) ASSERT_EQ(m.ref_count(block), count);
    ASSERT_EQ(m.used_blocks(), static_cast<int>(owners.size()));
    ASSERT_EQ(m.free_blocks() + m.used_blocks() + m.cached_blocks(), m.capacity());
    auto integrity = m.check_integrity();
    ASSERT_TRUE(integrity) << to_string(integrity.error());
  }
}
INSTANTIATE_TEST_SUITE_P(Seeds, BlockManagerProperty, testing::Range(0, 12));

}  // namespace
}  // namespace tailor::kv
