// Fits against scipy's (tools/make_fit_fixtures.py), against the truth on simulated lengths, and on
// samples that have no honest fit.
#include "tie/fit.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

#include "tie/kolmogorov.h"

namespace tailor::tie {
namespace {

const nlohmann::json& fixture() {
  static const nlohmann::json json =
      nlohmann::json::parse(std::ifstream(TAILOR_SOURCE_DIR "/tests/fixtures/tie/fits.json"));
  return json;
}

Family family_of(const std::string& key) {
  for (Family family : kFamilies) {
    if (key == key_of(family)) return family;
  }
  ADD_FAILURE() << "unknown family " << key;
  return Family::kLogT;
}

std::vector<LengthSample> samples_of(const nlohmann::json& row) {
  std::vector<LengthSample> samples;
  for (size_t i = 0; i < row["lengths"].size(); ++i) {
    samples.push_back({row["lengths"][i].get<double>(), row["censored"][i].get<bool>()});
  }
  return samples;
}

std::vector<LengthSample> drawn(const FittedLaw& law, int n, uint64_t seed, double limit = 1e300) {
  UniformStream random(seed);
  std::vector<LengthSample> samples;
  for (int i = 0; i < n; ++i) {
    const double x = law.quantile(random());
    samples.push_back({std::min(x, limit), x > limit});
  }
  return samples;
}

TEST(FittedLaw, EqualsScipy) {
  ASSERT_GE(fixture()["laws"].size(), 20u);
  for (const auto& row : fixture()["laws"]) {
    const FittedLaw law{family_of(row["family"]), row["mu"], row["sigma"], row["nu"]};
    for (size_t i = 0; i < row["x"].size(); ++i) {
      const double x = row["x"][i], f = row["cdf"][i];
      EXPECT_NEAR(law.log_density(x), row["log_density"][i].get<double>(), 1e-8) << row << x;
      EXPECT_NEAR(law.log_survival(x), row["log_survival"][i].get<double>(), 1e-8) << row << x;
      EXPECT_NEAR(law.cdf(x), f, 1e-10) << row << x;
      EXPECT_NEAR(law.quantile(f) / x, 1, 1e-8) << row << x;
    }
  }
}

TEST(FittedLaw, FarTailsStayFiniteAndDescend) {
  for (Family family : kFamilies) {
    const FittedLaw law{family, 5, 0.02, 3.5};
    double last = 0;
    for (double x : {160.0, 200.0, 400.0, 2000.0, 131072.0}) {
      const double now = law.log_survival(x);
      EXPECT_LT(now, last) << name_of(family) << " at " << x;
      EXPECT_TRUE(std::isfinite(now)) << name_of(family) << " at " << x;
      last = now;
    }
    EXPECT_EQ(law.log_density(0), -std::numeric_limits<double>::infinity());
    EXPECT_EQ(law.cdf(-1), 0);
  }
}

TEST(Fit, ReachesTheLikelihoodThatScipyFindsCensoredOrNot) {
  int censored = 0;
  for (const auto& row : fixture()["fits"]) {
    const auto samples = samples_of(row);
    for (const auto& [key, expected] : row["log_likelihood"].items()) {
      const auto ours = fit(family_of(key), samples);
      ASSERT_TRUE(ours) << ours.error().message;
      EXPECT_NEAR(ours->log_likelihood, expected.get<double>(), 2e-5)
          << key << " " << row["lengths"];
      censored += ours->censored > 0;
    }
  }
  EXPECT_GT(censored, 20);
}

// The estimate of n samples scatters by about sigma/sqrt(n): four of these are allowed.
TEST(Fit, RecoversWhatItWasDrawnFrom) {
  constexpr int kN = 4000;
  const double error = 4 / std::sqrt(kN);
  for (Family family : kFamilies) {
    for (double sigma : {0.05, 0.6, 1.5}) {
      const FittedLaw truth{family, 5, sigma, 3.5};
      const auto found = fit(family, drawn(truth, kN, 11));
      ASSERT_TRUE(found);
      EXPECT_NEAR(found->law.mu, truth.mu, 1.5 * sigma * error) << name_of(family) << " " << sigma;
      EXPECT_NEAR(found->law.sigma / sigma, 1, 1.5 * error) << name_of(family) << " " << sigma;
      if (family == Family::kLogTFree) {
        EXPECT_NEAR(found->law.nu, 3.5, 1);
      }
    }
  }
}

TEST(Fit, CensoredAnswersEnterByTheirSurvivalNotAsLengths) {
  for (Family family : kFamilies) {
    if (family == Family::kPareto) continue;  // its limit below would be another quantile
    const FittedLaw truth{family, 5, 0.6, 3.5};
    auto samples = drawn(truth, 4000, 12, truth.quantile(0.75));
    const auto honest = fit(family, samples);
    ASSERT_TRUE(honest);
    EXPECT_NEAR(honest->censored, 1000, 120);
    EXPECT_NEAR(honest->law.mu, 5, 0.06) << name_of(family);
    // nu and sigma trade places when the upper tail is hidden
    const double slack = family == Family::kLogTFree ? 0.2 : 0.1;
    EXPECT_NEAR(honest->law.sigma / 0.6, 1, slack) << name_of(family);
    for (LengthSample& s : samples) s.censored = false;
    const auto naive = fit(family, samples);
    ASSERT_TRUE(naive);
    EXPECT_LT(naive->law.quantile(0.95), 0.85 * honest->law.quantile(0.95)) << name_of(family);
    EXPECT_NEAR(honest->law.quantile(0.95) / truth.quantile(0.95), 1, 0.15) << name_of(family);
  }
}

TEST(Fit, AParetoTailIsRecoveredBelowACut) {
  const FittedLaw truth{Family::kPareto, 4, 0.5, 0};
  const auto found = fit(Family::kPareto, drawn(truth, 4000, 13, truth.quantile(0.6)));
  ASSERT_TRUE(found);
  EXPECT_NEAR(found->law.mu, 4, 0.01);
  EXPECT_NEAR(found->law.sigma, 0.5, 0.04);
}

TEST(Fit, EqualLengthsGiveTheFloorAndSaySo) {
  const std::vector<LengthSample> same(10, {240, false});
  for (Family family : kFamilies) {
    const auto found = fit(family, same);
    ASSERT_TRUE(found) << name_of(family);
    EXPECT_TRUE(found->at_floor) << name_of(family);
    EXPECT_EQ(found->law.sigma, kSigmaFloor) << name_of(family);
    EXPECT_NEAR(found->law.quantile(0.5), 240, 0.1) << name_of(family);
    EXPECT_TRUE(std::isfinite(found->log_likelihood)) << name_of(family);
  }
}

TEST(Fit, TiesTwoClustersAndExtremeSpreadsAreFinite) {
  const std::vector<std::vector<LengthSample>> hard = {
      {{5, false}, {5, false}, {5, false}, {5, false}, {1000, false}},
      {{1, false}, {15000, false}},
      {{100, false}, {100, true}},
      {{7, false}, {1024, true}, {1024, true}, {1024, true}},
      {{10, false}, {10, false}, {300, false}, {300, false}},
      {{1e-3, false}, {1e6, false}, {1, false}}};
  for (const auto& samples : hard) {
    for (Family family : kFamilies) {
      const auto found = fit(family, samples);
      ASSERT_TRUE(found);
      EXPECT_TRUE(std::isfinite(found->law.mu)) << name_of(family);
      EXPECT_GE(found->law.sigma, kSigmaFloor) << name_of(family);
      EXPECT_LE(found->law.sigma, kSigmaCeiling) << name_of(family);
      EXPECT_TRUE(std::isfinite(found->log_likelihood)) << name_of(family);
    }
  }
}

TEST(Fit, RefusesWhatHasNoFit) {
  EXPECT_FALSE(fit(Family::kLogT, std::vector<LengthSample>{{5, false}}));
  EXPECT_FALSE(fit(Family::kGamma, std::vector<LengthSample>{{5, false}, {0, false}}));
  EXPECT_FALSE(fit(Family::kLogT, std::vector<LengthSample>{{5, false}, {6, false}}, 0.5));
  const auto cut = fit(Family::kLogT, std::vector<LengthSample>{{9, true}, {9, true}, {9, true}});
  ASSERT_FALSE(cut);
  EXPECT_NE(cut.error().message.find("all 3"), std::string::npos) << cut.error().message;
}

TEST(Fit, ANuOfNeverLessLikelihoodThanTheFixedOne) {
  for (const auto& row : fixture()["fits"]) {
    const auto samples = samples_of(row);
    const double fitted = fit(Family::kLogTFree, samples)->log_likelihood;
    for (double nu : {1.0, 2.0, 3.5, 8.0, 100.0}) {
      EXPECT_GE(fitted, fit(Family::kLogT, samples, nu)->log_likelihood - 1e-4) << nu;
    }
  }
}

TEST(Jitter, MovesExactLengthsByHalfATokenTheSameEveryTime) {
  const std::vector<LengthSample> samples = {{1, false}, {10, false}, {1024, true}, {0, false}};
  UniformStream one(5), two(5);
  const auto a = jittered(samples, one), b = jittered(samples, two);
  for (size_t i = 0; i < samples.size(); ++i) EXPECT_EQ(a[i].tokens, b[i].tokens);
  EXPECT_NE(a[1].tokens, 10);
  EXPECT_NEAR(a[1].tokens, 10, 0.5);
  EXPECT_EQ(a[2].tokens, 1024);
  EXPECT_GE(a[3].tokens, 0.25);
}

// Critical values at 5 % from Miller (1956), as every table of the exact test has them.
TEST(Kolmogorov, ExactCriticalValues) {
  EXPECT_NEAR(kolmogorov_p_value(0.56328, 5), 0.05, 2e-5);
  EXPECT_NEAR(kolmogorov_p_value(0.40925, 10), 0.05, 2e-5);
  EXPECT_NEAR(kolmogorov_p_value(0.29408, 20), 0.05, 2e-5);
  EXPECT_NEAR(kolmogorov_p_value(0.13403, 100), 0.05, 2e-4);
  EXPECT_EQ(kolmogorov_p_value(0.01, 10), 1);
  EXPECT_EQ(kolmogorov_p_value(1, 10), 0);
}

TEST(Kolmogorov, TheDistanceStopsAtTheCensoringLimit) {
  const FittedLaw law{Family::kPareto, 0, 1, 0};  // F(x) = 1 - 1/x from 1 on
  const std::vector<LengthSample> all = {{1.25, false}, {2, false}, {5, false}, {20, false}};
  EXPECT_NEAR(kolmogorov_distance(law, all), 0.3, 1e-12);  // F(5) = .8 against 2/4
  const std::vector<LengthSample> cut = {{1.25, false}, {2, false}, {4, true}, {4, true}};
  EXPECT_NEAR(kolmogorov_distance(law, cut), 0.25, 1e-12);  // F(4) = .75 against 2/4; F(2) too
}

}  // namespace
}  // namespace tailor::tie
