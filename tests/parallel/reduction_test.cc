#include "parallel/reduction.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <random>

#include "parallel/sharding.h"

namespace tailor::parallel {
namespace {

/// The tree itself, written down once more: what every plan must give, bit by bit.
float tree_sum(const std::vector<float>& units, Range node) {
  if (node.size() == 1) return units[static_cast<size_t>(node.begin)];
  const int64_t middle = node.begin + (node.size() + 1) / 2;
  return tree_sum(units, {node.begin, middle}) + tree_sum(units, {middle, node.end});
}

/// What the ranks of a replica do with their plans.
float reduce_over_ranks(const std::vector<float>& units, const std::vector<Range>& owned) {
  std::vector<float> gathered;
  ReductionPlan plan;
  for (size_t rank = 0; rank < owned.size(); ++rank) {
    plan = make_reduction_plan(owned, static_cast<int>(rank));
    std::vector<float> slots(units.begin() + owned[rank].begin, units.begin() + owned[rank].end);
    std::vector<float> sent(static_cast<size_t>(plan.pieces_max), -1e30f);
    for (size_t i = 0; i < plan.mine.size(); ++i) {
      for (AddStep add : plan.mine[i].steps)
        slots[static_cast<size_t>(add.into)] += slots[static_cast<size_t>(add.from)];
      sent[i] = slots[static_cast<size_t>(plan.mine[i].slot)];
    }
    gathered.insert(gathered.end(), sent.begin(), sent.end());
  }
  std::vector<float> pieces;
  for (int32_t slot : plan.gathered_slots) pieces.push_back(gathered[static_cast<size_t>(slot)]);
  for (AddStep add : plan.combine)
    pieces[static_cast<size_t>(add.into)] += pieces[static_cast<size_t>(add.from)];
  return pieces[0];
}

TEST(Reduction, EverySplitOverRanksIsBitEqualToOneRank) {
  std::mt19937 random(7);
  std::uniform_real_distribution<float> exponent(-20, 20), sign(-1, 1);
  int differs_from_plain_order = 0;
  for (int round = 0; round < 2000; ++round) {
    const auto n = static_cast<int64_t>(1 + random() % 24);
    std::vector<float> units;
    for (int64_t i = 0; i < n; ++i) units.push_back(sign(random) * std::exp2(exponent(random)));
    // A random cut into runs, not only the even ones that sharding makes.
    std::vector<Range> owned;
    for (int64_t begin = 0; begin < n;) {
      const int64_t end = std::min<int64_t>(n, begin + 1 + static_cast<int64_t>(random() % 6));
      owned.push_back({begin, end});
      begin = end;
    }
    const float expected = tree_sum(units, {0, n});
    EXPECT_EQ(std::bit_cast<uint32_t>(reduce_over_ranks(units, owned)),
              std::bit_cast<uint32_t>(expected));
    EXPECT_EQ(std::bit_cast<uint32_t>(reduce_over_ranks(units, {{0, n}})),
              std::bit_cast<uint32_t>(expected));
    float plain = 0;
    for (float unit : units) plain += unit;
    differs_from_plain_order += plain != expected;
  }
  EXPECT_GT(differs_from_plain_order, 100);  // the values were such that the order matters
}

TEST(Reduction, SubtreesAreMaximalAndTileTheRun) {
  EXPECT_EQ(complete_subtrees(6, {0, 3}), (std::vector<Range>{{0, 3}}));
  EXPECT_EQ(complete_subtrees(6, {2, 4}), (std::vector<Range>{{2, 3}, {3, 4}}));
  EXPECT_EQ(complete_subtrees(3, {0, 2}), (std::vector<Range>{{0, 2}}));
  EXPECT_EQ(complete_subtrees(8, {0, 8}), (std::vector<Range>{{0, 8}}));
  EXPECT_EQ(complete_subtrees(8, {1, 8}), (std::vector<Range>{{1, 2}, {2, 4}, {4, 8}}));
  for (int64_t n = 1; n <= 20; ++n) {
    for (int64_t begin = 0; begin < n; ++begin) {
      for (int64_t end = begin + 1; end <= n; ++end) {
        const auto subtrees = complete_subtrees(n, {begin, end});
        ASSERT_FALSE(subtrees.empty());
        int64_t at = begin;
        for (Range subtree : subtrees) {
          EXPECT_EQ(subtree.begin, at);
          at = subtree.end;
        }
        EXPECT_EQ(at, end);
      }
    }
  }
}

TEST(Reduction, TheDefaultModelSendsOnePieceAtTp2) {
  const std::vector<Range> attention{{0, 2}, {2, 3}}, mlp{{0, 3}, {3, 6}};
  EXPECT_EQ(make_reduction_plan(attention, 0).pieces_max, 1);
  EXPECT_EQ(make_reduction_plan(mlp, 1).pieces_max, 1);
  EXPECT_EQ(make_reduction_plan(mlp, 1).combine, (std::vector<AddStep>{{0, 1}}));
}

}  // namespace
}  // namespace tailor::parallel
