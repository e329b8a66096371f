// The fixed-batch run against an engine that only keeps account: what it is fed must be what
// llama-batched-bench's shape says.
#include "bench/engine_run.h"

#include <gtest/gtest.h>

#include <map>
#include <set>
#include <vector>

#include "parallel/synchronous_engine.h"

namespace tailor::bench {
namespace {

constexpr int64_t kVocab = 100;

class AccountingEngine : public parallel::SynchronousEngine {
 public:
  explicit AccountingEngine(int32_t num_blocks)
      : SynchronousEngine(
            {.info = {.vocab_size = kVocab, .max_context = 1 << 20, .num_blocks = num_blocks},
             .max_rows = 1 << 20}) {}

  Result<void> compute(const parallel::StepInput& input, std::span<float> logits,
                       const parallel::HiddenTaps&) override {
    EXPECT_EQ(static_cast<int64_t>(logits.size()), input.num_logits() * kVocab);
    rows_of_step.push_back(input.num_rows());
    int row = 0, wanting = 0;
    for (const auto& chunk : input.chunks) {
      EXPECT_EQ(chunk.first_row, row);
      row += chunk.num_rows;
      EXPECT_EQ(chunk.num_blocks, (chunk.first_position + chunk.num_rows + 15) / 16);
      const int32_t first = input.block_ids[chunk.first_block];  // names the sequence
      for (int i = 0; i < chunk.num_blocks; ++i) {
        EXPECT_EQ(input.block_ids[chunk.first_block + i], first + i);
        blocks_of[first].insert(first + i);
      }
      EXPECT_EQ(chunk.first_position, static_cast<int>(tokens_of[first].size()))
          << "a token is missing or doubled";
      for (int i = 0; i < chunk.num_rows; ++i)
        tokens_of[first].push_back(input.token_ids[chunk.first_row + i]);
      if (chunk.wants_logits)  // token = 7 times its position, from the last lanes too
        std::fill_n(logits.begin() + kVocab * wanting++, kVocab, 0.f)[-kVocab + next(first)] = 1;
    }
    EXPECT_EQ(row, input.num_rows());
    return {};
  }
  int64_t next(int32_t first) const { return (7 * tokens_of.at(first).size()) % kVocab; }

  std::vector<int> rows_of_step;
  std::map<int32_t, std::vector<TokenId>> tokens_of;
  std::map<int32_t, std::set<int32_t>> blocks_of;
};

TEST(EngineRun, FeedsEachSequenceItsPromptInPiecesAndThenItsLargestLogit) {
  AccountingEngine engine(3 * 3);
  const FixedBatchShape shape{
      .prompt_tokens = 30, .decode_tokens = 4, .batch = 3, .prompt_rows = 40};
  const auto run = run_fixed_batch(engine, shape, 16, 2);
  ASSERT_TRUE(run) << run.error().message;
  EXPECT_EQ(engine.rows_of_step, (std::vector<int>{40, 40, 10, 3, 3, 3, 3}));
  ASSERT_EQ(engine.tokens_of.size(), 3u);
  std::set<std::vector<TokenId>> prompts;
  std::set<int32_t> blocks;
  for (const auto& [first, tokens] : engine.tokens_of) {
    ASSERT_EQ(tokens.size(), 34u);
    for (size_t i = 30; i < tokens.size(); ++i)
      EXPECT_EQ(tokens[i], static_cast<TokenId>(7 * i % kVocab));
    prompts.insert({tokens.begin(), tokens.begin() + 30});
    for (int32_t block : engine.blocks_of[first])
      EXPECT_TRUE(blocks.insert(block).second) << "two sequences share block " << block;
  }
  EXPECT_EQ(prompts.size(), 3u);
  EXPECT_EQ(blocks.size(), 9u);
  EXPECT_EQ(run->batch, 3);
  EXPECT_EQ(run->threads, 2);
  EXPECT_GT(run->prompt_per_s, 0);
  EXPECT_GT(run->decode_per_s, 0);
}

TEST(EngineRun, RefusesWhatThePoolCannotHold) {
  AccountingEngine engine(8);
  const FixedBatchShape shape{.prompt_tokens = 30, .decode_tokens = 4, .batch = 3};
  const auto run = run_fixed_batch(engine, shape, 16, 1);
  ASSERT_FALSE(run);
  EXPECT_EQ(run.error().code, ErrorCode::kOutOfBlocks);
  EXPECT_EQ(run.error().message, "the batch needs 9 KV blocks, and the pool has 8");
}

}  // namespace
}  // namespace tailor::bench
