#include "tie/law.h"

#include <algorithm>
#include <array>
#include <bit>
#include <boost/math/special_functions/gamma.hpp>
#include <cmath>
#include <cstdint>
#include <limits>

#include "base/check.h"
#include "tie/boost_policy.h"

namespace tailor::tie {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kNoChance = 1e-300;  // survival below it: the law was wrong

using Policy = BoostPolicy;

double exact_survival(double nu, double z) {
  return boost::math::cdf(boost::math::complement(StudentT(nu), z));
}
double exact_quantile(double nu, double s) {
  return boost::math::quantile(boost::math::complement(StudentT(nu), s));
}
double log_t_norm(double nu) {
  return boost::math::lgamma(0.5 * (nu + 1), Policy()) - boost::math::lgamma(0.5 * nu, Policy()) -
         0.5 * std::log(nu * 3.14159265358979323846);
}

// The table's grid: y = 1 + |z| in [1, 2^kOctaves], each octave in equal parts, so that a node's
// index is the top bits of y.
constexpr int kOctaveBits = 7, kOctaves = 16;
constexpr int kFractionBits = 52 - kOctaveBits;
constexpr uint64_t kFractionMask = (uint64_t{1} << kFractionBits) - 1;
constexpr size_t kNodes = (size_t{kOctaves} << kOctaveBits) + 1;
constexpr uint64_t kFirstIndex = uint64_t{1023} << kOctaveBits;

double node_y(size_t i) { return std::bit_cast<double>((kFirstIndex + i) << kFractionBits); }

/// Hermite cubic on [0, 1] with values a, b and slopes da, db.
double cubic(double t, double a, double b, double da, double db) {
  const double d = b - a;
  return a + t * (da + t * (3 * d - 2 * da - db + t * (da + db - 2 * d)));
}

struct Point {
  double x, weight;
};
// Gauss-Legendre on [-1, 1], the positive halves.
constexpr Point kGauss4[] = {{0.33998104358485626, 0.65214515486254614},
                             {0.86113631159405257, 0.34785484513745386}};
constexpr Point kGauss12[] = {
    {0.12523340851146891, 0.24914704581340278}, {0.36783149899818018, 0.23349253653835481},
    {0.58731795428661748, 0.20316742672306592}, {0.76990267419430469, 0.16007832854334622},
    {0.9041172563704748, 0.10693932599531843},  {0.98156063424671924, 0.04717533638651183}};

template <size_t N, class F>
double gauss(const Point (&points)[N], double from, double to, const F& f) {
  const double half = 0.5 * (to - from), mid = 0.5 * (to + from);
  double sum = 0;
  for (const Point& p : points) sum += p.weight * (f(mid - half * p.x) + f(mid + half * p.x));
  return half * sum;
}

// Where panels end, in units of sigma around mu: narrow where the survival function bends.
constexpr double kPanelEnds[] = {-250, -100, -48, -24, -12, -6, -3,  -1,
                                 1,    3,    6,   12,  24,  48, 100, 250};

/// A histogram law that can be evaluated; anything else is asked as a log-t.
bool is_bins(const LengthLaw& law) {
  if (law.kind != LengthLaw::Kind::kHistogram) return false;
  double sum = 0;
  for (const float p : law.bins) sum += p >= 0 ? p : kInfinity;
  return sum > 0 && std::isfinite(sum) && law.low > 0 && law.high > law.low &&
         std::isfinite(law.high);
}

/// A histogram law unfolded: the edges of its bins and the survival there.
class Bins {
 public:
  explicit Bins(const LengthLaw& law)
      : width_(std::log(static_cast<double>(law.high) / law.low) / kBins) {
    const double ratio = std::exp(width_);
    edge_[0] = law.low;
    for (int i = 1; i < kBins; ++i) edge_[i] = edge_[i - 1] * ratio;
    edge_[kBins] = law.high;
    for (int i = kBins - 1; i >= 0; --i) survival_[i] = survival_[i + 1] + law.bins[i];
    const double sum = survival_[0];
    for (double& s : survival_) s /= sum;
  }
  double survival(double x) const {
    if (x <= edge_[0]) return 1;
    if (x >= edge_[kBins]) return 0;
    const int i = bin_of(x);
    return std::max(survival_[i] - slope(i) * std::log(x / edge_[i]), survival_[i + 1]);
  }
  double log_density(double x) const {
    return x < edge_[0] || x > edge_[kBins] ? -kInfinity : std::log(slope(bin_of(x)) / x);
  }
  double quantile(double s) const {
    int i = kBins - 1;
    while (i > 0 && survival_[i] < s) --i;
    const double p = survival_[i] - survival_[i + 1];
    const double at = p > 0 ? std::clamp((survival_[i] - s) / p, 0.0, 1.0) : 0;
    return edge_[i] * std::exp(width_ * at);
  }
  /// Calls f(left, right, survival at left, fall of survival per ln(x)) for each piece of [a, b].
  template <class F>
  void pieces(double a, double b, const F& f) const {
    if (a < edge_[0] && a < b) f(a, std::min(b, edge_[0]), 1.0, 0.0);
    for (int i = a > edge_[0] ? bin_of(a) : 0; i < kBins && edge_[i] < b; ++i) {
      const double from = std::max(edge_[i], a), to = std::min(edge_[i + 1], b);
      if (from < to) f(from, to, from > edge_[i] ? survival(from) : survival_[i], slope(i));
    }
  }
  double integral(double a, double b) const {
    double sum = 0;
    pieces(a, b, [&](double from, double to, double s, double fall) {
      const double length = to - from;
      sum += s * length;
      if (fall > 0) sum -= fall * (to * std::log(to / from) - length);
    });
    return sum;
  }

 private:
  static constexpr int kBins = LengthLaw::kBins;
  double slope(int i) const { return (survival_[i] - survival_[i + 1]) / width_; }
  int bin_of(double x) const {
    return std::clamp(static_cast<int>(std::log(x / edge_[0]) / width_), 0, kBins - 1);
  }

  double width_;  // of a bin in ln(x)
  std::array<double, kBins + 1> edge_;
  std::array<double, kBins + 1> survival_{};
};

}  // namespace

LawMath::LawMath(double nu) : nu_(nu), log_norm_(log_t_norm(nu)) {
  TAILOR_CHECK(nu >= LengthLaw::kNuLeast && nu <= LengthLaw::kNuMost, "a table needs a sane nu");
  nodes_.reserve(kNodes);
  for (size_t i = 0; i < kNodes; ++i) {
    const double z = node_y(i) - 1;
    nodes_.push_back(
        {exact_survival(nu, z), -std::exp(log_norm_ - 0.5 * (nu + 1) * std::log1p(z * z / nu))});
  }
}

LawMath::LogT LawMath::log_t_of(const LengthLaw& law) const {
  if (law.kind != LengthLaw::Kind::kLogT || !std::isfinite(law.mu) || !std::isfinite(law.sigma) ||
      !std::isfinite(law.nu))
    return log_t_of(default_population());
  return {std::clamp<double>(law.mu, -100, 100), std::clamp<double>(law.sigma, 1e-3, 10),
          std::clamp<double>(law.nu, 0.5, 1e4), law.nu == static_cast<float>(nu_)};
}

double LawMath::upper_tail(double z) const {
  const double y = 1 + z;
  const uint64_t bits = std::bit_cast<uint64_t>(y);
  const size_t i = (bits >> kFractionBits) - kFirstIndex;
  if (i >= kNodes - 1) {  // a power tail by here
    const Node& last = nodes_.back();
    return last.survival * std::pow((node_y(kNodes - 1) - 1) / z, nu_);
  }
  const double t = static_cast<double>(bits & kFractionMask) * 0x1p-45;
  static_assert(kFractionBits == 45);
  const uint64_t exponent = bits >> 52;
  const double h = std::bit_cast<double>((exponent - kOctaveBits) << 52);
  const Node &a = nodes_[i], &b = nodes_[i + 1];
  return cubic(t, a.survival, b.survival, a.slope * h, b.slope * h);
}

double LawMath::upper_tail_quantile(double s) const {
  const double end = node_y(kNodes - 1) - 1;
  if (s <= nodes_.back().survival)
    return s > 0 ? end * std::pow(nodes_.back().survival / s, 1 / nu_) : kInfinity;
  const auto above = std::partition_point(nodes_.begin(), nodes_.end(),
                                          [s](const Node& node) { return node.survival > s; });
  const size_t i = above == nodes_.begin() ? 0 : static_cast<size_t>(above - nodes_.begin()) - 1;
  const double from = node_y(i), h = node_y(i + 1) - from;
  const Node &a = nodes_[i], &b = nodes_[i + 1];
  double low = 0, high = 1, t = (a.survival - s) / (a.survival - b.survival);
  for (int round = 0; round < 4; ++round) {  // Newton, held inside what is known
    const double over = cubic(t, a.survival, b.survival, a.slope * h, b.slope * h) - s;
    (over > 0 ? low : high) = t;
    t -= over / (h * (a.slope + t * (b.slope - a.slope)));
    if (!(t >= low && t <= high)) t = 0.5 * (low + high);
  }
  return from - 1 + t * h;
}

double LawMath::t_survival(const LogT& law, double z) const {
  if (!law.table) return exact_survival(law.nu, z);
  return z >= 0 ? upper_tail(z) : 1 - upper_tail(-z);
}

double LawMath::t_survival_quantile(const LogT& law, double s) const {
  if (!law.table) return exact_quantile(law.nu, s);
  return s <= 0.5 ? upper_tail_quantile(s) : -upper_tail_quantile(1 - s);
}

/// Integrates f(t, z) dt over t = ln(x) in [from, to], z = (t - mu) / sigma.
template <class F>
double LawMath::over_log_x(const LogT& law, double from, double to, const F& f) const {
  const double inverse = 1 / law.sigma;
  const auto at = [&](double t) { return f(t, (t - law.mu) * inverse); };
  const double* end =
      std::upper_bound(std::begin(kPanelEnds), std::end(kPanelEnds), (from - law.mu) * inverse);
  double sum = 0;
  while (from < to) {
    const double next = end == std::end(kPanelEnds) ? to : law.mu + law.sigma * *end++;
    const double stop = std::min(next, to);
    if (stop <= from) continue;  // an end that rounding put behind
    const double width = stop - from;
    sum += width < 0.5 && width * inverse < 0.5 ? gauss(kGauss4, from, stop, at)
                                                : gauss(kGauss12, from, stop, at);
    from = stop;
  }
  return sum;
}

double LawMath::log_t_integral(const LogT& law, double a, double b) const {
  if (!(a < b)) return 0;
  const double to = std::log(b);
  // Below exp(-10) of the body everything survives, or so nearly that it does not matter.
  const double floor = std::min(to, law.mu) - 10;
  double from = floor, sum = 0;
  if (a > 0) from = std::log(a);
  if (from <= floor) {
    from = floor;
    sum = (std::exp(floor) - a) * 0.5 * (1 + t_survival(law, (floor - law.mu) / law.sigma));
  }
  return sum + log_x_integral(law, from, to);
}

double LawMath::log_x_integral(const LogT& law, double from, double to) const {
  return over_log_x(law, from, to,
                    [&](double t, double z) { return t_survival(law, z) * std::exp(t); });
}

double LawMath::survival(const LengthLaw& law, double x) const {
  if (!(x > 0)) return 1;
  if (is_bins(law)) return Bins(law).survival(x);
  const LogT log_t = log_t_of(law);
  return t_survival(log_t, (std::log(x) - log_t.mu) / log_t.sigma);
}

double LawMath::log_density(const LengthLaw& law, double x) const {
  if (!(x > 0)) return -kInfinity;
  if (is_bins(law)) return Bins(law).log_density(x);
  const LogT log_t = log_t_of(law);
  const double log_x = std::log(x), z = (log_x - log_t.mu) / log_t.sigma;
  return (log_t.table ? log_norm_ : log_t_norm(log_t.nu)) -
         0.5 * (log_t.nu + 1) * std::log1p(z * z / log_t.nu) - std::log(log_t.sigma) - log_x;
}

double LawMath::survival_quantile(const LengthLaw& law, double s) const {
  const bool bins = is_bins(law);
  if (s >= 1) return bins ? law.low : 0;
  if (!(s > 0)) return bins ? law.high : kInfinity;
  if (bins) return Bins(law).quantile(s);
  const LogT log_t = log_t_of(law);
  return std::exp(log_t.mu + log_t.sigma * t_survival_quantile(log_t, s));
}

double LawMath::quantile(const LengthLaw& law, double p) const {
  if (is_bins(law) || p >= 0.5) return survival_quantile(law, 1 - p);
  if (!(p > 0)) return 0;
  const LogT log_t = log_t_of(law);  // symmetric: the lower tail is exact too
  return std::exp(log_t.mu - log_t.sigma * t_survival_quantile(log_t, p));
}

void LawMath::survival_curve(const LengthLaw& law, std::span<const double> x,
                             std::span<double> survival, std::span<double> integral) const {
  TAILOR_CHECK(survival.size() == x.size() && integral.size() == x.size(),
               "a survival curve fills as many values as it is given places");
  if (is_bins(law)) {
    const Bins bins(law);
    for (size_t i = 0; i < x.size(); ++i) {
      survival[i] = bins.survival(x[i]);
      integral[i] = bins.integral(i == 0 ? 0 : x[i - 1], x[i]);
    }
    return;
  }
  const LogT log_t = log_t_of(law);
  double before = 0;  // ln of the place before
  for (size_t i = 0; i < x.size(); ++i) {
    const double t = x[i] > 0 ? std::log(x[i]) : -kInfinity;
    survival[i] = x[i] > 0 ? t_survival(log_t, (t - log_t.mu) / log_t.sigma) : 1;
    integral[i] = i == 0 || !(x[i - 1] > 0) ? log_t_integral(log_t, 0, x[i])
                                            : log_x_integral(log_t, before, t);
    before = t;
  }
}

double LawMath::survival_integral(const LengthLaw& law, double a, double b) const {
  if (!(a < b)) return 0;
  if (is_bins(law)) return Bins(law).integral(a, b);
  return log_t_integral(log_t_of(law), a, b);
}

Moments LawMath::moments(const LengthLaw& law, double xmax, double generated, double alpha) const {
  generated = std::max(generated, 0.0);
  const double room = xmax - generated;
  if (!(room > 0)) return {};
  const double here = survival(law, generated);
  if (!(here > kNoChance)) return {room, room, room};
  const double tail = (1 - alpha) * here;
  // The quantile may fall beyond the limit: then all of the tail's mass stands at the limit.
  double q = xmax;
  if (survival(law, xmax) < tail) q = std::clamp(survival_quantile(law, tail), generated, xmax);
  const double below = survival_integral(law, generated, q);
  const double above = survival_integral(law, q, xmax);
  Moments m;
  m.expected = std::min((below + above) / here, room);
  m.var = q - generated;
  m.cvar = std::clamp(m.var + above / tail, m.var, room);
  return m;
}

double LawMath::expected_inverse(const LengthLaw& law, double xmax) const {
  if (!(xmax > 1)) return 1;
  // By parts: 1/xmax + the integral of F(x) / x^2 from 1 to xmax.
  if (is_bins(law)) {
    double sum = 0;
    Bins(law).pieces(1, xmax, [&](double from, double to, double s, double slope) {
      // S = s - slope ln(x / from); F = 1 - S.
      sum += (1 - s) * (1 / from - 1 / to);
      if (slope > 0) sum += slope * (1 / from - (1 + std::log(to / from)) / to);
    });
    if (xmax > law.high) sum += 1 / std::max<double>(1, law.high) - 1 / xmax;
    return 1 / xmax + sum;
  }
  const LogT log_t = log_t_of(law);
  return 1 / xmax + over_log_x(log_t, 0, std::log(xmax), [&](double t, double z) {
           return t_survival(log_t, -z) * std::exp(-t);
         });
}

LengthLaw log_t(double mu, double sigma, double nu) {
  LengthLaw law;
  law.kind = LengthLaw::Kind::kLogT;
  law.mu = static_cast<float>(mu);
  law.sigma = static_cast<float>(sigma);
  law.nu = static_cast<float>(nu);
  return law;
}

LengthLaw histogram(std::span<const double> probabilities, double low, double high) {
  TAILOR_CHECK(probabilities.size() == LengthLaw::kBins, "a histogram law has kBins bins");
  TAILOR_CHECK(0 < low && low < high && high <= 1e9, "a histogram law needs 0 < low < high");
  double sum = 0;
  for (const double p : probabilities) sum += p >= 0 ? p : std::nan("");
  if (!(sum > 0) || !std::isfinite(sum)) return default_population();
  LengthLaw law;
  law.kind = LengthLaw::Kind::kHistogram;
  law.low = static_cast<float>(low);
  law.high = static_cast<float>(high);
  for (int i = 0; i < LengthLaw::kBins; ++i)
    law.bins[i] = static_cast<float>(probabilities[i] / sum);
  return law;
}

LengthLaw default_population() { return log_t(5.0, 1.0); }

}  // namespace tailor::tie
