#include "predict/evaluation.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/check.h"
#include "tie/fit.h"

namespace tailor::predict {
namespace {

constexpr int kQuantiles = 64;
constexpr int kCrpsPoints = 160;

// What one prompt adds to each figure.
struct Summary {
  double score = 0;
  double mean_log = 0, expected_log = 0;
  bool has_fit = false;
  double fit_mu = 0, fit_sigma = 0, law_mu = 0, law_sigma = 0;
  double crps = 0, log_likelihood = 0;     // means over answers
  double spread = 0, expected_spread = 0;  // of |ln L - median|
  double inverse = 0, expected_inverse = 0;
  std::array<double, 3> coverage{};
  std::array<double, kPitBins> pit{};
  double answers = 0;
};

void add_answer(const tie::LawMath& math, const JudgedPrompt& prompt, double length, bool cut,
                Summary& out) {
  const AnswerPlace place = place_of(math, prompt.law, length, cut);
  for (size_t i = 0; i < kCoverageLevels.size(); ++i)
    out.coverage[i] += place.share_below(kCoverageLevels[i]);
  double before = 0;
  for (int b = 0; b < kPitBins; ++b) {
    const double up = place.share_below((b + 1.0) / kPitBins);
    out.pit[b] += up - before;
    before = up;
  }
  out.pit[kPitBins - 1] += 1 - before;
  out.crps += crps(math, prompt.law, length, prompt.limit);
  out.log_likelihood += log_likelihood_of(math, prompt.law, length, cut);
  out.inverse += 1 / std::max(1.0, length);
  out.mean_log += std::log(std::max(1.0, length));
  ++out.answers;
}

// |ln min(X, limit) - ln median|: of the answers and of the law, both up to the limit.
void add_spread(const tie::LawMath& math, const JudgedPrompt& prompt, Summary& out) {
  const double limit = std::log(prompt.limit);
  const double middle = std::log(std::max(0.5, math.quantile(prompt.law, 0.5)));
  for (int i = 0; i < kQuantiles; ++i) {
    const double x = std::max(0.5, math.quantile(prompt.law, (i + 0.5) / kQuantiles));
    out.expected_spread += std::abs(std::min(limit, std::log(x)) - middle) / kQuantiles;
  }
  for (const uint32_t length : prompt.lengths)
    out.spread += std::abs(std::log(std::max(1.0, static_cast<double>(length))) - middle) /
                  static_cast<double>(prompt.lengths.size());
}

void add_fit(const tie::LawMath& math, const JudgedPrompt& prompt, Summary& out) {
  std::vector<tie::LengthSample> samples;
  size_t uncut = 0;
  for (size_t i = 0; i < prompt.lengths.size(); ++i) {
    samples.push_back({static_cast<double>(std::max(1u, prompt.lengths[i])), prompt.censored[i]});
    uncut += !prompt.censored[i];
  }
  if (uncut < 4) return;
  const auto own = tie::fit(tie::Family::kLogT, samples);
  if (!own) return;
  out.has_fit = true;
  out.fit_mu = own->law.mu;
  out.fit_sigma = std::clamp(own->law.sigma, 0.01, 4.0);
  out.law_mu = std::log(std::max(0.5, math.quantile(prompt.law, 0.5)));
  out.law_sigma = static_cast<double>(prompt.law.sigma);
  // the quartiles of a log-t with nu 3.5 are at .747
  if (prompt.law.kind != LengthLaw::Kind::kLogT)
    out.law_sigma = (std::log(std::max(0.5, math.quantile(prompt.law, 0.75))) -
                     std::log(std::max(0.5, math.quantile(prompt.law, 0.25)))) /
                    (2 * 0.747);
}

Summary summarize(const tie::LawMath& math, const JudgedPrompt& prompt) {
  Summary out;
  for (size_t i = 0; i < prompt.lengths.size(); ++i)
    add_answer(math, prompt, static_cast<double>(prompt.lengths[i]), prompt.censored[i], out);
  const double n = std::max(1.0, out.answers);
  for (double* value : {&out.crps, &out.log_likelihood, &out.inverse, &out.mean_log}) *value /= n;
  for (double& value : out.coverage) value /= n;
  out.score = math.moments(prompt.law, prompt.limit).expected;
  out.expected_log = expected_log(math, prompt.law, prompt.limit);
  out.expected_inverse = math.expected_inverse(prompt.law, prompt.limit);
  add_spread(math, prompt, out);
  add_fit(math, prompt, out);
  return out;
}

using Counts = std::span<const uint32_t>;

template <class Value>
double mean_of(const std::vector<Summary>& all, Counts counts, const Value& value) {
  double sum = 0, weight = 0;
  for (size_t i = 0; i < all.size(); ++i) {
    sum += counts[i] * value(all[i]);
    weight += counts[i];
  }
  return weight > 0 ? sum / weight : 0;
}

struct PairSums {
  double n = 0, x = 0, y = 0, xx = 0, yy = 0, xy = 0, error = 0;
  void add(double weight, double predicted, double seen) {
    n += weight, x += weight * predicted, y += weight * seen;
    xx += weight * predicted * predicted, yy += weight * seen * seen;
    xy += weight * predicted * seen;
    error += weight * (predicted - seen) * (predicted - seen);
  }
  double spread_x() const { return xx - x * x / n; }
  double spread_y() const { return yy - y * y / n; }
  double common() const { return xy - x * y / n; }
  double r2() const { return n > 1 && spread_y() > 0 ? 1 - error / spread_y() : 0; }
  double slope() const { return n > 1 && spread_x() > 1e-12 ? common() / spread_x() : 0; }
  double correlation() const {
    const double scale = spread_x() * spread_y();
    return n > 1 && scale > 0 ? common() / std::sqrt(scale) : 0;
  }
};

template <class Add>
PairSums pairs_of(const std::vector<Summary>& all, Counts counts, const Add& add) {
  PairSums sums;
  for (size_t i = 0; i < all.size(); ++i)
    if (counts[i] > 0) add(sums, static_cast<double>(counts[i]), all[i]);
  return sums;
}

double mean_tau(std::span<const JudgedPrompt> prompts, const std::vector<double>& scores,
                Counts counts) {
  size_t samples = 0;
  for (const JudgedPrompt& prompt : prompts) samples = std::max(samples, prompt.lengths.size());
  std::vector<double> x, y;
  double sum = 0, weight = 0;
  for (size_t s = 0; s < samples; ++s) {
    x.clear(), y.clear();
    for (size_t i = 0; i < prompts.size(); ++i) {
      if (prompts[i].lengths.size() <= s) continue;
      x.insert(x.end(), counts[i], scores[i]);
      y.insert(y.end(), counts[i], prompts[i].lengths[s]);
    }
    sum += static_cast<double>(x.size()) * kendall_tau(x, y);
    weight += static_cast<double>(x.size());
  }
  return weight > 0 ? sum / weight : 0;
}

std::vector<std::vector<uint32_t>> resamples_of(size_t items, const EvaluationOptions& options) {
  if (options.groups.empty()) return draw_resamples(items, options.resamples, options.seed);
  TAILOR_CHECK(options.groups.size() == items, "each prompt belongs to one group");
  const size_t groups = 1 + *std::max_element(options.groups.begin(), options.groups.end());
  std::vector<std::vector<uint32_t>> out;
  for (const auto& drawn : draw_resamples(groups, options.resamples, options.seed)) {
    std::vector<uint32_t>& counts = out.emplace_back(items);
    for (size_t i = 0; i < items; ++i) counts[i] = drawn[options.groups[i]];
  }
  return out;
}

}  // namespace

double log_likelihood_of(const tie::LawMath& math, const LengthLaw& law, double length, bool cut) {
  const double tiny = 1e-12;
  if (cut) return std::log(std::max(tiny, math.survival(law, length)));
  if (law.kind == LengthLaw::Kind::kHistogram)
    return std::log(
        std::max(tiny, math.survival(law, length - 0.5) - math.survival(law, length + 0.5)));
  return std::max(std::log(tiny), math.log_density(law, length));
}

AnswerPlace place_of(const tie::LawMath& math, const LengthLaw& law, double length, bool cut) {
  const double low = 1 - math.survival(law, cut ? length : length - 0.5);
  const double high = cut ? 1 : 1 - math.survival(law, length + 0.5);
  return {low, std::max(high, low + 1e-12)};
}

// With F on a grid that is even in ln x: (F - 1{x >= L})^2 by the trapezoid rule on both sides of
// L.
double crps(const tie::LawMath& math, const LengthLaw& law, double length, double limit) {
  length = std::min(length, limit);
  const auto integral = [&](double from, double to, bool after) {
    if (!(to > from)) return 0.0;
    const double start = std::max(from, 1e-3);
    const double step = std::log(to / start) / kCrpsPoints;
    double sum = 0, last_x = start, last = 0;
    for (int i = 0; i <= kCrpsPoints; ++i) {
      const double x = i == kCrpsPoints ? to : start * std::exp(step * i);
      const double s = math.survival(law, x);
      const double value = after ? s * s : (1 - s) * (1 - s);
      if (i > 0) sum += (x - last_x) * (value + last) / 2;
      last_x = x, last = value;
    }
    return sum;
  };
  return integral(0, length, false) + integral(length, limit, true);
}

double expected_log(const tie::LawMath& math, const LengthLaw& law, double limit) {
  double sum = 0;
  for (int i = 0; i < kQuantiles; ++i) {
    const double x = math.quantile(law, (i + 0.5) / kQuantiles);
    sum += std::log(std::clamp(x, 1.0, limit)) / kQuantiles;
  }
  return sum;
}

Evaluation evaluate(std::span<const JudgedPrompt> prompts, const tie::LawMath& math,
                    const EvaluationOptions& options, std::span<const double> given_scores) {
  Evaluation out;
  std::vector<Summary> all;
  std::vector<double> scores;
  for (const JudgedPrompt& prompt : prompts) {
    all.push_back(summarize(math, prompt));
    scores.push_back(all.back().score);
    ++out.prompts;
    out.answers += prompt.lengths.size();
    out.cut +=
        static_cast<size_t>(std::count(prompt.censored.begin(), prompt.censored.end(), true));
    for (int b = 0; b < kPitBins; ++b)
      out.pit[b] += all.back().pit[b] / std::max(1.0, all.back().answers) /
                    static_cast<double>(prompts.size());
  }
  if (!given_scores.empty()) scores.assign(given_scores.begin(), given_scores.end());
  const auto resamples = resamples_of(all.size(), options);
  const auto over = [&](auto statistic) { return bootstrap(resamples, all.size(), statistic); };
  const auto mean = [&](auto value) {
    return over([&all, value](Counts c) { return mean_of(all, c, value); });
  };
  const auto pairs = [&](auto add, auto figure) {
    return over([&all, add, figure](Counts c) { return figure(pairs_of(all, c, add)); });
  };
  const auto r2 = [](const PairSums& sums) { return sums.r2(); };
  out.r2_mean_log = pairs(
      [](PairSums& s, double w, const Summary& p) { s.add(w, p.expected_log, p.mean_log); }, r2);
  out.r2_mu = pairs(
      [](PairSums& s, double w, const Summary& p) {
        if (p.has_fit) s.add(w, p.law_mu, p.fit_mu);
      },
      r2);
  out.r2_sigma = pairs(
      [](PairSums& s, double w, const Summary& p) {
        if (p.has_fit) s.add(w, p.law_sigma, p.fit_sigma);
      },
      r2);
  out.corr_sigma = pairs(
      [](PairSums& s, double w, const Summary& p) {
        if (p.has_fit) s.add(w, std::log(std::max(1e-3, p.law_sigma)), std::log(p.fit_sigma));
      },
      [](const PairSums& sums) { return sums.correlation(); });
  out.spread_slope =
      pairs([](PairSums& s, double w, const Summary& p) { s.add(w, p.expected_spread, p.spread); },
            [](const PairSums& sums) { return sums.slope(); });
  out.tau = over([&](Counts c) { return mean_tau(prompts, scores, c); });
  for (size_t i = 0; i < kCoverageLevels.size(); ++i)
    out.coverage[i] = mean([i](const Summary& p) { return p.coverage[i]; });
  out.crps = mean([](const Summary& p) { return p.crps; });
  out.log_likelihood = mean([](const Summary& p) { return p.log_likelihood; });
  out.inverse_ratio = over([&](Counts c) {
    const double seen = mean_of(all, c, [](const Summary& p) { return p.inverse; });
    return mean_of(all, c, [](const Summary& p) { return p.expected_inverse; }) / seen;
  });
  return out;
}

}  // namespace tailor::predict
