// What a LengthLaw means: survival, quantiles, truncated moments and tail means, also given that
// g tokens are already out. Quadrature and closed forms only; equal inputs give equal bits.
//
// A log-t length is X = exp(mu + sigma T), T Student-t(nu). LawMath holds one table of T's survival
// function (Hermite cubics between values and slopes from Boost.Math) for the nu that the predictor
// uses; a law with another nu is evaluated by Boost.Math directly, some fifty times slower. A
// histogram law spreads each bin's probability evenly over ln(x); all its answers are closed forms.
//
// Any law gives finite answers: one whose numbers make no sense, and one of kind none, count as
// default_population(); sigma is held to [1e-3, 10] and nu to [0.5, 1e4].
// Pure and immutable: one LawMath may be used by many threads; no call allocates.
// Source: TIE, arXiv 2604.00499 (the law and its score); conditional forms follow from S(x)/S(g).
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "base/length_law.h"

namespace tailor::tie {

/// Of min(X, xmax), in tokens; with `generated` > 0 of the tokens that remain.
struct Moments {
  double expected = 0;
  double var = 0;   ///< the alpha quantile
  double cvar = 0;  ///< the mean above it
};

class LawMath {
 public:
  /// Builds the table: about 10 ms.
  explicit LawMath(double nu = 3.5);
  double nu() const { return nu_; }

  /// P(X > x). Relative error under 1e-5 far into the tail.
  double survival(const LengthLaw& law, double x) const;
  /// ln f(x), x > 0; minus infinity where a histogram has nothing.
  double log_density(const LengthLaw& law, double x) const;
  /// The x with P(X <= x) = p; 0 for p <= 0. For p >= 1 the end of the law (histogram) or infinity.
  double quantile(const LengthLaw& law, double p) const;
  /// The x with P(X > x) = s: a quantile that stays exact far into the tail.
  double survival_quantile(const LengthLaw& law, double s) const;
  /// The integral of the survival function from a to b, 0 <= a.
  double survival_integral(const LengthLaw& law, double a, double b) const;
  /// At ascending places x: survival, and its integral from the place before (the first: from 0).
  void survival_curve(const LengthLaw& law, std::span<const double> x, std::span<double> survival,
                      std::span<double> integral) const;

  /// E, VaR and CVaR of min(X, xmax) given X > generated, minus `generated`; all 0 when `generated`
  /// reaches xmax. When the law leaves no chance of coming this far (survival under 1e-300, or
  /// beyond the end of a histogram) the law was wrong, and all three are xmax - generated.
  /// Cost: about 2 us with the table's nu.
  Moments moments(const LengthLaw& law, double xmax, double generated = 0,
                  double alpha = 0.9) const;
  /// E[1 / max(1, min(X, xmax))].
  double expected_inverse(const LengthLaw& law, double xmax) const;

 private:
  struct Node {
    double survival, slope;  // of T at |z|, and d/dz of it
  };
  struct LogT {  // a sane log-t law, ready to be evaluated
    double mu, sigma, nu;
    bool table;
  };
  LogT log_t_of(const LengthLaw& law) const;
  double t_survival(const LogT& law, double z) const;
  double t_survival_quantile(const LogT& law, double s) const;
  double upper_tail(double z) const;           // table, z >= 0
  double upper_tail_quantile(double s) const;  // table, s <= 1/2
  template <class F>
  double over_log_x(const LogT& law, double from, double to, const F& f) const;
  double log_x_integral(const LogT& law, double from, double to) const;
  double log_t_integral(const LogT& law, double a, double b) const;

  double nu_;
  double log_norm_;          // ln of the Student-t density at 0
  std::vector<Node> nodes_;  // over 1 + |z|: kPerOctave to an octave
};

LengthLaw log_t(double mu, double sigma, double nu = 3.5);
/// `probabilities` (LengthLaw::kBins of them, none negative; scaled to sum 1) between `low` and
/// `high`, 0 < low < high. Probabilities that are not finite or sum to nothing give
/// default_population().
LengthLaw histogram(std::span<const double> probabilities, double low, double high);
/// What stands in where nobody predicts: a wide log-t around exp(5) tokens.
LengthLaw default_population();

}  // namespace tailor::tie
