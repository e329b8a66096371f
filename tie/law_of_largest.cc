#include "tie/law_of_largest.h"

#include <algorithm>
#include <array>
#include <cmath>

namespace tailor::tie {
namespace {

// Where panels meet: between two of these quantiles the survival function is smooth and falls by
// little.
constexpr std::array kMass = {1e-9, 1e-6, 1e-4, 1e-3,  0.01,  0.03,   0.06,     0.1,       0.2,
                              0.3,  0.4,  0.5,  0.6,   0.7,   0.8,    0.85,     0.9,       0.93,
                              0.96, 0.98, 0.99, 0.995, 0.999, 0.9999, 0.999999, 0.99999999};
constexpr double kLeast = 1e-6;  // tokens: below it nothing counts
// Gauss-Legendre, 4 points on [-1, 1].
constexpr std::array kNode = {-0.8611363115940526, -0.3399810435848563, 0.3399810435848563,
                              0.8611363115940526};
constexpr std::array kWeight = {0.3478548451374538, 0.6521451548625461, 0.6521451548625461,
                                0.3478548451374538};

class Largest {
 public:
  Largest(const LawMath& math, const LengthLaw& law, uint32_t n) : math_(math), law_(law), n_(n) {}

  /// P(max > x); exact where S is tiny, too.
  double survival(double x) const {
    return -std::expm1(n_ * std::log1p(-std::min(math_.survival(law_, x), 1.0 - 1e-16)));
  }
  /// The x with P(max <= x) = p, 0 < p < 1.
  double quantile(double p) const {
    return math_.survival_quantile(law_, -std::expm1(std::log(p) / n_));
  }
  /// The integral of survival() over [a, b], 0 < a <= b.
  double integral(double a, double b) const {
    if (!(b > a)) return 0;
    const double middle = std::log(a * b) / 2, half = std::log(b / a) / 2;
    double sum = 0;
    for (size_t i = 0; i < kNode.size(); ++i) {
      const double x = std::exp(middle + half * kNode[i]);
      sum += kWeight[i] * survival(x) * x;
    }
    return half * sum;
  }

 private:
  const LawMath& math_;
  const LengthLaw& law_;
  const double n_;
};

}  // namespace

Moments moments_of_largest(const LawMath& math, const LengthLaw& law, uint32_t n, double xmax,
                           double alpha) {
  if (n <= 1) return math.moments(law, xmax, 0, alpha);
  if (!(xmax > 0)) return {};
  const Largest largest(math, law, n);
  const double tail = 1 - alpha;
  Moments out;
  const bool all_tail = largest.survival(xmax) >= tail;  // the cut is likelier than the tail
  out.var = all_tail ? xmax : std::min(xmax, largest.quantile(alpha));
  const bool bins = law.kind == LengthLaw::Kind::kHistogram;  // smooth between its edges
  const double ratio = bins ? std::pow(static_cast<double>(law.high) / static_cast<double>(law.low),
                                       1.0 / LengthLaw::kBins)
                            : 0;
  double from = bins ? static_cast<double>(law.low) : largest.quantile(kMass.front());
  from = std::min(xmax, std::max(from, kLeast));
  out.expected = from;  // survival is 1 up to there
  double above = 0;
  const auto panel = [&](double to) {
    const double part = largest.integral(from, to);
    out.expected += part;
    if (from >= out.var) above += part;
    from = to;
  };
  const size_t panels = bins ? size_t{LengthLaw::kBins} : kMass.size();
  for (size_t i = 1; i <= panels && from < xmax; ++i) {
    const double end = bins               ? static_cast<double>(law.low) * std::pow(ratio, i)
                       : i < kMass.size() ? largest.quantile(kMass[i])
                                          : xmax;
    const double to = std::clamp(end, from, xmax);
    if (from < out.var && out.var < to) panel(out.var);
    panel(to);
  }
  out.cvar = all_tail ? xmax : std::min(xmax, out.var + above / tail);
  return out;
}

}  // namespace tailor::tie
