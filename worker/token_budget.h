// How many rows a step may have: measured once at start, so that a step stays near a given time and
// a long prompt does not stall the answers beside it. The planner sees only the number.
#pragma once

#include <cstdint>

#include "base/result.h"
#include "base/time.h"
#include "parallel/engine.h"

namespace tailor::worker {

inline constexpr int32_t kMinTokenBudget = 16;
inline constexpr int32_t kMaxTokenBudget = 2048;

/// Rows that take about `target`, a multiple of 16 in [kMinTokenBudget, kMaxTokenBudget]: runs
/// prompts of at most 16, 64 and 128 dummy tokens through the engine and fits time = a + b * rows.
/// Every rank calls it, before the first request: it writes to the first `num_blocks` blocks of the
/// pool. Cost: about one second of the default model. Errors: those of the engine.
Result<int32_t> measure_token_budget(parallel::Engine& engine, bool leader, int32_t num_blocks,
                                     int32_t block_tokens, Duration target);

}  // namespace tailor::worker
