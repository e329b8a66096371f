#include "predict/model/recalibrate.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>

#include "predict/evaluation.h"
#include "tie/law.h"

namespace tailor::predict {
namespace {

constexpr double kWorthIt = 0.0005;
// Of the squared error of a quantile's coverage: three points cost as much as 0.054 in likelihood.
constexpr double kCoverageWeight = 60;
constexpr std::array<double, 2> kHeld = {0.5, 0.9};
constexpr std::array<double, 7> kNus = {2.5, 3.5, 5, 7, 10, 15, 30};

const std::vector<double> kIdentity = {1, 0, 1, 0, 0};  // scales and shifts, extra deviation

struct Judged {
  LengthLaw law;  // with the identity for recalibration
  const FeatureRow* row = nullptr;
};

double mean_log_chance(const tie::LawMath& math, const LengthLaw& law, const FeatureRow& row) {
  double sum = 0;
  for (size_t i = 0; i < row.lengths.size(); ++i)
    sum += log_likelihood_of(math, law, std::max(1.0, static_cast<double>(row.lengths[i])),
                             row.censored[i]);
  return sum / static_cast<double>(row.lengths.size());
}

LengthLaw mapped(const LengthLaw& law, const std::vector<double>& p, double nu) {
  const double own = std::exp(p[2] * std::log(static_cast<double>(law.sigma)) + p[3]);
  const double sigma = std::sqrt(own * own + p[4] * p[4] * (nu > 2 ? (nu - 2) / nu : 1));
  return tie::log_t(p[0] * static_cast<double>(law.mu) + p[1], std::clamp(sigma, 0.02, 4.0), nu);
}

double loss_of(const tie::LawMath& math, const std::vector<Judged>& judged,
               const std::vector<double>& p) {
  double sum = 0, answers = 0;
  std::array<double, kHeld.size()> below{};
  for (const Judged& one : judged) {
    const LengthLaw law = mapped(one.law, p, math.nu());
    sum -= mean_log_chance(math, law, *one.row);
    for (size_t i = 0; i < one.row->lengths.size(); ++i) {
      const AnswerPlace place =
          place_of(math, law, static_cast<double>(one.row->lengths[i]), one.row->censored[i]);
      for (size_t q = 0; q < kHeld.size(); ++q) below[q] += place.share_below(kHeld[q]);
      ++answers;
    }
  }
  double off = 0;
  for (size_t q = 0; q < kHeld.size(); ++q) {
    const double error = below[q] / answers - kHeld[q];
    off += kCoverageWeight * error * error;
  }
  // Scales stay near what they are unless the answers say otherwise.
  const double prior = 1e-3 * ((p[0] - 1) * (p[0] - 1) + (p[2] - 1) * (p[2] - 1));
  return sum / static_cast<double>(judged.size()) + off + prior;
}

std::vector<Judged> judge(const HeadWeights& weights, const FeatureTable& table, Split split) {
  const auto head = LengthHead::make(weights);
  std::vector<Judged> out;
  if (!head) return out;
  for (const size_t row : table.rows_of(split))
    out.push_back({head->predict(table.of(row)), &table.rows[row]});
  return out;
}

std::vector<double> full(const std::vector<double>& free, const std::vector<size_t>& which) {
  std::vector<double> p = kIdentity;
  for (size_t i = 0; i < which.size(); ++i) p[which[i]] = free[i];
  return p;
}

std::vector<double> best_of(const tie::LawMath& math, const std::vector<Judged>& judged,
                            const std::vector<size_t>& which) {
  std::vector<double> start;
  for (const size_t i : which) start.push_back(i == 4 ? 0.3 : kIdentity[i]);
  const auto loss = [&](const std::vector<double>& free) {
    return loss_of(math, judged, full(free, which));
  };
  return full(minimize(loss, start, 0.15, 60 * static_cast<int>(which.size())), which);
}

void recalibrate_log_t(HeadWeights& weights, const std::vector<Judged>& judged, bool choose_nu) {
  // First nu, by the simplest map; then the best of nested maps, each kept only if it is worth its
  // numbers.
  double nu = weights.info.nu;
  if (choose_nu) {
    double best = 1e300;
    for (const double tried : kNus) {
      const tie::LawMath math(tried);
      const double loss = loss_of(math, judged, best_of(math, judged, {1, 3}));
      const double handicap = tried == weights.info.nu ? kWorthIt : 0;
      if (loss - handicap < best) best = loss - handicap, nu = tried;
    }
  }
  const tie::LawMath math(nu);
  std::vector<double> best = kIdentity;
  double best_loss = loss_of(math, judged, kIdentity);
  for (const auto& which : std::vector<std::vector<size_t>>{
           {1, 3}, {0, 1, 3}, {0, 1, 2, 3}, {0, 1, 4}, {0, 1, 2, 3, 4}}) {
    const std::vector<double> p = best_of(math, judged, which);
    const double loss = loss_of(math, judged, p);
    if (loss < best_loss - kWorthIt) best = p, best_loss = loss;
  }
  weights.info.nu = nu;
  weights.recalibration = {best[0], best[1], best[2], best[3], best[4] * best[4], 1};
}

void recalibrate_histogram(HeadWeights& weights, const FeatureTable& table) {
  const auto loss = [&](double log_temperature) {
    HeadWeights tried = weights;
    tried.recalibration.temperature = std::exp(log_temperature);
    return -mean_log_likelihood(tried, table, Split::kValidation);
  };
  const double before = loss(0);
  const auto found =
      minimize([&](const std::vector<double>& p) { return loss(p[0]); }, {0}, 0.2, 40);
  if (loss(found[0]) < before - kWorthIt) weights.recalibration.temperature = std::exp(found[0]);
}

}  // namespace

double mean_log_likelihood(const HeadWeights& weights, const FeatureTable& table, Split split) {
  const tie::LawMath math(weights.info.nu);
  double sum = 0, count = 0;
  for (const Judged& one : judge(weights, table, split)) {
    sum += mean_log_chance(math, one.law, *one.row);
    ++count;
  }
  return count > 0 ? sum / count : 0;
}

Result<void> recalibrate(HeadWeights& weights, const FeatureTable& table,
                         const RecalibrationOptions& options) {
  weights.recalibration = {};
  const std::vector<Judged> judged = judge(weights, table, Split::kValidation);
  if (judged.empty())
    return fail(ErrorCode::kInvalidArgument,
                "recalibration needs prompts of the validation split, found none");
  if (judged.front().law.kind == LengthLaw::Kind::kHistogram) {
    recalibrate_histogram(weights, table);
  } else {
    recalibrate_log_t(weights, judged, options.choose_nu);
    weights.info.population.nu = static_cast<float>(weights.info.nu);
  }
  return {};
}

std::vector<double> minimize(const std::function<double(const std::vector<double>&)>& f,
                             std::vector<double> start, double step, int evaluations) {
  const size_t n = start.size();
  struct Vertex {
    std::vector<double> at;
    double value;
  };
  int left = evaluations;
  const auto vertex = [&](std::vector<double> at) {
    --left;
    const double value = f(at);
    return Vertex{std::move(at), std::isfinite(value) ? value : 1e300};
  };
  std::vector<Vertex> simplex = {vertex(start)};
  for (size_t i = 0; i < n; ++i) {
    std::vector<double> at = start;
    at[i] += step;
    simplex.push_back(vertex(std::move(at)));
  }
  while (left > 0) {
    std::sort(simplex.begin(), simplex.end(),
              [](const Vertex& a, const Vertex& b) { return a.value < b.value; });
    if (simplex.back().value - simplex.front().value < 1e-9) break;
    std::vector<double> center(n);
    for (size_t v = 0; v < n; ++v)
      for (size_t i = 0; i < n; ++i) center[i] += simplex[v].at[i] / static_cast<double>(n);
    const auto along = [&](double t) {  // 1 = mirror of the worst
      std::vector<double> at(n);
      for (size_t i = 0; i < n; ++i) at[i] = center[i] + t * (center[i] - simplex.back().at[i]);
      return vertex(std::move(at));
    };
    const Vertex mirrored = along(1);
    if (mirrored.value < simplex.front().value) {
      const Vertex further = along(2);
      simplex.back() = further.value < mirrored.value ? further : mirrored;
    } else if (mirrored.value < simplex[n - 1].value) {
      simplex.back() = mirrored;
    } else {
      const Vertex inner = along(mirrored.value < simplex.back().value ? 0.5 : -0.5);
      if (inner.value < std::min(mirrored.value, simplex.back().value)) {
        simplex.back() = inner;
      } else {
        for (size_t v = 1; v <= n; ++v) {
          std::vector<double> at(n);
          for (size_t i = 0; i < n; ++i) at[i] = (simplex[0].at[i] + simplex[v].at[i]) / 2;
          simplex[v] = vertex(std::move(at));
        }
      }
    }
  }
  return std::min_element(simplex.begin(), simplex.end(),
                          [](const Vertex& a, const Vertex& b) { return a.value < b.value; })
      ->at;
}

}  // namespace tailor::predict
