#include "tie/rank_table.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

namespace tailor::tie {
namespace {

using Kind = RankOptions::Kind;

RankTable table(const LawMath& math, const LengthLaw& law, double xmax,
                const RankOptions& options) {
  return RankTable(math, law, LawGrid(math, law, xmax), options);
}

std::vector<LengthLaw> laws() {
  std::vector<double> p(LengthLaw::kBins);
  for (size_t i = 0; i < p.size(); ++i) p[i] = i < 6 ? 0 : 1.0 + static_cast<double>(i * 7 % 5);
  return {log_t(5, 0.5), log_t(5, 0.08), log_t(3, 1.5), log_t(6, 1, 8), histogram(p, 1, 3000)};
}

/// The definition of the index at any age, by thin slices of the law and every stop on a fine grid.
class BruteForce {
 public:
  BruteForce(const LawMath& math, const LengthLaw& law, double age, double xmax, double kappa,
             double ahead)
      : best(std::numeric_limits<double>::infinity()) {
    constexpr int kSlices = 20000;
    const double ratio = std::pow(xmax / std::max(age, 0.01), 1.0 / kSlices);
    double x = std::max(age, 0.01), s = math.survival(law, x);
    double area = x - age, done = (math.survival(law, age) - s) * (1 + kappa);
    for (int i = 1; i <= kSlices; ++i) {
      const double next = i == kSlices ? xmax : x * ratio, s_next = math.survival(law, next);
      area += 0.5 * (s + s_next) * (next - x);
      done += (s - s_next) * (1 + kappa / std::max(1.0, 0.5 * (x + next)));
      x = next;
      s = s_next;
      if (i == kSlices) done += s * (1 + kappa / xmax);
      to_the_end = area / done;
      if (x >= age + ahead || i == kSlices) best = std::min(best, to_the_end);
    }
  }
  double best, to_the_end = 0;
};

TEST(RankTable, GittinsAndHEqualTheirDefinition) {
  const LawMath math;
  for (const LengthLaw& law : laws())
    for (const double kappa : {0.0, 20.0, 200.0})
      for (const double xmax : {300.0, 2048.0}) {
        const LawGrid grid(math, law, xmax);
        const RankTable gittins(grid, {.kind = Kind::kGittins, .kappa = kappa});
        const RankTable h(grid, {.kind = Kind::kH, .kappa = kappa});
        for (const int k : {0, 10, 30, 40, 50, 58}) {  // at the grid's own ages
          const double age = grid.age[k];
          const BruteForce brute(math, law, age, xmax, kappa, 16);
          EXPECT_NEAR(h.rank(age) / brute.to_the_end, 1, 1e-2) << law.mu << " age " << age;
          // The table's stops are fewer (one every 7 to 14 % of the age): larger near a cliff of
          // the law, and never smaller but for the sums.
          EXPECT_GT(gittins.rank(age) / brute.best, 1 - 1e-2)
              << law.mu << " " << law.sigma << " age " << age << " kappa " << kappa;
          EXPECT_LT(gittins.rank(age) / brute.best, 1.2)
              << law.mu << " " << law.sigma << " age " << age << " kappa " << kappa;
        }
      }
}

TEST(RankTable, GittinsEqualsTheMinimumOverTheGridsStops) {
  const LawMath math;
  for (const LengthLaw& law : laws()) {
    const LawGrid grid(math, law, 2048);
    const RankTable gittins(grid, {.kappa = 20});
    for (int j = 0; j < LawGrid::kSteps; ++j) {
      double best = std::numeric_limits<double>::infinity();
      for (int k = j + 1; k <= LawGrid::kSteps; ++k) {
        if (k < LawGrid::kSteps && grid.age[k] < grid.age[j] + 16) continue;
        const double done =
            grid.survival[j] - grid.survival[k] + 20 * (grid.inverse[j] - grid.inverse[k]);
        if (done > 0)
          best = std::min(best, math.survival_integral(law, grid.age[j], grid.age[k]) / done);
      }
      EXPECT_NEAR(gittins.rank(grid.age[j]) / best, 1, 1e-4) << j;
    }
  }
}

TEST(RankTable, ConditionalTieIsTheScoreOfWhatRemains) {
  const LawMath math;
  for (const LengthLaw& law : laws())
    for (const double beta : {0.1, 0.5}) {
      const LawGrid grid(math, law, 2048);
      const RankTable tie(math, law, grid, {.kind = Kind::kConditionalTie, .beta = beta});
      for (int k = 0; k < LawGrid::kSteps; ++k) {
        const Moments m = math.moments(law, 2048, grid.age[k]);
        EXPECT_NEAR(tie.rank(grid.age[k]) / (m.expected + beta * m.cvar), 1, 1e-3)
            << law.mu << " " << law.sigma << " age " << grid.age[k];
      }
      EXPECT_NEAR(tie.rank(100.5) / (math.moments(law, 2048, 100.5).expected +
                                     beta * math.moments(law, 2048, 100.5).cvar),
                  1, 0.12);
    }
}

/// An exponential law: the chance to end does not depend on the age.
LawGrid memoryless(double mean, double xmax) {
  const LawMath math;
  LawGrid grid(math, log_t(5, 0.5), xmax);  // for its ages
  for (int k = 0; k <= LawGrid::kSteps; ++k) {
    grid.survival[k] = k == LawGrid::kSteps ? 0 : std::exp(-grid.age[k] / mean);
    grid.area[k] = mean * (std::exp(-grid.age[k] / mean) - std::exp(-xmax / mean));
  }
  grid.sum_inverse(std::exp(-xmax / mean));
  return grid;
}

TEST(RankTable, AMemorylessLawHasAFlatGittinsRank) {
  const LawGrid grid = memoryless(200, 20000);
  const RankTable gittins(grid, {.kappa = 0});
  for (const double age : {0.0, 1.0, 20.0, 300.0, 1000.0, 3000.0})
    EXPECT_NEAR(gittins.rank(age), 200, 0.5) << age;
  // An answer that is long already pays less per token of delay: its rank grows towards the mean.
  const RankTable per_token(grid, {.kappa = 20});
  double before = 0;
  for (const double age : {0.0, 20.0, 300.0, 1000.0, 3000.0}) {
    EXPECT_GT(per_token.rank(age), before) << age;
    EXPECT_LT(per_token.rank(age), 200.5);
    before = per_token.rank(age);
  }
}

TEST(RankTable, ASureLengthRanksByWhatRemains) {
  const LawMath math(30);
  const LengthLaw law = log_t(std::log(400), 0.002, 30);
  for (const Kind kind : {Kind::kGittins, Kind::kH}) {
    const RankTable sure = table(math, law, 2048, {.kind = kind, .kappa = 0});
    for (const double age : {0.0, 50.0, 100.0, 200.0, 300.0})
      EXPECT_NEAR(sure.rank(age), 400 - age, 4) << age;
  }
}

TEST(RankTable, AHeavyTailRisesOnceTheBodyIsPassed) {
  const LawMath math;
  const RankTable gittins = table(math, log_t(4, 0.3), 8192, {.kappa = 0});
  EXPECT_LT(gittins.rank(40), gittins.rank(0));
  EXPECT_GT(gittins.rank(200), 2 * gittins.rank(40));
  EXPECT_GT(gittins.rank(800), 2 * gittins.rank(200));
}

TEST(RankTable, GittinsNeverExceedsHNorGrowsWithKappa) {
  const LawMath math;
  for (const LengthLaw& law : laws()) {
    const LawGrid grid(math, law, 2048);
    const RankTable g0(grid, {.kappa = 0}), g20(grid, {.kappa = 20});
    const RankTable h20(grid, {.kind = Kind::kH, .kappa = 20});
    for (double age = 0; age < 2048; age += 9) {
      EXPECT_LE(g20.rank(age), h20.rank(age) * (1 + 1e-6)) << age;
      EXPECT_LE(g20.rank(age), g0.rank(age) * (1 + 1e-6)) << age;
    }
  }
}

TEST(RankTable, AStopMustLieAQuantumAhead) {
  // Three in a hundred answers end at once, the others at 500: without the floor the index would
  // start everybody to try for the three.
  std::vector<double> p(LengthLaw::kBins, 0);
  p[0] = 0.03;
  p[29] = 0.97;
  const LawMath math;
  const LengthLaw law = histogram(p, 1, 1000);
  const RankTable eager = table(math, law, 2048, {.kappa = 0, .stop_ahead = 0});
  const RankTable floored = table(math, law, 2048, {.kappa = 0});
  EXPECT_LT(eager.rank(0), 50);
  EXPECT_GT(floored.rank(0), 300);
}

TEST(RankTable, AnyAgeAndLimitGivesAFiniteRank) {
  const LawMath math;
  std::vector<double> p(LengthLaw::kBins, 1);
  for (const LengthLaw& law : {log_t(5, 0.5), log_t(0, 1e-9), LengthLaw{}, histogram(p, 1, 50)})
    for (const double xmax : {0.0, 1.0, 17.0, 131072.0})
      for (const Kind kind : {Kind::kGittins, Kind::kH, Kind::kConditionalTie, Kind::kMlfq}) {
        const RankTable any = table(math, law, xmax, {.kind = kind});
        for (const double age : {-1.0, 0.0, 0.4, 16.0, 60.0, 5000.0, 1e9}) {
          EXPECT_TRUE(std::isfinite(any.rank(age))) << xmax << " " << age;
          EXPECT_GE(any.rank(age), RankTable::kLeast);
        }
      }
}

TEST(Mlfq, SinksAQueueAfterEachUsedQuantum) {
  EXPECT_EQ(mlfq_rank(0, 16, 0), 16);
  EXPECT_EQ(mlfq_rank(15, 16, 0), 16);
  EXPECT_EQ(mlfq_rank(16, 16, 0), 32);
  EXPECT_EQ(mlfq_rank(47, 16, 0), 32);
  EXPECT_EQ(mlfq_rank(48, 16, 0), 64);
  EXPECT_EQ(mlfq_rank(0, 16, 3), 128);
  EXPECT_EQ(mlfq_rank(128, 16, 3), 256);
  EXPECT_EQ(mlfq_first_queue(0, 16), 0);
  EXPECT_EQ(mlfq_first_queue(16, 16), 0);
  EXPECT_EQ(mlfq_first_queue(17, 16), 1);
  EXPECT_EQ(mlfq_first_queue(1000, 16), 6);
  const LawMath math;
  const RankTable mlfq = table(math, LengthLaw{}, 2048, {.kind = Kind::kMlfq, .first_queue = 1});
  EXPECT_EQ(mlfq.rank(31), 32);
  EXPECT_EQ(mlfq.rank(32), 64);
}

}  // namespace
}  // namespace tailor::tie
