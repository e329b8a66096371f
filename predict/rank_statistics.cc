#include "predict/rank_statistics.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/check.h"
#include "tie/fit.h"

namespace tailor::predict {
namespace {

// Sorts `values` and returns how many exchanges of neighbours that takes.
double count_exchanges(std::span<double> values, std::vector<double>& scratch) {
  const size_t n = values.size();
  if (n < 2) return 0;
  const size_t half = n / 2;
  const std::span<double> left = values.first(half), right = values.subspan(half);
  double exchanges = count_exchanges(left, scratch) + count_exchanges(right, scratch);
  scratch.clear();
  size_t i = 0, j = 0;
  while (i < left.size() || j < right.size()) {
    if (j == right.size() || (i < left.size() && left[i] <= right[j])) {
      scratch.push_back(left[i++]);
    } else {
      exchanges += static_cast<double>(left.size() - i);
      scratch.push_back(right[j++]);
    }
  }
  std::copy(scratch.begin(), scratch.end(), values.begin());
  return exchanges;
}

double pairs(double n) { return n * (n - 1) / 2; }

// Pairs within runs of equal neighbours.
template <class Equal>
double tied_pairs(size_t n, const Equal& equal_to_previous) {
  double total = 0, run = 1;
  for (size_t i = 1; i <= n; ++i) {
    if (i < n && equal_to_previous(i)) {
      ++run;
    } else {
      total += pairs(run);
      run = 1;
    }
  }
  return n == 0 ? 0 : total;
}

Interval interval_of(double value, std::vector<double> resampled) {
  if (resampled.empty()) return {value, value, value};
  std::sort(resampled.begin(), resampled.end());
  const auto at = [&](double p) {
    const double place = p * static_cast<double>(resampled.size() - 1);
    const auto i = static_cast<size_t>(place);
    const double next = resampled[std::min(i + 1, resampled.size() - 1)];
    return resampled[i] + (place - static_cast<double>(i)) * (next - resampled[i]);
  };
  return {value, at(0.025), at(0.975)};
}

}  // namespace

double kendall_tau(std::span<const double> x, std::span<const double> y) {
  TAILOR_CHECK(x.size() == y.size(), "tau needs pairs");
  const size_t n = x.size();
  std::vector<std::pair<double, double>> points(n);
  for (size_t i = 0; i < n; ++i) points[i] = {x[i], y[i]};
  std::sort(points.begin(), points.end());
  const double tied_x =
      tied_pairs(n, [&](size_t i) { return points[i].first == points[i - 1].first; });
  const double tied_both = tied_pairs(n, [&](size_t i) { return points[i] == points[i - 1]; });
  std::vector<double> seconds(n), scratch;
  for (size_t i = 0; i < n; ++i) seconds[i] = points[i].second;
  const double discordant = count_exchanges(seconds, scratch);
  const double tied_y = tied_pairs(n, [&](size_t i) { return seconds[i] == seconds[i - 1]; });
  const double all = pairs(static_cast<double>(n));
  const double scale = std::sqrt((all - tied_x) * (all - tied_y));
  return scale > 0 ? (all - tied_x - tied_y + tied_both - 2 * discordant) / scale : 0;
}

std::vector<std::vector<uint32_t>> draw_resamples(size_t items, size_t resamples, uint64_t seed) {
  tie::UniformStream random(seed);
  std::vector<std::vector<uint32_t>> out(resamples, std::vector<uint32_t>(items));
  for (auto& counts : out)
    for (size_t i = 0; i < items; ++i)
      ++counts[std::min(items - 1, static_cast<size_t>(random() * static_cast<double>(items)))];
  return out;
}

Bootstrap bootstrap(const std::vector<std::vector<uint32_t>>& resamples, size_t items,
                    const std::function<double(std::span<const uint32_t>)>& statistic) {
  Bootstrap out;
  out.value = statistic(std::vector<uint32_t>(items, 1));
  for (const auto& counts : resamples) out.resampled.push_back(statistic(counts));
  return out;
}

Interval Bootstrap::interval() const { return interval_of(value, resampled); }

Interval paired_difference(const Bootstrap& a, const Bootstrap& b) {
  TAILOR_CHECK(a.resampled.size() == b.resampled.size(), "paired means the same resamples");
  std::vector<double> difference(a.resampled.size());
  for (size_t i = 0; i < difference.size(); ++i) difference[i] = a.resampled[i] - b.resampled[i];
  return interval_of(a.value - b.value, std::move(difference));
}

}  // namespace tailor::predict
