// SimReplica: a replica in simulated time: the very ReplicaCore that serves, driven by a model of
// how long a step takes and by the length of every answer. No bookkeeping of its own; tokens are
// dummies, the last of an answer is an end token.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "base/messages.h"
#include "base/time.h"
#include "worker/replica_core.h"

namespace tailor::sim {

/// Seconds of a step: linear in what is in it. The defaults are an 8B model on one large GPU.
struct StepTimes {
  double base_s = 8e-3;
  double sequence_s = 3e-5;       ///< per decoding sequence
  double context_token_s = 5e-8;  ///< per token that is attended to
  double prefill_token_s = 3.2e-5;
};

/// Dummy tokens: the last of an answer, and any other.
inline constexpr TokenId kEnd = 0, kToken = 1;

/// What stands for a prompt and ids: the answers' lengths, and how much of each is generated.
DispatchPayload lengths_only(const Dispatch& dispatch, std::span<const uint32_t> generated,
                             std::span<const uint32_t> lengths);

class SimReplica {
 public:
  SimReplica(ReplicaId replica, const worker::PlannerOptions& planner, const StepTimes& times);

  /// Beside a Dispatch its payload is lengths_only().
  void apply(const ToReplica& command, DispatchPayload payload = {}) {
    core_.apply(command, std::move(payload));
  }
  /// Begins a step; how long it takes. Nothing: none can run, or one is under way. Zero: no step,
  /// but end() has something to tell.
  std::optional<Duration> begin();
  /// What the step has done. `length_of(SequenceId)` tokens is an answer long. Valid until
  /// the next call.
  template <class LengthOf>
  worker::ReportDraft& end(const LengthOf& length_of) {
    if (step_ == nullptr) return core_.report();
    tokens_.assign(step_->draws.size(), kToken);
    for (size_t i = 0; i < tokens_.size(); ++i) {
      const worker::Step::Row& row = step_->draws[i];
      if (row.generated + 1 == length_of(core_.sequence(row.sequence).id)) *tokens_[i] = kEnd;
    }
    step_ = nullptr;
    worker::ReportDraft& draft = core_.end({.tokens = tokens_});
    draft.report.step_time = draft.report.forward_time = takes_;
    return draft;
  }

  /// What it says beside its steps: worker::ReplicaCore::take_words().
  std::vector<FromReplica> take_words() { return core_.take_words(); }

  const worker::ReplicaCore& core() const { return core_; }

 private:
  Duration time_of(const worker::Step& step) const;

  const StepTimes times_;
  worker::ReplicaCore core_;
  const worker::Step* step_ = nullptr;  // under way
  Duration takes_{};
  std::vector<Result<TokenId>> tokens_;
};

}  // namespace tailor::sim
