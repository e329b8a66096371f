#include "parallel/sharding.h"

#include <gtest/gtest.h>

#include <string>

namespace tailor::parallel {
namespace {

weights::ModelConfig config_of(int64_t heads, int64_t groups, int64_t intermediate,
                               int64_t vocab = 49152) {
  weights::ModelConfig config;
  config.name = "test";
  config.num_heads = heads;
  config.num_kv_heads = groups;
  config.head_dim = 64;
  config.hidden_size = heads * 64;
  config.intermediate_size = intermediate;
  config.vocab_size = vocab;
  config.num_layers = 2;
  return config;
}

TEST(Sharding, DefaultModelHasThreeAttentionAndSixMlpUnits) {
  const auto config = config_of(9, 3, 1536);
  const ReductionUnits units = reduction_units(config);
  ASSERT_EQ(units.attention.size(), 3u);
  ASSERT_EQ(units.mlp.size(), 6u);
  for (Range unit : units.mlp) EXPECT_EQ(unit.size(), 256);

  const auto two = make_sharding(config, 2);
  ASSERT_TRUE(two.has_value());
  EXPECT_EQ(two->ranks[0].groups, (Range{0, 2}));
  EXPECT_EQ(two->ranks[0].heads, (Range{0, 6}));
  EXPECT_EQ(two->ranks[1].heads, (Range{6, 9}));
  EXPECT_EQ(two->ranks[1].columns, (Range{768, 1536}));
  EXPECT_EQ(two->ranks[1].vocab, (Range{24576, 49152}));
}

TEST(Sharding, LargerModels) {
  EXPECT_EQ(reduction_units(config_of(32, 8, 14336)).attention.size(), 8u);  // Llama 3 8B
  EXPECT_EQ(reduction_units(config_of(32, 8, 14336)).mlp.size(), 8u);
  // Llama 2 7B: runs of 4 groups
  const ReductionUnits llama2 = reduction_units(config_of(32, 32, 11008));
  ASSERT_EQ(llama2.attention.size(), 8u);
  EXPECT_EQ(llama2.attention[0].size(), 4);
  EXPECT_EQ(reduction_units(config_of(40, 40, 13824)).attention.size(), 10u);  // Llama 2 13B
}

TEST(Sharding, UnitsTileTheModelAndDoNotDependOnTp) {
  for (int64_t groups = 1; groups <= 64; ++groups) {
    for (int64_t intermediate : {32, 100, 176, 1536, 5632, 14336}) {
      for (int64_t block : {32, 256}) {
        const auto config = config_of(groups * 2, groups, intermediate);
        const ReductionUnits units = reduction_units(config, block);
        EXPECT_LE(units.attention.size(), static_cast<size_t>(kMaxUnits));
        EXPECT_LE(units.mlp.size(), static_cast<size_t>(kMaxUnits));
        int64_t at = 0;
        for (Range unit : units.mlp) {
          EXPECT_EQ(unit.begin, at);
          EXPECT_EQ(unit.begin % block, 0);
          EXPECT_GT(unit.size(), 0);
          at = unit.end;
        }
        EXPECT_EQ(at, intermediate);
        for (int tp = 1; tp <= 16; ++tp) {
          const auto sharding = make_sharding(config, tp, block);
          const size_t limit = std::min(units.attention.size(), units.mlp.size());
          ASSERT_EQ(sharding.has_value(), static_cast<size_t>(tp) <= limit);
          if (!sharding) continue;
          EXPECT_EQ(sharding->units.mlp, units.mlp);
          int64_t group = 0, column = 0, row = 0;
          for (const RankShard& rank : sharding->ranks) {
            EXPECT_EQ(rank.groups.begin, group);
            EXPECT_EQ(rank.columns.begin, column);
            EXPECT_EQ(rank.vocab.begin, row);
            EXPECT_EQ(rank.heads.size(), rank.groups.size() * 2);
            EXPECT_GT(rank.groups.size(), 0);
            EXPECT_GT(rank.columns.size(), 0);
            group = rank.groups.end, column = rank.columns.end, row = rank.vocab.end;
          }
          EXPECT_EQ(group, groups);
          EXPECT_EQ(column, intermediate);
          EXPECT_EQ(row, config.vocab_size);
        }
      }
    }
  }
}

TEST(Sharding, RefusesTooManyRanksWithTheNumbers) {
  const auto refused = make_sharding(config_of(9, 3, 1536), 4);
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().code, ErrorCode::kInvalidArgument);
  for (const char* number : {"tp 4", "1..3", "3 attention units", "6 MLP units"}) {
    EXPECT_NE(refused.error().message.find(number), std::string::npos) << refused.error().message;
  }
  EXPECT_FALSE(make_sharding(config_of(9, 3, 1536), 0).has_value());
}

}  // namespace
}  // namespace tailor::parallel
