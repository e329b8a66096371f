#include "predict/evaluation.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "tie/fit.h"

namespace tailor::predict {
namespace {

double brute_tau(const std::vector<double>& x, const std::vector<double>& y) {
  double concordant = 0, x_pairs = 0, y_pairs = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    for (size_t j = 0; j < i; ++j) {
      const double a = (x[i] > x[j]) - (x[i] < x[j]), b = (y[i] > y[j]) - (y[i] < y[j]);
      concordant += a * b;
      x_pairs += a != 0;
      y_pairs += b != 0;
    }
  }
  return concordant / std::sqrt(x_pairs * y_pairs);
}

TEST(KendallTau, EqualsTheCountOverAllPairsWithManyTies) {
  std::mt19937 rng(3);
  for (int round = 0; round < 50; ++round) {
    std::vector<double> x, y;
    for (int i = 0; i < 60; ++i) {
      x.push_back(static_cast<double>(rng() % 12));
      y.push_back(static_cast<double>((rng() % 9) + (round % 2 ? 0 : x.back())));
    }
    EXPECT_NEAR(kendall_tau(x, y), brute_tau(x, y), 1e-12);
  }
  EXPECT_EQ(kendall_tau(std::vector<double>{1, 2, 3}, std::vector<double>{4, 4, 4}), 0);
  EXPECT_EQ(kendall_tau(std::vector<double>{1, 2, 3}, std::vector<double>{4, 5, 6}), 1);
  EXPECT_EQ(kendall_tau(std::vector<double>{1, 2, 3}, std::vector<double>{6, 5, 4}), -1);
}

TEST(Crps, EqualsBruteForceIntegration) {
  const tie::LawMath math;
  std::vector<double> bins(LengthLaw::kBins, 1);
  bins[20] = 30;
  for (const LengthLaw& law :
       {tie::log_t(4, 0.6), tie::log_t(5, 1.4), tie::histogram(bins, 1, 1024)}) {
    for (const double length : {3.0, 60.0, 1024.0}) {
      double sum = 0;
      for (double x = 0.005; x < 1024; x += 0.01) {
        const double error = 1 - math.survival(law, x) - (x >= length ? 1 : 0);
        sum += error * error * 0.01;
      }
      EXPECT_NEAR(crps(math, law, length, 1024), sum, 2e-3 * sum + 1e-3);
    }
  }
}

// Prompts whose answers really follow the laws that are judged, cut at the limit.
std::vector<JudgedPrompt> honest_world(const tie::LawMath& math, size_t prompts,
                                       double said_sigma) {
  tie::UniformStream random(7);
  std::vector<JudgedPrompt> out;
  for (size_t i = 0; i < prompts; ++i) {
    const double mu = 3 + 3 * random(), sigma = 0.2 + 0.8 * random();
    JudgedPrompt& prompt = out.emplace_back();
    prompt.law = tie::log_t(mu, sigma * said_sigma);
    prompt.limit = 1024;
    for (int s = 0; s < 8; ++s) {
      const double x = math.quantile(tie::log_t(mu, sigma), random());
      prompt.censored.push_back(x >= 1024);
      prompt.lengths.push_back(static_cast<uint32_t>(std::clamp(std::round(x), 1.0, 1024.0)));
    }
  }
  return out;
}

bool holds(const Bootstrap& figure, double truth) {
  const Interval interval = figure.interval();
  return interval.low <= truth && truth <= interval.high;
}

TEST(Evaluation, AnHonestPredictorIsFoundHonest) {
  const tie::LawMath math;
  const auto world = honest_world(math, 600, 1);
  const Evaluation seen = evaluate(world, math, {.resamples = 300});
  EXPECT_EQ(seen.answers, 4800u);
  EXPECT_GT(seen.cut, 100u);
  EXPECT_NEAR(seen.coverage[0].value, 0.5, 0.02);
  EXPECT_TRUE(holds(seen.coverage[1], 0.9)) << seen.coverage[1].value;
  EXPECT_NEAR(seen.coverage[2].value, 0.99, 0.005);
  EXPECT_NEAR(seen.spread_slope.value, 1, 0.1);
  EXPECT_NEAR(seen.inverse_ratio.value, 1, 0.05);
  EXPECT_GT(seen.r2_mean_log.value, 0.85);
  EXPECT_GT(seen.corr_sigma.value, 0.5);
  for (const double share : seen.pit) EXPECT_NEAR(share, 1.0 / kPitBins, 0.015);
}

TEST(Evaluation, AnOverconfidentPredictorIsFoundOut) {
  const tie::LawMath math;
  const Evaluation honest = evaluate(honest_world(math, 400, 1), math, {.resamples = 200});
  const Evaluation narrow = evaluate(honest_world(math, 400, 0.5), math, {.resamples = 200});
  EXPECT_LT(narrow.coverage[1].interval().high, 0.88);
  EXPECT_GT(narrow.spread_slope.value, 1.5);
  EXPECT_GT(narrow.pit.front() + narrow.pit.back(), 0.15);
  EXPECT_LT(paired_difference(narrow.log_likelihood, honest.log_likelihood).high, 0);
  EXPECT_GT(paired_difference(narrow.crps, honest.crps).low, 0);
}

TEST(Evaluation, ThePairedIntervalIsNarrowerThanTheDifferenceOfTwo) {
  const tie::LawMath math;
  const auto world = honest_world(math, 300, 1);
  std::vector<double> worse;
  tie::UniformStream random(5);
  for (const JudgedPrompt& prompt : world)
    worse.push_back(math.moments(prompt.law, prompt.limit).expected * std::exp(random()));
  const Evaluation good = evaluate(world, math, {.resamples = 200});
  const Evaluation bad = evaluate(world, math, {.resamples = 200}, worse);
  const Interval difference = paired_difference(good.tau, bad.tau);
  EXPECT_GT(difference.value, 0);
  EXPECT_LT(difference.high - difference.low, good.tau.interval().high - good.tau.interval().low);
}

}  // namespace
}  // namespace tailor::predict
