#include "tie/rank_table.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/check.h"

namespace tailor::tie {
namespace {

constexpr int kK = LawGrid::kSteps;
constexpr double kNoChance = 1e-300;  // survival below it: the law was wrong (see LawMath::moments)
constexpr int kLastQueue = 40;

/// What remains if a request of this age goes to the limit for certain.
double to_the_limit(const LawGrid& grid, int j, double kappa) {
  return (grid.xmax() - grid.age[j]) / (1 + kappa / std::max(1.0, grid.xmax()));
}

void fill_gittins(const LawGrid& grid, const RankOptions& options, LawGrid::Values& rank) {
  LawGrid::Values done;  // weighted completions beyond x_k
  for (int k = 0; k <= kK; ++k) done[k] = grid.survival[k] + options.kappa * grid.inverse[k];
  int first = 1;
  for (int j = 0; j < kK; ++j) {
    if (!(grid.survival[j] > kNoChance)) {
      rank[j] = to_the_limit(grid, j, options.kappa);
      continue;
    }
    first = std::max(first, j + 1);
    while (first < kK && grid.age[first] < grid.age[j] + options.stop_ahead) ++first;
    double best = std::numeric_limits<double>::infinity();
    for (int k = first; k <= kK; ++k) {
      // Nobody may end before x_k: no candidate (0/0 with equal survivals, else infinite).
      const double ratio = (grid.area[j] - grid.area[k]) / (done[j] - done[k]);
      best = ratio < best ? ratio : best;
    }
    rank[j] = best;
  }
}

void fill_h(const LawGrid& grid, const RankOptions& options, LawGrid::Values& rank) {
  for (int j = 0; j < kK; ++j) {
    const double s = grid.survival[j];
    rank[j] = s > kNoChance ? grid.area[j] / (s + options.kappa * grid.inverse[j])
                            : to_the_limit(grid, j, options.kappa);
  }
}

void fill_conditional_tie(const LawMath& math, const LengthLaw& law, const LawGrid& grid,
                          const RankOptions& options, LawGrid::Values& rank) {
  constexpr double kTail = 0.1;
  const double at_limit = math.survival(law, grid.xmax());
  int above = 1;  // the first grid point beyond the quantile: it only grows with age
  for (int j = 0; j < kK; ++j) {
    const double s = grid.survival[j], room = grid.xmax() - grid.age[j];
    if (!(s > kNoChance)) {
      rank[j] = (1 + options.beta) * room;
      continue;
    }
    const double expected = grid.area[j] / s, tail = kTail * s;
    double cvar = room;
    if (at_limit < tail) {
      const double q = std::clamp(math.survival_quantile(law, tail), grid.age[j], grid.xmax());
      while (above < kK && grid.age[above] < q) ++above;
      const double area = grid.area[above] + math.survival_integral(law, q, grid.age[above]);
      cvar = std::min(q - grid.age[j] + area / tail, room);
    }
    rank[j] = expected + options.beta * cvar;
  }
}

}  // namespace

LawGrid::LawGrid(const LawMath& math, const LengthLaw& law, double xmax) {
  xmax = std::max(xmax, 1.0);
  const double ratio = std::pow(xmax / 0.5, 1.0 / (kSteps - 1));
  double x = 0.5;
  for (int k = 1; k < kSteps; ++k, x *= ratio) age[k] = x;
  age[kSteps] = xmax;
  Values between;
  math.survival_curve(law, age, survival, between);
  // Sums from the far end, so that what remains keeps its digits however little it is.
  for (int k = kSteps; k > 0; --k) area[k - 1] = area[k] + between[k];
  const double left = survival[kSteps];
  survival[kSteps] = 0;
  sum_inverse(left);
}

void LawGrid::sum_inverse(double survival_at_limit) {
  inverse[kSteps] = 0;
  double sum = survival_at_limit / std::max(1.0, age[kSteps]);
  for (int k = kSteps; k > 0; --k) {
    const double right = k == kSteps ? survival_at_limit : survival[k];
    const double middle = 0.5 * (age[k - 1] + age[k]);
    sum += std::max(0.0, survival[k - 1] - right) / std::max(1.0, middle);
    inverse[k - 1] = sum;
  }
}

RankTable::RankTable(const LawMath& math, const LengthLaw& law, const LawGrid& grid,
                     const RankOptions& options)
    : RankTable() {
  if (options.kind != RankOptions::Kind::kConditionalTie) {
    *this = RankTable(grid, options);
    return;
  }
  LawGrid::Values rank{};
  fill_conditional_tie(math, law, grid, options, rank);
  std::copy(grid.age.begin(), grid.age.end(), age_.begin());
  std::copy(rank.begin(), rank.end(), rank_.begin());
}

RankTable::RankTable(const LawGrid& grid, const RankOptions& options) {
  LawGrid::Values rank{};
  switch (options.kind) {
    case RankOptions::Kind::kGittins:
      fill_gittins(grid, options, rank);
      break;
    case RankOptions::Kind::kH:
      fill_h(grid, options, rank);
      break;
    case RankOptions::Kind::kMlfq:
      mlfq_ = options;
      break;
    case RankOptions::Kind::kConditionalTie:
      TAILOR_CHECK(false, "conditional tie needs the law beside its grid");
  }
  std::copy(grid.age.begin(), grid.age.end(), age_.begin());
  std::copy(rank.begin(), rank.end(), rank_.begin());
}

double RankTable::rank(double generated) const {
  if (mlfq_.kind == RankOptions::Kind::kMlfq)
    return mlfq_rank(generated, mlfq_.quantum, mlfq_.first_queue);
  const auto after = std::upper_bound(age_.begin(), age_.end(), static_cast<float>(generated));
  if (after == age_.end()) return kLeast;
  if (after == age_.begin()) return std::max<double>(rank_.front(), kLeast);
  const size_t k = static_cast<size_t>(after - age_.begin());
  const double from = age_[k - 1], to = age_[k];
  const double at = (generated - from) / (to - from);
  return std::max(rank_[k - 1] + at * (rank_[k] - rank_[k - 1]), kLeast);
}

double mlfq_rank(double generated, double quantum, int first_queue) {
  double size = std::ldexp(std::max(quantum, 1.0), std::clamp(first_queue, 0, kLastQueue));
  for (double used = size; generated >= used && size < 1e12; used += size) size *= 2;
  return size;
}

int mlfq_first_queue(double prefill_tokens, double quantum) {
  int queue = 0;
  while (queue < kLastQueue && std::ldexp(std::max(quantum, 1.0), queue) < prefill_tokens) ++queue;
  return queue;
}

}  // namespace tailor::tie
