// PlanChannel: the leader's plan to its followers, by broadcast over the replica's control
// collective. One message of fixed size per step (small plans fit into it), a second one where a
// plan is longer. Owner: the rank's main thread.
#pragma once

#include <cstdint>
#include <vector>

#include "base/result.h"
#include "comm/collective.h"
#include "parallel/step_input.h"

namespace tailor::worker {

enum class PlanKind : uint32_t {
  kStep = 1,      ///< run this input
  kSleep = 2,     ///< nothing to do: wait for the doorbell
  kShutdown = 3,  ///< leave, with this exit code
  kCollect = 4,   ///< collect a step: the leader does, and submits no other before
  kAgree = 5,     ///< no step, but moves are open: say how they went (worker/move_runner.h)
  kLast = kAgree
};

struct Plan {
  PlanKind kind = PlanKind::kSleep;
  int32_t exit_code = 0;
};

class PlanChannel {
 public:
  /// `collective` null or of size 1: a replica of one rank, send() does nothing. `ahead`: a row may
  /// stand for a token of the step before (parallel/engine.h).
  PlanChannel(comm::Collective* collective, bool ahead);

  bool has_followers() const { return collective_ != nullptr && collective_->size() > 1; }

  /// Leader. `input` is read for kStep only. Errors: those of the collective.
  Result<void> send(const Plan& plan, const parallel::StepInput& input);
  /// Follower: waits for the leader's next plan; `input` is written for kStep only, and holds the
  /// step before until then.
  /// Errors: those of the collective, Protocol (the leader speaks another version).
  Result<Plan> receive(parallel::StepInput& input);

 private:
  comm::Collective* const collective_;
  const bool ahead_;
  std::vector<std::byte> encoded_;
  std::vector<std::byte> message_;  // the fixed-size message, then the rest
};

}  // namespace tailor::worker
