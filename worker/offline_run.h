// OfflineRun: the planner and one engine without a cluster: requests in, lengths (and hidden
// states) out. What `tailor collect` drives; the same BatchPlanner, engine and finish_reason as
// LeaderLoop, so that an answer here is the answer a replica would give. No text
// thread: stop strings are not looked for. Owner: the calling thread.
#pragma once

#include <functional>
#include <span>
#include <vector>

#include "parallel/engine.h"
#include "worker/batch_planner.h"
#include "worker/hidden_rows.h"
#include "worker/sequence_state.h"

namespace tailor::worker {

struct OfflineOptions {
  PlannerOptions planner;
  SequenceLimits limits;
  std::vector<int32_t> layers;  ///< hidden states wanted after these; empty = none
  int32_t tap_every = 32;       ///< of generated tokens; the last prompt token always
};

struct OfflineAnswer {
  SequenceId sequence;
  uint32_t prompt_tokens = 0;
  std::vector<TokenId> tokens;  ///< end token included
  FinishReason finish = FinishReason::kNone;
};

class OfflineRun {
 public:
  OfflineRun(parallel::Engine& engine, const OfflineOptions& options);

  /// Called inside step(): `values` [layers, hidden_size]; generated 0 = the last prompt token, of
  /// sample 0 only.
  std::function<void(SequenceId sequence, uint32_t generated, std::span<const float> values)>
      on_hidden;

  void add(Request request);
  /// One step; appends what ended. Errors: the engine's, a token's, OutOfBlocks (a sequence
  /// that never fits).
  Result<void> step(std::vector<OfflineAnswer>& ended);

  bool has_work() const { return planner_.has_work(); }
  int32_t sequences() const { return planner_.running_sequences() + planner_.waiting_sequences(); }

 private:
  void build_input(const BatchPlan& plan);
  bool wants_hidden(const PlannedChunk& chunk) const;
  Result<void> take_tokens(const BatchPlan& plan, const parallel::StepOutcome& drawn,
                           std::vector<OfflineAnswer>& ended);

  parallel::Engine& engine_;
  const OfflineOptions options_;
  BatchPlanner planner_;
  std::vector<SequenceState> states_;  // by SequenceIndex
  std::vector<SequenceIndex> added_;
  parallel::StepInput input_;
  std::vector<parallel::SlotId> drawing_;
  HiddenRows hidden_;
};

}  // namespace tailor::worker
