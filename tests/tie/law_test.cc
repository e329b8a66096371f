#include "tie/law.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <random>
#include <vector>

namespace tailor::tie {
namespace {

struct Row {
  double mu, sigma, nu, xmax, generated, survival, expected, var, cvar, inverse;
};

std::vector<Row> rows() {
  std::ifstream file(TAILOR_SOURCE_DIR "/tests/fixtures/tie/law.json");
  std::vector<Row> read;
  const auto json = nlohmann::json::parse(file);
  for (const auto& r : json.at("rows"))
    read.push_back({r[0], r[1], r[2], r[3], r[4], r[5], r[6], r[7], r[8], r[9]});
  return read;
}

/// The largest relative error of each figure, over rows.
struct Worst {
  std::map<std::string, double> errors;
  void take(const std::string& name, double got, double expected, const Row& r) {
    const double error = std::abs(got - expected) / std::abs(expected);
    errors[name] = std::max(errors[name], error);
    EXPECT_LT(error, 1e-3) << name << " " << got << " not " << expected << ": mu " << r.mu
                           << " sigma " << r.sigma << " nu " << r.nu << " limit " << r.xmax
                           << " generated " << r.generated;
  }
  void take_row(const LawMath& math, const Row& r) {
    const LengthLaw law = log_t(r.mu, r.sigma, r.nu);
    const Moments m = math.moments(law, r.xmax, r.generated);
    take("survival", math.survival(law, r.generated), r.survival, r);
    take("E", m.expected, r.expected, r);
    take("VaR", m.var, r.var, r);
    take("CVaR", m.cvar, r.cvar, r);
    take("E[1/X]", math.expected_inverse(law, r.xmax), r.inverse, r);
  }
  void report() const {
    for (const auto& [name, error] : errors)
      std::printf("largest relative error of %s: %.1e\n", name.c_str(), error);
  }
};

TEST(Law, TheExampleOfThePaperSettings) {
  const LawMath math;
  Moments m = math.moments(log_t(5, 0.5), 2048);
  EXPECT_NEAR(m.expected, 193.908, 5e-4);
  EXPECT_NEAR(m.var, 326.454, 5e-4);
  EXPECT_NEAR(m.cvar, 617.438, 5e-4);
  m = math.moments(log_t(5, 0.5), 2048, 150);
  EXPECT_NEAR(m.expected, 142.750, 5e-4);
  EXPECT_NEAR(m.var, 304.407, 1e-3);
  EXPECT_NEAR(m.cvar, 713.957, 1e-3);
}

TEST(Law, EqualsHighPrecisionWithinAThousandthByTable) {
  std::map<double, LawMath> math;
  Worst worst;
  const auto all = rows();
  ASSERT_GT(all.size(), 400u);
  for (const Row& r : all) worst.take_row(math.try_emplace(r.nu, r.nu).first->second, r);
  worst.report();
}

TEST(Law, EqualsHighPrecisionWithinAThousandthWithoutATable) {
  const LawMath other(7.25);
  Worst worst;
  const auto all = rows();
  ASSERT_GT(all.size(), 400u);
  for (const Row& r : all) worst.take_row(other, r);
  worst.report();
}

TEST(Law, QuantileInvertsSurvival) {
  for (const double nu : {1.5, 3.5, 30.0}) {
    const LawMath math(nu);
    const LengthLaw law = log_t(4, 0.7, nu);
    for (const double p : {1e-9, 1e-6, 1e-3, 0.1, 0.3, 0.499, 0.5, 0.501, 0.9, 0.99}) {
      if (nu < 2 && p < 1e-4) continue;  // beyond the largest double
      EXPECT_NEAR(1 - math.survival(law, math.quantile(law, p)), p, 1e-9) << nu;
      EXPECT_NEAR(math.survival(law, math.survival_quantile(law, p)) / p, 1, 1e-8) << nu;
    }
    double before = 0;
    for (double p = 0.0005; p < 1; p += 0.001) {
      const double x = math.quantile(law, p);
      EXPECT_GT(x, before) << p;
      before = x;
    }
    EXPECT_EQ(math.quantile(law, 0), 0);
    EXPECT_EQ(math.quantile(law, 1), std::numeric_limits<double>::infinity());
  }
}

TEST(Law, DensityIsTheSlopeOfSurvival) {
  const LawMath math;
  std::vector<double> p(LengthLaw::kBins);
  for (size_t i = 0; i < p.size(); ++i) p[i] = 1.0 + static_cast<double>(i % 5);
  for (const LengthLaw& law : {log_t(5, 0.5), log_t(5, 0.5, 8), histogram(p, 3, 4000)}) {
    for (double x = 4.03; x < 3000; x *= 1.37) {
      const double h = x * 1e-5;
      const double slope = (math.survival(law, x - h) - math.survival(law, x + h)) / (2 * h);
      EXPECT_NEAR(std::exp(math.log_density(law, x)) / slope, 1, 1e-4) << x;
    }
  }
}

/// Sums over many thin slices of a histogram law's own definition.
struct BruteForce {
  const LengthLaw& law;
  template <class F>
  double mean(const F& f) const {  // E[f(X)]
    constexpr int kSlices = 4000;
    const double width = std::log(double{law.high} / law.low) / LengthLaw::kBins;
    double sum = 0;
    for (int bin = 0; bin < LengthLaw::kBins; ++bin)
      for (int i = 0; i < kSlices; ++i)
        sum += law.bins[bin] / kSlices * f(law.low * std::exp(width * (bin + (i + 0.5) / kSlices)));
    return sum;
  }
};

TEST(Law, HistogramMomentsEqualSlicesOfTheirDefinition) {
  const LawMath math;
  std::mt19937_64 random(7);
  for (int round = 0; round < 30; ++round) {
    std::vector<double> p(LengthLaw::kBins);
    for (double& each : p) each = random() % 3 == 0 ? 0.0 : static_cast<double>(random() % 100);
    p[20] = 50;
    const LengthLaw law = histogram(p, 0.5 + static_cast<double>(random() % 5), 5000);
    const BruteForce brute{law};
    const double limits[] = {10, 300, 3000, 20000};
    const double xmax = limits[random() % 4];
    const double generated = random() % 2 ? 0 : std::floor(std::min(xmax, 600.0) * 0.7);
    const double here = brute.mean([&](double x) { return x > generated ? 1.0 : 0.0; });
    const Moments m = math.moments(law, xmax, generated);
    const auto close = [&](double got, double expected, const char* what) {
      EXPECT_NEAR(got / expected, 1, 2e-3) << what << " limit " << xmax << " given " << generated;
    };
    close(m.expected, brute.mean([&](double x) {
      return x > generated ? std::min(x, xmax) - generated : 0.0;
    }) / here,
          "E");
    const double q = generated + m.var;
    const double above = brute.mean([&](double x) { return x > q ? 1.0 : 0.0; });
    if (q < xmax)
      EXPECT_NEAR(above / here, 0.1, 1e-3);
    else
      EXPECT_GE(above / here, 0.0999);
    close(m.cvar, q - generated + brute.mean([&](double x) {
      return x > q ? std::min(x, xmax) - q : 0.0;
    }) / (0.1 * here),
          "CVaR");
    close(math.expected_inverse(law, xmax),
          brute.mean([&](double x) { return 1 / std::max(1.0, std::min(x, xmax)); }), "E[1/X]");
  }
}

TEST(Law, WhatTheLawCallsImpossibleMayTakeAllTheRoom) {
  const LawMath math;
  std::vector<double> p(LengthLaw::kBins, 1);
  const Moments m = math.moments(histogram(p, 1, 500), 2000, 700);
  EXPECT_EQ(m.expected, 1300);
  EXPECT_EQ(m.var, 1300);
  EXPECT_EQ(m.cvar, 1300);
  EXPECT_EQ(math.moments(log_t(5, 0.5), 100, 100).expected, 0);
  EXPECT_EQ(math.moments(log_t(5, 0.5), 100, 250).cvar, 0);
}

TEST(Law, AnyNumbersGiveFiniteOrderedMoments) {
  const LawMath math;
  const double nan = std::nan(""), inf = std::numeric_limits<double>::infinity();
  for (const double mu : {-50.0, 0.0, 5.0, 12.0, 1e30, nan, -inf})
    for (const double sigma : {-1.0, 0.0, 1e-9, 0.5, 40.0, nan, inf})
      for (const double nu : {3.5, 0.0, 1e9, nan})
        for (const double xmax : {1.0, 77.0, 131072.0})
          for (const double generated : {0.0, 1.0, 76.5, 5000.0}) {
            const LengthLaw law = log_t(mu, sigma, nu);
            const Moments m = math.moments(law, xmax, generated);
            const double room = std::max(0.0, xmax - generated);
            EXPECT_TRUE(m.expected >= 0 && m.expected <= room && m.var >= 0 && m.cvar >= m.var &&
                        m.cvar <= room)
                << mu << " " << sigma << " " << nu << " " << xmax << " " << generated << ": "
                << m.expected << " " << m.var << " " << m.cvar;
            const double inverse = math.expected_inverse(law, xmax);
            EXPECT_TRUE(inverse >= 1 / xmax * (1 - 1e-9) && inverse <= 1 + 1e-9) << inverse;
          }
  EXPECT_EQ(math.moments(LengthLaw{}, 2048).expected,
            math.moments(default_population(), 2048).expected);
  EXPECT_EQ(histogram(std::vector<double>(LengthLaw::kBins, nan), 1, 2), default_population());
}

}  // namespace
}  // namespace tailor::tie
