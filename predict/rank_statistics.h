// Kendall's tau-b and the bootstrap by prompt: what predictors are compared with. Pure.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

namespace tailor::predict {

/// Kendall's tau-b: ties count for neither side. 0 where one side is all ties. Cost: n log n.
double kendall_tau(std::span<const double> x, std::span<const double> y);

struct Interval {
  double value = 0;
  double low = 0, high = 0;  ///< 95 %, percentiles of the bootstrap
};

/// `counts[r][i]`: how often item i of `items` stands in resample r. Drawn with replacement; the
/// same seed gives the same resamples, so that two predictors can be compared pairwise.
std::vector<std::vector<uint32_t>> draw_resamples(size_t items, size_t resamples, uint64_t seed);

/// `statistic(counts)` on the data itself (all counts 1) and on each resample.
struct Bootstrap {
  double value = 0;
  std::vector<double> resampled;
  Interval interval() const;
};
Bootstrap bootstrap(const std::vector<std::vector<uint32_t>>& resamples, size_t items,
                    const std::function<double(std::span<const uint32_t>)>& statistic);

/// Of a - b, resample by resample. Both are of the same resamples.
Interval paired_difference(const Bootstrap& a, const Bootstrap& b);

}  // namespace tailor::predict
