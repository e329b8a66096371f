// How far a sample lies from the law that was fitted to it, when that family is the truth: the
// critical values of Kolmogorov-Smirnov with estimated parameters (Lilliefors' way), by simulation.
//
// For all families but gamma and log-t with nu fitted the distance of a fitted law depends on
// neither mu nor sigma, so one simulation per (family, n) serves every prompt. Gamma depends on its
// shape and free log-t on its nu: they are simulated on a grid and interpolated at the fitted value
// (the plug-in of a parametric bootstrap). A prompt with censored answers is simulated for itself.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <vector>

#include "tie/fit.h"

namespace tailor::bench {

class NullDistances {
 public:
  /// `simulated`: samples behind each critical value (a quarter of them at each place of a grid).
  NullDistances(int simulated, double nu, uint64_t seed);

  /// Simulates every family at this sample size, on `threads` threads. Cost: about a second at
  /// n = 10 and 10,000 samples. Not to be called while others read.
  void prepare(int n, int threads);

  /// The 95 % quantile of the distance of n draws of `law` from the law fitted to them. Needs
  /// prepare(n).
  double critical(const tie::FittedLaw& law, int n) const;

 private:
  struct Grid {
    std::vector<double> at, value;  ///< at: ln of nu, ln of sigma, or one entry
  };
  double simulate(const tie::FittedLaw& law, int n, int simulated) const;

  int simulated_;
  double nu_;
  uint64_t seed_;
  std::map<int, std::vector<Grid>> grids_;  ///< by n; one Grid per family
};

/// For a sample with censored answers: the share of `simulated` samples of `law`, cut at the same
/// limit and fitted again, that lie at least as far as `distance`. A sample that is cut wholly is
/// drawn again (at most 20 times, then it counts as close).
double bootstrap_p_value(const tie::FittedLaw& law, std::span<const tie::LengthSample> samples,
                         double distance, int simulated, uint64_t seed);

}  // namespace tailor::bench
