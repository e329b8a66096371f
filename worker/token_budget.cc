#include "worker/token_budget.h"

#include <algorithm>
#include <vector>

#include "base/clock.h"

namespace tailor::worker {
namespace {

Result<double> seconds_of_prompt(parallel::Engine& engine, bool leader, int32_t rows,
                                 int32_t block_tokens) {
  parallel::StepInput input;
  const int64_t vocab = engine.info().vocab_size;
  for (int32_t i = 0; i < rows; ++i)
    input.token_ids.push_back(static_cast<TokenId>((i * 31 + 7) % vocab));
  const int32_t blocks = (rows + block_tokens - 1) / block_tokens;
  for (int32_t b = 0; b < blocks; ++b) input.block_ids.push_back(b);
  input.chunks.push_back({.num_rows = rows, .num_blocks = blocks, .wants_logits = 1});
  std::vector<float> logits(leader ? vocab : 0);
  const Time start = now();
  TAILOR_TRY(parallel::forward(engine, input, logits));
  return to_seconds(now() - start);
}

}  // namespace

Result<int32_t> measure_token_budget(parallel::Engine& engine, bool leader, int32_t num_blocks,
                                     int32_t block_tokens, Duration target) {
  const int64_t room =
      std::min<int64_t>(int64_t{num_blocks} * block_tokens, engine.info().max_context);
  auto rows = [&](int32_t wanted) { return static_cast<int32_t>(std::min<int64_t>(wanted, room)); };
  // the better of two: another process may get in the way of one
  auto run = [&](int32_t n) -> Result<double> {
    TAILOR_ASSIGN(const double first, seconds_of_prompt(engine, leader, n, block_tokens));
    TAILOR_ASSIGN(const double second, seconds_of_prompt(engine, leader, n, block_tokens));
    return std::min(first, second);
  };

  TAILOR_TRY(run(rows(16)));  // warm-up
  TAILOR_ASSIGN(double short_s, run(rows(64)));
  TAILOR_ASSIGN(double long_s, run(rows(128)));
  double per_row = long_s / rows(128);
  double fixed = 0;
  if (rows(128) > rows(64)) {
    // Noise can make the slope vanish: at least half of the longer run's mean cost per row is
    // believed.
    per_row = std::max((long_s - short_s) / (rows(128) - rows(64)), 0.5 * per_row);
    fixed = std::max(0.0, long_s - per_row * rows(128));
  }
  const double fit = (to_seconds(target) - fixed) / std::max(per_row, 1e-9);
  const double bounded = std::clamp<double>(fit, kMinTokenBudget, kMaxTokenBudget);
  return static_cast<int32_t>(bounded) / 16 * 16;
}

}  // namespace tailor::worker
