// The simulated cluster against queueing theory, and the order of policies that know more.
#include "sim/cluster_sim.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>

#include "tie/law.h"

namespace tailor::sim {
namespace {

SimOptions options_for(const char* policy, int slots) {
  SimOptions o;
  o.core.policy = *coordinator::policy_named(policy);
  o.core.queue_limit = 1 << 20;
  o.core.ahead_requests = 0;
  o.planner = {.num_blocks = 20000, .slots = slots, .token_budget = 2048};
  return o;
}

/// Poisson arrivals of answers with log-normal lengths; the law is what is known of each.
std::vector<SimRequest> requests_of(int count, double per_s, double mu, double sigma,
                                    bool predicted, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::exponential_distribution<double> gap(per_s);
  std::lognormal_distribution<double> length(mu, sigma);
  std::vector<SimRequest> out;
  double at = 0;
  for (int i = 0; i < count; ++i) {
    SimRequest r;
    r.arrival = from_seconds(at += gap(random));
    r.max_tokens = 2048;
    r.length = static_cast<uint32_t>(std::clamp(std::round(length(random)), 1.0, 2048.0));
    if (predicted) r.law = tie::log_t(std::log(r.length), 0.02);
    out.push_back(r);
  }
  return out;
}

TEST(ClusterSim, OneSlotWaitsAsPollaczekAndKhinchineSay) {
  SimOptions o = options_for("fcfs", 1);
  o.times = {.base_s = 1e-3, .sequence_s = 0, .context_token_s = 0, .prefill_token_s = 0};
  const double per_s = 3;
  const auto requests = requests_of(40000, per_s, 5, 0.6, false, 3);
  const auto result = simulate(o, requests);
  ASSERT_TRUE(result.has_value()) << to_string(result.error());
  double service = 0, square = 0, waited = 0;
  for (size_t i = 0; i < requests.size(); ++i) {
    const double s = 1e-3 * requests[i].length;
    service += s;
    square += s * s;
    waited += to_seconds(result->outcomes[i].finish) - s;
  }
  const auto n = static_cast<double>(requests.size());
  const double load = per_s * service / n;
  EXPECT_GT(load, 0.4);
  const double theory = per_s * square / n / 2 / (1 - load);
  EXPECT_NEAR(waited / n, theory, 0.05 * theory);
}

TEST(ClusterSim, EveryRequestGetsItsTokensInTheTimeOfItsSteps) {
  SimOptions o = options_for("tie", 8);
  o.replicas = 2;
  o.planner.num_blocks = 160;  // sequences are pushed out and come back
  auto requests = requests_of(600, 40, 4.5, 0.8, true, 5);
  for (size_t i = 0; i < requests.size(); ++i) {
    requests[i].prompt_tokens = 1 + static_cast<uint32_t>(i * 37 % 300);
    requests[i].length = std::min(requests[i].length, 400u);
    if (i % 3 == 0) requests[i].law = {};
  }
  const auto result = simulate(o, requests);
  ASSERT_TRUE(result.has_value()) << to_string(result.error());
  EXPECT_GT(result->preemptions, 0u);
  for (size_t i = 0; i < requests.size(); ++i) {
    const double least = o.times.base_s * requests[i].length;
    EXPECT_GE(to_seconds(result->outcomes[i].finish), least);
    EXPECT_GE(result->outcomes[i].finish, result->outcomes[i].first_token);
    EXPECT_GT(result->outcomes[i].first_token, Duration{});
  }
  const auto again = simulate(o, requests);
  for (size_t i = 0; i < requests.size(); ++i)
    EXPECT_EQ(again->outcomes[i].finish, result->outcomes[i].finish);
}

TEST(ClusterSim, KnowledgePaysInABurstAndNotWithoutAQueue) {
  const auto latency = [](const char* policy, double per_s, bool predicted) {
    const auto requests = requests_of(1500, per_s, 5, 0.9, predicted, 7);
    const auto result = simulate(options_for(policy, 32), requests);
    EXPECT_TRUE(result.has_value());
    return result ? result->per_token_latency_s(requests) : 0;
  };
  const double fcfs = latency("fcfs", 60, false), oracle = latency("sept", 60, true),
               blind = latency("sept", 60, false), tie = latency("tie", 60, true);
  EXPECT_LT(oracle, 0.3 * fcfs);
  EXPECT_LT(tie, 0.3 * fcfs);
  EXPECT_NEAR(blind, fcfs, 0.02 * fcfs);  // one law for all is first come, first served
  EXPECT_NEAR(latency("sept", 5, true), latency("fcfs", 5, false), 0.03 * fcfs);
}

TEST(ClusterSim, AnOracleIsToldTheTruthAndHintsAreTheClients) {
  static constexpr coordinator::PolicyRow kRows[] = {
      {.name = "shortest-answer",
       .needs = {.truth = true},
       .waiting_key = [](const coordinator::WorkView& work,
                         const coordinator::PolicyParameters&) -> double { return work.truth; }},
      {.name = "shortest-hint",
       .needs = {.hint = true},
       .waiting_key = [](const coordinator::WorkView& work, const coordinator::PolicyParameters&)
           -> double { return work.hint + work.truth; }}};
  const uint32_t lengths[] = {50, 30, 10, 20}, hints[] = {5, 20, 30, 10};  // the first runs at once
  std::vector<SimRequest> requests(4);
  for (size_t i = 0; i < 4; ++i) {
    requests[i].max_tokens = 100;
    requests[i].length = lengths[i];
    requests[i].hint = hints[i];
  }
  const auto order = [&](const char* policy) {
    SimOptions o = options_for("fcfs", 1);
    o.policies = kRows;
    o.core.policy = *coordinator::policy_named(policy, kRows);
    const auto result = simulate(o, requests);
    EXPECT_TRUE(result.has_value());
    std::vector<size_t> by_finish = {0, 1, 2, 3};
    std::sort(by_finish.begin(), by_finish.end(), [&](size_t a, size_t b) {
      return result->outcomes[a].finish < result->outcomes[b].finish;
    });
    return by_finish;
  };
  EXPECT_EQ(order("shortest-answer"), (std::vector<size_t>{0, 2, 3, 1}));
  EXPECT_EQ(order("shortest-hint"), (std::vector<size_t>{0, 3, 1, 2})) << "nobody told the truth";
}

TEST(ClusterSim, APolicyOfOnesOwnOrdersTheSimulatedQueue) {
  static constexpr coordinator::PolicyRow kRows[] = {
      {.name = "shortest-prompt",
       .waiting_key = [](const coordinator::WorkView& work, const coordinator::PolicyParameters&)
           -> double { return work.prompt_tokens; }}};
  SimOptions o = options_for("fcfs", 1);
  o.policies = kRows;
  o.core.policy = *coordinator::policy_named("shortest-prompt", kRows);
  std::vector<SimRequest> requests(4);
  const uint32_t prompts[] = {50, 30, 10, 20};  // the first runs at once
  for (size_t i = 0; i < 4; ++i) requests[i].prompt_tokens = prompts[i];
  const auto result = simulate(o, requests);
  ASSERT_TRUE(result.has_value()) << to_string(result.error());
  const auto& out = result->outcomes;
  EXPECT_LT(out[0].finish, out[2].finish);
  EXPECT_LT(out[2].finish, out[3].finish);
  EXPECT_LT(out[3].finish, out[1].finish);
}

TEST(ClusterSim, RefusesWhatCannotBe) {
  SimRequest r;
  r.length = 5;
  r.max_tokens = 4;
  EXPECT_FALSE(simulate(options_for("fcfs", 1), std::vector{r}).has_value());
  SimOptions o = options_for("fcfs", 1);
  o.core.queue_limit = 1;
  const auto full = simulate(o, requests_of(50, 1e6, 5, 0.5, false, 1));
  ASSERT_FALSE(full.has_value());
  EXPECT_EQ(full.error().code, ErrorCode::kLimitExceeded);
  o = options_for("fcfs", 1);
  o.planner.num_blocks = 2;
  r.length = r.max_tokens = 40;
  const auto unfit = simulate(o, std::vector{r});
  ASSERT_FALSE(unfit.has_value());
  EXPECT_EQ(unfit.error().code, ErrorCode::kOutOfBlocks);
}

TEST(ClusterSim, AllSamplesOfARequestRunAndTheLastEndsIt) {
  SimRequest r;
  r.prompt_tokens = 20;
  r.max_tokens = 100;
  r.length = 5;
  r.more_lengths = {30, 2};
  const auto result = simulate(options_for("fcfs", 4), std::vector{r});
  ASSERT_TRUE(result.has_value()) << to_string(result.error());
  EXPECT_GE(to_seconds(result->outcomes[0].finish), 30 * StepTimes{}.base_s);
  EXPECT_LT(to_seconds(result->outcomes[0].first_token), 3 * StepTimes{}.base_s);
  EXPECT_EQ(result->steps, 31u);  // its samples wait a step for the prompt
  const std::vector requests = {r};
  const double finish = to_seconds(result->outcomes[0].finish);
  EXPECT_DOUBLE_EQ(result->per_token_latency_s(requests), finish / 30) << "of the longest";
}

}  // namespace
}  // namespace tailor::sim
