#include "bench/predictor_replay.h"

#include <algorithm>
#include <cmath>
#include <random>

#include "coordinator/ranking.h"
#include "sim/cluster_sim.h"
#include "tie/law.h"

namespace tailor::bench {
namespace {

/// Requests a second that one replica of `slots` can just take.
double capacity(const sim::StepTimes& t, const ReplayOptions& o, double mean_length) {
  const double context = o.slots * (o.prompt_tokens + mean_length / 2);
  const double step = t.base_s + t.sequence_s * o.slots + t.context_token_s * context;
  const double per_request = mean_length * step / o.slots + t.prefill_token_s * o.prompt_tokens;
  return 1 / per_request;
}

std::vector<ReplayFigures::Run> runs_of_policies() {
  const auto first = {coordinator::policy_without_laws(), coordinator::policy_with_laws()};
  std::vector<ReplayFigures::Run> runs;
  for (const auto& policy : first)
    runs.push_back({std::string(coordinator::row_of(policy).name), {}});
  for (const std::string& name : coordinator::served_policies())
    if (name != runs[0].policy && name != runs[1].policy) runs.push_back({name, {}});
  return runs;
}

}  // namespace

Result<ReplayFigures> replay(std::span<const predict::JudgedPrompt> prompts,
                             const ReplayOptions& o) {
  if (prompts.empty()) return fail(ErrorCode::kInvalidArgument, "a replay needs prompts");
  double sum = 0, answers = 0;
  for (const auto& prompt : prompts)
    for (const uint32_t length : prompt.lengths) sum += length, ++answers;
  sim::SimOptions options;
  options.core.queue_limit = static_cast<uint32_t>(o.requests);
  options.core.ahead_requests = 0;
  options.planner = {.num_blocks = 26875, .slots = o.slots, .token_budget = 2048};
  const double rate = o.load * capacity(options.times, o, sum / answers);

  ReplayFigures out;
  out.runs = runs_of_policies();
  for (int seed = 1; seed <= o.seeds; ++seed) {
    std::mt19937_64 random(static_cast<uint64_t>(seed));
    std::exponential_distribution<double> gap(rate);
    std::vector<sim::SimRequest> requests;
    std::vector<LengthLaw> predicted;
    double at = 0;
    for (int i = 0; i < o.requests; ++i) {
      const auto& prompt = prompts[random() % prompts.size()];
      sim::SimRequest r;
      r.arrival = from_seconds(at += gap(random));
      r.prompt_tokens = o.prompt_tokens;
      r.max_tokens = static_cast<uint32_t>(prompt.limit);
      r.length = std::clamp(prompt.lengths[random() % prompt.lengths.size()], 1u, r.max_tokens);
      requests.push_back(r);
      predicted.push_back(prompt.law);
    }
    const auto run = [&](const coordinator::Policy& policy, bool oracle,
                         std::vector<double>& to) -> Result<void> {
      options.core.policy = policy;
      for (size_t i = 0; i < requests.size(); ++i)
        requests[i].law = oracle ? tie::log_t(std::log(requests[i].length), 0.01) : predicted[i];
      TAILOR_ASSIGN(const sim::SimResult result, sim::simulate(options, requests));
      to.push_back(result.per_token_latency_s(requests));
      return {};
    };
    for (ReplayFigures::Run& each : out.runs) {
      TAILOR_ASSIGN(const coordinator::Policy policy, coordinator::policy_named(each.policy));
      TAILOR_TRY(run(policy, false, each.seconds));
    }
    TAILOR_TRY(run(coordinator::policy_by_expected_work(), true, out.oracle));
  }
  return out;
}

Ratio mean_ratio(std::span<const double> a, std::span<const double> b) {
  Ratio out;
  const double n = static_cast<double>(std::min(a.size(), b.size()));
  if (n == 0) return out;
  double square = 0;
  for (size_t i = 0; i < a.size() && i < b.size(); ++i) {
    const double ratio = a[i] / b[i];
    out.value += ratio / n;
    square += ratio * ratio / n;
  }
  if (n > 1) out.error = std::sqrt(std::max(0.0, square - out.value * out.value) / (n - 1));
  return out;
}

}  // namespace tailor::bench
