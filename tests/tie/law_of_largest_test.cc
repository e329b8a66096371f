#include "tie/law_of_largest.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

namespace tailor::tie {
namespace {

/// By brute force: the survival function of the maximum on a fine grid.
Moments by_grid(const LawMath& math, const LengthLaw& law, uint32_t n, double xmax) {
  constexpr int kSteps = 50'000;
  const double low = std::log(1e-4), step = (std::log(xmax) - low) / kSteps;
  const auto survival = [&](double x) { return 1 - std::pow(1 - math.survival(law, x), n); };
  std::vector<double> x, integral;
  double sum = 1e-4;
  for (int i = 0; i <= kSteps; ++i) {
    x.push_back(std::exp(low + i * step));
    if (i > 0) sum += (x[i] - x[i - 1]) * (survival(x[i]) + survival(x[i - 1])) / 2;
    integral.push_back(sum);
  }
  Moments out;
  out.expected = sum;
  size_t at = 0;
  while (at < x.size() - 1 && survival(x[at]) > 0.1) ++at;
  out.var = x[at];
  out.cvar = std::min(xmax, x[at] + (sum - integral[at]) / 0.1);
  return out;
}

TEST(LawOfLargest, MatchesTheBruteForceIntegral) {
  const LawMath math;
  std::vector<double> bins(LengthLaw::kBins, 0.0);
  bins[3] = 0.5, bins[20] = 0.3, bins[31] = 0.2;
  std::vector<LengthLaw> laws = {log_t(5, 0.5),    log_t(0.5, 1.5),   log_t(7, 0.05),
                                 log_t(3, 2, 1.5), log_t(6, 0.3, 30), histogram(bins, 1, 2000)};
  for (const LengthLaw& law : laws)
    for (const uint32_t n : {2u, 5u, 64u})
      for (const double xmax : {16.0, 300.0, 4096.0}) {
        const Moments fast = moments_of_largest(math, law, n, xmax),
                      slow = by_grid(math, law, n, xmax);
        const std::string what = "mu " + std::to_string(law.mu) + " sigma " +
                                 std::to_string(law.sigma) + " n " + std::to_string(n) + " xmax " +
                                 std::to_string(xmax);
        EXPECT_NEAR(fast.expected / slow.expected, 1, 2e-3) << what;
        EXPECT_NEAR(fast.var / slow.var, 1, 2e-3) << what;
        EXPECT_NEAR(fast.cvar / slow.cvar, 1, 2e-3) << what;
      }
}

TEST(LawOfLargest, OneIsTheLawItselfAndMoreAreLonger) {
  const LawMath math;
  const LengthLaw law = log_t(5, 0.6);
  EXPECT_EQ(moments_of_largest(math, law, 1, 2048).expected, math.moments(law, 2048).expected);
  double before = 0;
  for (uint32_t n = 1; n <= 128; n *= 2) {
    const Moments m = moments_of_largest(math, law, n, 2048);
    EXPECT_GT(m.expected, before);
    EXPECT_LE(m.expected, m.cvar);
    EXPECT_LE(m.cvar, 2048);
    before = m.expected;
  }
}

}  // namespace
}  // namespace tailor::tie
