#include "bench/fit_report_shapes.h"

#include <algorithm>
#include <cmath>

#include "bench/parallel_for.h"

namespace tailor::bench {
namespace {

using tie::Family;
using tie::LengthSample;

constexpr std::array kNuProfile = {1.0, 1.5, 2.0, 2.5,  3.0,  3.5, 4.0,
                                   5.0, 6.0, 8.0, 12.0, 20.0, 50.0};
constexpr std::array kTrueNu = {2.0, 2.5, 3.5, 5.0, 8.0, 100.0};
constexpr double kResidualEdge = 6;
constexpr int kResidualBins = 48;

std::vector<LengthSample> simulated(const tie::FittedLaw& law, size_t n, double limit,
                                    tie::UniformStream& random) {
  std::vector<LengthSample> samples(n);
  for (LengthSample& s : samples) {
    const double x = std::clamp(law.quantile(random()), 0.25, 1e9);
    s = {std::min(x, limit), x > limit};
  }
  return samples;
}

bool all_cut(std::span<const LengthSample> samples) {
  return std::all_of(samples.begin(), samples.end(), [](const auto& s) { return s.censored; });
}

struct Ratio {
  double value = 0;
  bool censored = false;
};

// X / median of the prompt's other answers, each answer in turn.
void append_ratios(std::span<const LengthSample> samples, std::vector<Ratio>& ratios) {
  std::vector<double> sorted;
  for (const LengthSample& s : samples) sorted.push_back(s.tokens);
  std::sort(sorted.begin(), sorted.end());
  for (const LengthSample& s : samples) {
    const size_t own = std::lower_bound(sorted.begin(), sorted.end(), s.tokens) - sorted.begin();
    const auto other = [&](size_t i) { return sorted[i < own ? i : i + 1]; };
    const size_t n = sorted.size() - 1;
    const double median = n % 2 ? other(n / 2) : (other(n / 2 - 1) + other(n / 2)) / 2;
    ratios.push_back({s.tokens / median, s.censored});
  }
}

TailIndex hill(std::vector<Ratio>& ratios) {
  std::sort(ratios.begin(), ratios.end(),
            [](const Ratio& a, const Ratio& b) { return a.value > b.value; });
  TailIndex tail;
  tail.k = std::clamp<size_t>(ratios.size() / 50, 25, 2000);
  if (ratios.size() < 2 * tail.k) return {};
  tail.threshold = ratios[tail.k].value;
  double sum = 0, exact = 0;
  for (size_t i = 0; i < tail.k; ++i) {
    sum += std::log(ratios[i].value / tail.threshold);
    exact += !ratios[i].censored;
  }
  if (!(sum > 0) || exact == 0) return {};
  tail.index = exact / sum;
  tail.error = tail.index / std::sqrt(exact);
  return tail;
}

// P(r > x) at log-spaced x; `ratios` descend.
Curve survival_curve(std::string name, std::string key, std::span<const Ratio> ratios) {
  Curve curve{std::move(name), std::move(key), {}, {}};
  for (double x = 1; x <= 128; x *= 1.05) {
    const auto end = std::partition_point(ratios.begin(), ratios.end(),
                                          [&](const Ratio& r) { return r.value > x; });
    const auto count = end - ratios.begin();
    if (count < 3) break;  // three answers carry the last point
    curve.x.push_back(x);
    curve.y.push_back(static_cast<double>(count) / static_cast<double>(ratios.size()));
  }
  return curve;
}

void append_residuals(const tie::FittedLaw& law, std::span<const LengthSample> samples,
                      std::vector<double>& counts) {
  for (const LengthSample& s : samples) {
    if (s.censored) continue;
    const double z = (std::log(s.tokens) - law.mu) / law.sigma;
    if (std::abs(z) >= kResidualEdge) continue;
    counts[static_cast<size_t>((z + kResidualEdge) / (2 * kResidualEdge) * kResidualBins)] += 1;
  }
}

Curve residual_curve(std::string name, std::string key, std::span<const double> counts) {
  Curve curve{std::move(name), std::move(key), {}, {}};
  const double width = 2 * kResidualEdge / kResidualBins;
  double sum = 0;
  for (double count : counts) sum += count;
  for (int b = 0; b < kResidualBins; ++b) {
    curve.x.push_back(-kResidualEdge + (b + 0.5) * width);
    curve.y.push_back(counts[b] / (sum * width));
  }
  return curve;
}

// One family's data set, or the observed one (law_of gives no law): ratios and residuals.
struct Pooled {
  std::vector<Ratio> ratios;
  std::vector<double> residuals = std::vector<double>(kResidualBins);
};

Pooled pooled(std::span<const ShapeInput> prompts, int family, double limit,
              const FitReportOptions& options) {
  Pooled all;
  for (size_t i = 0; i < prompts.size(); ++i) {
    const ShapeInput& p = prompts[i];
    if (family < 0) {
      append_ratios(p.samples, all.ratios);
      append_residuals(p.fits->fits[0].law, p.samples, all.residuals);
      continue;
    }
    tie::UniformStream random(options.seed * 6151 + i * 24593 + family);
    const auto drawn = simulated(p.fits->fits[family].law, p.samples.size(), limit, random);
    append_ratios(drawn, all.ratios);
    const bool refits =
        family == static_cast<int>(Family::kLogT) || family == static_cast<int>(Family::kLogNormal);
    if (!refits || all_cut(drawn)) continue;
    if (const auto again = tie::fit(Family::kLogT, drawn, options.nu)) {
      append_residuals(again->law, drawn, all.residuals);
    }
  }
  return all;
}

// Mean over answers of ln f under log-t(nu) minus ln f under the log-normal, over kNuProfile.
// true_nu > 0: of answers simulated from each prompt's log-t fit at that nu. Prompts with cut
// answers or few distinct lengths are left out.
Curve profile(std::span<const ShapeInput> prompts, double true_nu,
              const FitReportOptions& options) {
  Curve curve;
  curve.key = true_nu > 0 ? "truth" : "observed";
  curve.x.assign(kNuProfile.begin(), kNuProfile.end());
  curve.y.assign(kNuProfile.size(), 0);
  double answers = 0;
  for (size_t i = 0; i < prompts.size(); ++i) {
    const ShapeInput& p = prompts[i];
    if (!p.spread || p.fits->censored > 0) continue;
    std::vector<LengthSample> samples(p.samples.begin(), p.samples.end());
    if (true_nu > 0) {
      const auto truth = tie::fit(Family::kLogT, samples, true_nu);
      if (!truth) continue;
      tie::UniformStream random(options.seed * 3079 + i * 12289 +
                                static_cast<uint64_t>(true_nu * 8));
      samples =
          simulated(truth->law, samples.size(), std::numeric_limits<double>::infinity(), random);
    }
    const auto normal = tie::fit(Family::kLogNormal, samples);
    if (!normal) continue;
    for (size_t v = 0; v < kNuProfile.size(); ++v) {
      const auto student = tie::fit(Family::kLogT, samples, kNuProfile[v]);
      if (student) curve.y[v] += student->log_likelihood - normal->log_likelihood;
    }
    answers += static_cast<double>(samples.size());
  }
  if (answers == 0) return {};
  for (double& y : curve.y) y /= answers;
  return curve;
}

double value_at(const Curve& curve, double nu) {
  for (size_t i = 0; i < curve.x.size(); ++i) {
    if (curve.x[i] >= nu) return curve.y[i];
  }
  return curve.y.empty() ? 0 : curve.y.back();
}

// The true nu whose profile has the observed value at options.nu, between simulated ones.
double matched_nu(const FileReport& report, double nu) {
  const auto& truths = report.nu_profiles_true;
  if (report.nu_profile.y.empty()) return 0;
  const double seen = value_at(report.nu_profile, nu);
  for (size_t i = 1; i < truths.size(); ++i) {  // too few answers: noise hides the order
    if (!(value_at(truths[i - 1], nu) > value_at(truths[i], nu))) return 0;
  }
  for (size_t i = 1; i < truths.size(); ++i) {
    const double left = value_at(truths[i - 1], nu), right = value_at(truths[i], nu);
    if (seen > left || seen < right) continue;
    const double share = (left - seen) / (left - right);
    return std::exp(std::log(kTrueNu[i - 1]) + share * std::log(kTrueNu[i] / kTrueNu[i - 1]));
  }
  return 0;
}

}  // namespace

void add_shapes(FileReport& report, std::span<const ShapeInput> prompts, double limit,
                const FitReportOptions& options) {
  std::vector<Pooled> pools(1 + kDrawnFamilies.size());
  std::vector<Curve> profiles(1 + kTrueNu.size());
  parallel_for(pools.size() + profiles.size(), options.threads, [&](size_t i) {
    if (i < pools.size()) {
      pools[i] =
          pooled(prompts, i == 0 ? -1 : static_cast<int>(kDrawnFamilies[i - 1]), limit, options);
    } else {
      const size_t p = i - pools.size();
      profiles[p] = profile(prompts, p == 0 ? 0 : kTrueNu[p - 1], options);
    }
  });
  for (size_t i = 0; i < pools.size(); ++i) {
    const std::string name = i == 0 ? "observed" : tie::name_of(kDrawnFamilies[i - 1]);
    const std::string key = i == 0 ? "observed" : tie::key_of(kDrawnFamilies[i - 1]);
    report.tail.push_back(hill(pools[i].ratios));
    report.survival.push_back(survival_curve(name, key, pools[i].ratios));
    if (i <= 2) report.residuals.push_back(residual_curve(name, key, pools[i].residuals));
  }
  report.nu_profile = std::move(profiles[0]);
  report.nu_profile.name = "observed";
  for (size_t p = 1; p < profiles.size(); ++p) {
    char name[48];
    std::snprintf(name, sizeof name, "true nu %g", kTrueNu[p - 1]);
    profiles[p].name = name;
    report.nu_profiles_true.push_back(std::move(profiles[p]));
  }
  report.nu_matched = matched_nu(report, options.nu);
}

}  // namespace tailor::bench
