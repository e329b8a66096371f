// Replays: laws that know the lengths order a burst as well as the oracle, laws that know nothing
// as fcfs; a ratio's error is that of its mean.
#include "bench/predictor_replay.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tie/law.h"

namespace tailor::bench {
namespace {

std::vector<tie::JudgedPrompt> prompts(bool known) {
  std::vector<tie::JudgedPrompt> out;
  for (int i = 0; i < 40; ++i) {
    const auto length = static_cast<uint32_t>(10 * std::pow(1.1, i));
    out.push_back(
        {known ? tie::log_t(std::log(length), 0.02) : tie::log_t(5, 1), 1024, {length}, {false}});
  }
  return out;
}

TEST(PredictorReplay, KnowingPaysAndNotKnowingCostsNothing) {
  const ReplayOptions options{.requests = 600, .seeds = 2};
  const auto known = replay(prompts(true), options), blind = replay(prompts(false), options);
  ASSERT_TRUE(known.has_value() && blind.has_value());
  ASSERT_EQ(known->tie.size(), 2u);
  for (size_t s = 0; s < 2; ++s) {
    EXPECT_EQ(known->fcfs[s], blind->fcfs[s]);  // the same bursts
    EXPECT_EQ(known->oracle[s], blind->oracle[s]);
    EXPECT_NEAR(known->sept[s], known->oracle[s], 0.02 * known->oracle[s]);
    EXPECT_LT(known->tie[s], 0.5 * known->fcfs[s]);
    EXPECT_NEAR(blind->tie[s], blind->fcfs[s], 0.02 * blind->fcfs[s]);
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
