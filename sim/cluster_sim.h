// ClusterSim: a cluster in simulated time. Drives the very SchedulerCore and BatchPlanners that
// serve: what is queued, dispatched, admitted, chunked and preempted here is decided by them alone.
// Of its own it has an event heap and a model of how long a step takes. Deterministic: no random
// numbers.
//
// Left out so far: the hop between coordinator and replica, and faults.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/length_law.h"
#include "base/result.h"
#include "base/time.h"
#include "coordinator/scheduler_core.h"
#include "worker/batch_planner.h"

namespace tailor::sim {

/// Seconds of a step: linear in what is in it. The defaults are an 8B model on one large GPU.
struct StepTimes {
  double base_s = 8e-3;
  double sequence_s = 3e-5;       ///< per decoding sequence
  double context_token_s = 5e-8;  ///< per token that is attended to
  double prefill_token_s = 3.2e-5;
};

struct SimRequest {
  Duration arrival{};  ///< after the beginning
  uint32_t prompt_tokens = 1;
  uint32_t length = 1;      ///< of the answer, tokens; at most max_tokens
  uint32_t max_tokens = 1;  ///< what the scheduler is told
  LengthLaw law;            ///< what the predictor will say; kind none = nothing
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
  Duration first_token{}, finish{};  ///< after its arrival
};

struct SimResult {
  std::vector<SimOutcome> outcomes;  ///< in the order of the requests
  Duration makespan{};
  uint64_t steps = 0, preemptions = 0;

  /// (completion - arrival) / output tokens, seconds: mean over requests.
  double per_token_latency_s(std::span<const SimRequest> requests) const;
  double mean_latency_s() const;
};

/// Runs until every request has ended. `requests` by arrival. Errors: InvalidArgument (not in
/// order, a length above its limit), LimitExceeded (one was refused or failed: says why).
Result<SimResult> simulate(const SimOptions& options, std::span<const SimRequest> requests);

}  // namespace tailor::sim
