#include "sim/sim_replica.h"

#include <limits>
#include <memory>
#include <utility>

namespace tailor::sim {

DispatchPayload lengths_only(const Dispatch& dispatch, std::span<const uint32_t> generated,
                             std::span<const uint32_t> lengths) {
  auto request = std::make_shared<Request>();
  request->sampling.n = static_cast<int32_t>(dispatch.samples);
  request->sampling.max_tokens = static_cast<int32_t>(dispatch.max_tokens);
  DispatchPayload payload{std::move(request), {}};
  for (size_t s = 0; s < generated.size(); ++s) {
    payload.generated.emplace_back(generated[s], kToken);
    if (generated[s] == lengths[s]) payload.generated.back().back() = kEnd;
  }
  return payload;
}

SimReplica::SimReplica(ReplicaId replica, const worker::PlannerOptions& planner,
                       const StepTimes& times)
    : times_(times),
      core_({.replica = replica,
             .planner = planner,
             .limits = {.eos_tokens = {kEnd}, .max_context = std::numeric_limits<int32_t>::max()},
             .vocab_size = 2,
             .token_ids = false}) {
  tokens_.reserve(static_cast<size_t>(planner.slots));
}

std::optional<Duration> SimReplica::begin() {
  if (step_ != nullptr) return std::nullopt;
  step_ = core_.begin();
  if (step_ != nullptr) return takes_ = time_of(*step_);
  if (core_.unreported()) return Duration{};
  return std::nullopt;
}

Duration SimReplica::time_of(const worker::Step& step) const {
  int64_t context = 0;
  for (const worker::PlannedChunk& chunk : step.chunks)
    context += chunk.first_position + chunk.num_tokens;
  return from_seconds(times_.base_s + times_.sequence_s * step.decode_tokens +
                      times_.context_token_s * static_cast<double>(context) +
                      times_.prefill_token_s * step.prefill_tokens);
}

}  // namespace tailor::sim
