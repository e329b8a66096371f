// OfflineRun: a replica without a cluster: requests in, answers (and hidden states) out. What
// `tailor collect` drives: a driver of the same ReplicaCore, engine and AnswerText as LeaderLoop,
// so that an answer here is the answer a replica would give. Owner: the calling thread.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "parallel/engine.h"
#include "text/tokenizer.h"
#include "worker/answer_text.h"
#include "worker/engine_step.h"
#include "worker/replica_core.h"

namespace tailor::worker {

struct OfflineOptions {
  PlannerOptions planner;
  SequenceLimits limits;
  std::vector<int32_t> layers;  ///< hidden states wanted after these; empty = none
  uint32_t tap_every = 32;      ///< of generated tokens; the last prompt token always
  std::shared_ptr<const text::Tokenizer> tokenizer;  ///< null: stop strings are not looked for
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
  /// One step; appends what ended. Errors: the engine's, the sampler's, those of a request that is
  /// refused, OutOfBlocks (a sequence that never fits).
  Result<void> step(std::vector<OfflineAnswer>& ended);

  bool has_work() const { return core_.has_work() || core_.unreported(); }
  int32_t sequences() const {
    return core_.planner().running_sequences() + core_.planner().waiting_sequences();
  }

 private:
  Result<ReportDraft*> compute(const Step& step);
  Result<void> take(const ReportDraft& draft, std::vector<OfflineAnswer>& ended);

  parallel::Engine& engine_;
  ReplicaCore core_;
  EngineStep engine_step_;
  AnswerText texts_;
  std::map<SequenceId, OfflineAnswer> open_;
  std::vector<parallel::SlotId> scratch_;
};

}  // namespace tailor::worker
