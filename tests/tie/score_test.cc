#include "tie/score.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace tailor::tie {
namespace {

TEST(Score, BetaFollowsTheQueueBetweenOneAndFiveTimesTheSlots) {
  EXPECT_DOUBLE_EQ(beta(0, 32), 0.1);
  EXPECT_DOUBLE_EQ(beta(32, 32), 0.1);
  EXPECT_DOUBLE_EQ(beta(80, 32), 0.25);
  EXPECT_DOUBLE_EQ(beta(160, 32), 0.5);
  EXPECT_DOUBLE_EQ(beta(1e6, 32), 0.5);
  EXPECT_DOUBLE_EQ(beta(3, 0), 0.5);
  EXPECT_DOUBLE_EQ(beta(0, 0), 0.1);
}

TEST(Score, IsExpectedPlusBetaTail) { EXPECT_DOUBLE_EQ(score({200, 300, 600}, 0.25), 350); }

TEST(Score, WaitingAnEFoldTakes285Seconds) {
  // The published decay, 0.9 per 30 s: a score e times larger is passed after 30 / ln(1 / 0.9) s.
  const double key = time_invariant_key(100, seconds(0), kTieTauSeconds);
  EXPECT_GT(time_invariant_key(100 / std::exp(1), seconds(285), kTieTauSeconds), key);
  EXPECT_LT(time_invariant_key(100 / std::exp(1), seconds(284), kTieTauSeconds), key);
  const double never = std::numeric_limits<double>::infinity();
  EXPECT_EQ(time_invariant_key(100, seconds(500), never), std::log(100));
  EXPECT_TRUE(std::isfinite(time_invariant_key(0, seconds(0), 30)));
}

TEST(BetaLevel, MovesInStepsThatAreHeldForASecond) {
  BetaLevel level;
  const Time start{};
  EXPECT_DOUBLE_EQ(level.update(start, 80, 32), 0.25);
  EXPECT_DOUBLE_EQ(level.update(start + milliseconds(999), 160, 32), 0.25);
  EXPECT_DOUBLE_EQ(level.update(start + seconds(1), 160, 32), 0.5);
  // A second of nothing but the same level does not have to pass again.
  EXPECT_DOUBLE_EQ(level.update(start + milliseconds(2500), 160, 32), 0.5);
  EXPECT_DOUBLE_EQ(level.update(start + milliseconds(2501), 37, 32), 0.125);
  EXPECT_DOUBLE_EQ(level.update(start + milliseconds(2502), 160, 32), 0.125);
  for (double waiting = 0; waiting < 200; ++waiting) {
    BetaLevel fresh;
    const double value = fresh.update(start, waiting, 32);
    EXPECT_NEAR(value, beta(waiting, 32), BetaLevel::kStep / 2 + 1e-12);
    EXPECT_NEAR(value / BetaLevel::kStep, std::round(value / BetaLevel::kStep), 1e-9);
  }
}

}  // namespace
}  // namespace tailor::tie
