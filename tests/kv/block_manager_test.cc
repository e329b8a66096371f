#include "kv/block_manager.h"

#include <gtest/gtest.h>

#include <array>
#include <map>
#include <random>
#include <set>
#include <vector>

namespace tailor::kv {
namespace {

BlockManagerOptions small(int32_t blocks, int32_t tables = 8) {
  return {.tier_blocks = {blocks}, .block_tokens = 16, .max_tables = tables};
}

TEST(BlockManager, ReservesWholeBlocksForTokens) {
  BlockManager m(small(4));
  TableId t = m.open_table();
  ASSERT_TRUE(m.extend(t, 1));
  EXPECT_EQ(m.table(t).size(), 1u);
  ASSERT_TRUE(m.extend(t, 16));
  EXPECT_EQ(m.table(t).size(), 1u);
  ASSERT_TRUE(m.extend(t, 17));
  EXPECT_EQ(m.table(t).size(), 2u);
  EXPECT_EQ(m.free_blocks(), 2);
  EXPECT_EQ(m.used_blocks(), 2);
  ASSERT_TRUE(m.extend(t, 3)) << "never shortens";
  EXPECT_EQ(m.table(t).size(), 2u);
}

TEST(BlockManager, OutOfBlocksChangesNothingAndSaysHowMany) {
  BlockManager m(small(3));
  TableId a = m.open_table(), b = m.open_table();
  ASSERT_TRUE(m.extend(a, 20));
  auto r = m.extend(b, 33);
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
  ASSERT_TRUE(m.extend(a, 40));
  EXPECT_EQ(m.fork(a, b, 40), 32);
  ASSERT_TRUE(m.extend(b, 40));
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

TEST(BlockManager, AReservationEntersTheTableWhollyOrNotAtAll) {
  BlockManager m(small(4));
  TableId t = m.open_table();
  ASSERT_TRUE(m.extend(t, 16));
  const BlockId first = m.table(t)[0];
  ASSERT_TRUE(m.reserve(t, 48));
  EXPECT_EQ(m.table(t).size(), 1u);
  ASSERT_EQ(m.reserved(t).size(), 2u);
  EXPECT_EQ(m.free_blocks(), 1);
  EXPECT_EQ(m.used_blocks(), 3);
  EXPECT_TRUE(m.check_integrity());
  m.abort(t);
  EXPECT_EQ(m.table(t).size(), 1u);
  EXPECT_EQ(m.table(t)[0], first);
  EXPECT_TRUE(m.reserved(t).empty());
  EXPECT_EQ(m.free_blocks(), 3);
  ASSERT_TRUE(m.reserve(t, 48));
  const std::vector<BlockId> taken(m.reserved(t).begin(), m.reserved(t).end());
  m.commit(t);
  ASSERT_EQ(m.table(t).size(), 3u);
  EXPECT_EQ(m.table(t)[1], taken[0]);
  EXPECT_EQ(m.table(t)[2], taken[1]);
  EXPECT_TRUE(m.check_integrity());
}

TEST(BlockManager, ATierIsAnIndex) {
  BlockManager m({.tier_blocks = {4, 2}, .block_tokens = 16, .max_tables = 3});
  TableId device = m.open_table(), host = m.open_table(1);
  ASSERT_TRUE(m.extend(device, 40));
  ASSERT_TRUE(m.extend(host, 17));
  EXPECT_EQ(m.tier(host), 1);
  EXPECT_EQ(m.free_blocks(), 1);
  EXPECT_EQ(m.free_blocks(1), 0);
  EXPECT_EQ(m.used_blocks(1), 2);
  auto more = m.extend(host, 33);
  ASSERT_FALSE(more);
  EXPECT_NE(more.error().message.find("1 more KV blocks are needed, 0 of 2"), std::string::npos);
  m.close_table(device);
  EXPECT_EQ(m.used_blocks(1), 2) << "the other tier is not touched";
  m.close_table(host);
  EXPECT_EQ(m.free_blocks(1), 2);
  EXPECT_TRUE(m.check_integrity());
}

TEST(BlockManagerDeathTest, ATableIsOnATierThatHasBlocks) {
  BlockManager m({.tier_blocks = {4, 2}, .block_tokens = 16, .max_tables = 3});
  EXPECT_DEATH(m.open_table(2), "a tier that is not there");
}

TEST(BlockManagerDeathTest, AReservationMustBeOver) {
  BlockManager m(small(4));
  TableId t = m.open_table();
  EXPECT_DEATH(m.commit(t), "no reservation");
  ASSERT_TRUE(m.reserve(t, 16));
  EXPECT_DEATH(m.close_table(t), "reserved");
  EXPECT_DEATH((void)m.reserve(t, 32), "second reservation");
}

// Random operations against a model that only knows sets of owners: 120,000 in all.
class BlockManagerProperty : public testing::TestWithParam<int> {};

TEST_P(BlockManagerProperty, AgreesWithNaiveModel) {
  std::mt19937 rng(GetParam());
  auto below = [&](int n) { return static_cast<int>(rng() % n); };
  const int tiers = 1 + below(3), tables = 1 + below(10);
  BlockManagerOptions options = small(1 + below(40), tables);
  for (int t = 1; t < tiers; ++t) options.tier_blocks[t] = 1 + below(29);
  BlockManager m(options);
  struct Model {
    TierId tier = 0;
    int tokens = 0;
    std::vector<BlockId> blocks, reserved;
    int reserved_tokens = -1;  // -1 = no reservation
  };
  std::map<TableId, Model> open;
  auto ids = [](std::span<const BlockId> blocks) {
    return std::vector<BlockId>(blocks.begin(), blocks.end());
  };

  for (int round = 0; round < 10000; ++round) {
    int op = below(12);
    if (op < 2 && static_cast<int>(open.size()) < tables) {
      const auto tier = static_cast<TierId>(below(tiers));
      TableId t = m.open_table(tier);
      ASSERT_TRUE(open.emplace(t, Model{.tier = tier}).second) << "a table is given out twice";
      ASSERT_TRUE(m.table(t).empty());
    } else if (op < 3 && !open.empty()) {
      auto it = std::next(open.begin(), below(static_cast<int>(open.size())));
      if (it->second.reserved_tokens >= 0) m.abort(it->first);
      m.close_table(it->first);
      open.erase(it);
    } else if (op < 5 && open.size() >= 2) {
      auto from = std::next(open.begin(), below(static_cast<int>(open.size())));
      auto to = std::next(open.begin(), below(static_cast<int>(open.size())));
      if (from == to || !to->second.blocks.empty() || to->second.reserved_tokens >= 0 ||
          from->second.tier != to->second.tier)
        continue;
      int tokens = below(from->second.tokens + 1);
      int shared = m.fork(from->first, to->first, tokens);
      ASSERT_EQ(shared, tokens / 16 * 16);
      to->second.blocks.assign(from->second.blocks.begin(),
                               from->second.blocks.begin() + shared / 16);
      to->second.tokens = shared;
    } else if (!open.empty()) {
      auto it = std::next(open.begin(), below(static_cast<int>(open.size())));
      Model& model = it->second;
      if (model.reserved_tokens >= 0) {
        if (below(2) == 0) {
          m.commit(it->first);
          model.blocks.insert(model.blocks.end(), model.reserved.begin(), model.reserved.end());
          model.tokens = std::max(model.tokens, model.reserved_tokens);
        } else {
          m.abort(it->first);
        }
        model.reserved.clear();
        model.reserved_tokens = -1;
      } else {
        int tokens = model.tokens + below(40);
        int needed = (tokens + 15) / 16 - static_cast<int>(model.blocks.size());
        int free_before = m.free_blocks(model.tier);
        ASSERT_EQ(m.blocks_missing(it->first, tokens), std::max(needed, 0));
        const bool at_once = below(2) == 0;
        if (at_once ? m.extend(it->first, tokens) : m.reserve(it->first, tokens)) {
          ASSERT_LE(needed, free_before);
          ASSERT_EQ(m.free_blocks(model.tier), free_before - std::max(needed, 0));
          if (at_once) {
            auto now = ids(m.table(it->first));
            ASSERT_EQ(static_cast<int>(now.size()),
                      static_cast<int>(model.blocks.size()) + std::max(needed, 0));
            model.blocks = now;
            model.tokens = std::max(model.tokens, tokens);
          } else {
            model.reserved = ids(m.reserved(it->first));
            ASSERT_EQ(static_cast<int>(model.reserved.size()), std::max(needed, 0));
            model.reserved_tokens = tokens;
          }
        } else {
          ASSERT_GT(needed, free_before);
          ASSERT_EQ(m.free_blocks(model.tier), free_before);
        }
      }
    }
    std::map<std::pair<TierId, BlockId>, int> owners;
    for (auto& [t, model] : open) {
      ASSERT_EQ(ids(m.table(t)), model.blocks);
      ASSERT_EQ(ids(m.reserved(t)), model.reserved);
      std::set<BlockId> own(model.blocks.begin(), model.blocks.end());
      own.insert(model.reserved.begin(), model.reserved.end());
      ASSERT_EQ(own.size(), model.blocks.size() + model.reserved.size());
      for (BlockId b : own) ++owners[{model.tier, b}];
    }
    std::array<int, kMaxTiers> used{};
    for (auto& [block, count] : owners) {
      ASSERT_EQ(m.ref_count(block.second, block.first), count);
      ++used[block.first];
    }
    for (TierId t = 0; t < kMaxTiers; ++t) {
      ASSERT_EQ(m.used_blocks(t), used[t]);
      ASSERT_EQ(m.free_blocks(t) + m.used_blocks(t) + m.cached_blocks(t), m.capacity(t));
    }
    auto integrity = m.check_integrity();
    ASSERT_TRUE(integrity) << to_string(integrity.error());
  }
}
INSTANTIATE_TEST_SUITE_P(Seeds, BlockManagerProperty, testing::Range(0, 12));

}  // namespace
}  // namespace tailor::kv
