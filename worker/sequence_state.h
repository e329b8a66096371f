// SequenceState: what the leader's loop knows of one sequence beside its place in the planner: the
// ids emitted so far. Whether it has ended is a pure function of (request, emitted ids): the same
// on the replica that resumes it.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/messages.h"
#include "base/request.h"
#include "parallel/engine.h"
#include "worker/batch_planner.h"

namespace tailor::worker {

/// What ends a sequence beside its request.
struct SequenceLimits {
  std::vector<TokenId> eos_tokens;
  int32_t max_context = 0;  ///< prompt and answer together
};

/// Whether the last of `emitted` ended the answer: kStop (stop_token_ids; end token unless
/// ignore_eos; neither within the first min_tokens), kLength (max_tokens, or the context is full),
/// else kNone. Stop strings are the text thread's. Cost: O(stop tokens).
FinishReason finish_reason(const Request& request, std::span<const TokenId> emitted,
                           const SequenceLimits& limits);

struct SequenceState {
  std::shared_ptr<const Request> request;  ///< null = this place is empty
  Attempt attempt;
  uint32_t sample = 0;
  std::vector<TokenId> emitted;
  parallel::SlotId slot = -1;  ///< while it runs
  bool prefill_reported = false;

  SequenceId id() const { return {request->id, sample}; }
  TokenId token_at(int32_t position) const {
    int32_t prompt = static_cast<int32_t>(request->prompt.size());
    return position < prompt ? request->prompt[position] : emitted[position - prompt];
  }
};

/// Appends a planned chunk of `state` to a step's input: its rows' tokens, and the blocks of
/// `table` up to its last position.
void append_chunk(const PlannedChunk& chunk, std::span<const kv::BlockId> table,
                  int32_t block_tokens, const SequenceState& state, parallel::StepInput& out);

}  // namespace tailor::worker
