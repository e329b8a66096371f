#include "bench/null_distances.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "base/check.h"
#include "bench/parallel_for.h"
#include "tie/kolmogorov.h"

namespace tailor::bench {
namespace {

constexpr std::array kNuGrid = {1.0, 1.7, 3.0, 5.5, 12.0, 100.0};
constexpr std::array kGammaGrid = {0.01, 0.1, 0.3, 0.6, 1.0, 2.0};  // sigma = shape^-1/2

double interpolated(std::span<const double> at, std::span<const double> value, double x) {
  if (x <= at.front()) return value.front();
  if (x >= at.back()) return value.back();
  const size_t i = std::upper_bound(at.begin(), at.end(), x) - at.begin();
  return value[i - 1] + (x - at[i - 1]) / (at[i] - at[i - 1]) * (value[i] - value[i - 1]);
}

}  // namespace

NullDistances::NullDistances(int simulated, double nu, uint64_t seed)
    : simulated_(simulated), nu_(nu), seed_(seed) {}

double NullDistances::simulate(const tie::FittedLaw& law, int n, int simulated) const {
  tie::UniformStream random(seed_ + 1000003ull * n + 17ull * static_cast<uint64_t>(law.family) +
                            static_cast<uint64_t>(law.nu * 1e6 + law.sigma * 1e3));
  std::vector<tie::LengthSample> samples(n);
  std::vector<double> distances;
  distances.reserve(simulated);
  for (int i = 0; i < simulated; ++i) {
    for (tie::LengthSample& s : samples) {
      s.tokens = std::max(law.quantile(random()), std::numeric_limits<double>::min());
    }
    if (const auto fitted = tie::fit(law.family, samples, nu_)) {
      distances.push_back(tie::kolmogorov_distance(fitted->law, samples));
    }
  }
  TAILOR_CHECK(!distances.empty(), "a simulated sample of a known law can be fitted");
  const size_t rank = std::min(distances.size() - 1,
                               static_cast<size_t>(std::ceil(0.95 * (distances.size() + 1))) - 1);
  std::nth_element(distances.begin(), distances.begin() + rank, distances.end());
  return distances[rank];
}

void NullDistances::prepare(int n, int threads) {
  if (grids_.contains(n)) return;
  struct Task {
    tie::FittedLaw law;
    int simulated = 0;
    double at = 0, critical = 0;
  };
  std::vector<Task> tasks;
  const int share = std::max(1, simulated_ / 4);
  for (tie::Family family : tie::kFamilies) {
    if (family == tie::Family::kLogTFree) {
      for (double nu : kNuGrid) tasks.push_back({{family, 6, 0.05, nu}, share, std::log(nu)});
    } else if (family == tie::Family::kGamma) {
      for (double s : kGammaGrid) tasks.push_back({{family, 6, s, 0}, share, std::log(s)});
    } else {
      tasks.push_back({{family, 6, 0.3, nu_}, simulated_, 0});
    }
  }
  parallel_for(tasks.size(), threads, [&](size_t i) {
    tasks[i].critical = simulate(tasks[i].law, n, tasks[i].simulated);
  });
  std::vector<Grid> grids(tie::kFamilyCount);
  for (const Task& task : tasks) {
    Grid& grid = grids[static_cast<size_t>(task.law.family)];
    grid.at.push_back(task.at);
    grid.value.push_back(task.critical);
  }
  grids_[n] = std::move(grids);
}

double NullDistances::critical(const tie::FittedLaw& law, int n) const {
  const auto found = grids_.find(n);
  TAILOR_CHECK(found != grids_.end(), "prepare(n) comes before critical(law, n)");
  const Grid& grid = found->second[static_cast<size_t>(law.family)];
  const double at = law.family == tie::Family::kLogTFree ? std::log(law.nu) : std::log(law.sigma);
  return interpolated(grid.at, grid.value, at);
}

double bootstrap_p_value(const tie::FittedLaw& law, std::span<const tie::LengthSample> samples,
                         double distance, int simulated, uint64_t seed) {
  double limit = std::numeric_limits<double>::infinity();
  for (const tie::LengthSample& s : samples) {
    if (s.censored) limit = std::min(limit, s.tokens);
  }
  tie::UniformStream random(seed);
  std::vector<tie::LengthSample> drawn(samples.size());
  int as_far = 0;
  for (int i = 0; i < simulated; ++i) {
    for (int attempt = 0; attempt < 20; ++attempt) {
      for (tie::LengthSample& s : drawn) {
        const double x = law.quantile(random());
        s = {std::clamp(x, std::numeric_limits<double>::min(), limit), x > limit};
      }
      const auto fitted = tie::fit(law.family, drawn, law.nu);
      if (!fitted) continue;
      as_far += tie::kolmogorov_distance(fitted->law, drawn) >= distance;
      break;
    }
  }
  return (1.0 + as_far) / (simulated + 1.0);
}

}  // namespace tailor::bench
