// Replays: laws that know the lengths order a burst as well as the oracle, laws that know nothing
// as fcfs; a ratio's error is that of its mean.
#include "bench/predictor_replay.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tie/law.h"

namespace tailor::bench {
namespace {

std::vector<predict::JudgedPrompt> prompts(bool known) {
  std::vector<predict::JudgedPrompt> out;
  for (int i = 0; i < 40; ++i) {
    const auto length = static_cast<uint32_t>(10 * std::pow(1.1, i));
    out.push_back(
        {known ? tie::log_t(std::log(length), 0.02) : tie::log_t(5, 1), 1024, {length}, {false}});
  }
  return out;
}

const std::vector<double>& of(const ReplayFigures& figures, const std::string& policy) {
  for (const auto& run : figures.runs)
    if (run.policy == policy) return run.seconds;
  ADD_FAILURE() << policy << " was not replayed";
  return figures.oracle;
}

TEST(PredictorReplay, KnowingPaysAndNotKnowingCostsNothing) {
  const ReplayOptions options{.requests = 600, .seeds = 2};
  const auto known = replay(prompts(true), options), blind = replay(prompts(false), options);
  ASSERT_TRUE(known.has_value() && blind.has_value());
  ASSERT_EQ(of(*known, "tie").size(), 2u);
  EXPECT_EQ(known->runs.front().policy, "fcfs") << "what the others are compared with";
  for (size_t s = 0; s < 2; ++s) {
    EXPECT_EQ(of(*known, "fcfs")[s], of(*blind, "fcfs")[s]);  // the same bursts
    EXPECT_EQ(known->oracle[s], blind->oracle[s]);
    EXPECT_NEAR(of(*known, "sept")[s], known->oracle[s], 0.02 * known->oracle[s]);
    EXPECT_LT(of(*known, "tie")[s], 0.5 * of(*known, "fcfs")[s]);
    EXPECT_NEAR(of(*blind, "tie")[s], of(*blind, "fcfs")[s], 0.02 * of(*blind, "fcfs")[s]);
  }
  EXPECT_FALSE(replay({}, options).has_value());
}

TEST(PredictorReplay, ARatioIsPairedBySeed) {
  const std::vector<double> a = {2, 6, 12}, b = {1, 2, 3};
  const Ratio ratio = mean_ratio(a, b);
  EXPECT_DOUBLE_EQ(ratio.value, 3);
  EXPECT_NEAR(ratio.error, 1 / std::sqrt(3.0), 1e-12);
  EXPECT_EQ(mean_ratio({}, b).value, 0);
}

}  // namespace
}  // namespace tailor::bench
