// ClusterSim: a cluster in simulated time. Drives the very SchedulerCore and ReplicaCores that
// serve: what is queued, dispatched, admitted, chunked, preempted and reported here is decided by
// them alone, in the messages that they exchange elsewhere. Of its own it has an event heap and a
// model of how long a step takes (sim/sim_replica.h). Deterministic: no random numbers.
//
// Left out so far: the hop between coordinator and replica, and faults.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "base/length_law.h"
#include "base/result.h"
#include "base/time.h"
#include "coordinator/scheduler_core.h"
#include "sim/sim_replica.h"

namespace tailor::sim {

struct SimRequest {
  Duration arrival{};  ///< after the beginning
  uint32_t prompt_tokens = 1;
  uint32_t length = 1;      ///< of the answer, tokens; at most max_tokens
  uint32_t max_tokens = 1;  ///< what the scheduler is told
  LengthLaw law;            ///< what the predictor will say; kind none = nothing
  uint32_t hint = 0;        ///< what its client expects; 0 = nothing
  /// Of the samples beside the first: there are as many more.
  std::vector<uint32_t> more_lengths;

  uint32_t samples() const { return 1 + static_cast<uint32_t>(more_lengths.size()); }
  uint32_t longest() const {
    uint32_t longest = length;
    for (const uint32_t more : more_lengths) longest = std::max(longest, more);
    return longest;
  }
};

struct SimOptions {
  coordinator::CoreOptions core;
  coordinator::PolicyTable policies = coordinator::policies();  ///< where core.policy is a row
  worker::PlannerOptions planner;
  StepTimes times;
  uint32_t replicas = 1;
  Duration prediction_delay = milliseconds(10);  ///< after arrival
};

struct SimOutcome {
  /// After its arrival; of n samples the first token of any, and the end of the last.
  Duration first_token{}, finish{};
};

struct SimResult {
  std::vector<SimOutcome> outcomes;  ///< in the order of the requests
  uint64_t steps = 0, preemptions = 0;

  /// (completion - arrival) / output tokens, seconds: mean over requests. Of n samples, which run
  /// beside each other: the end of the last, over the tokens of the longest.
  double per_token_latency_s(std::span<const SimRequest> requests) const;
};

/// Runs until every request has ended. `requests` by arrival. Errors: InvalidArgument (not in
/// order, a length above its limit), LimitExceeded (one was refused: says why), OutOfBlocks and
/// others (one failed).
Result<SimResult> simulate(const SimOptions& options, std::span<const SimRequest> requests);

}  // namespace tailor::sim
