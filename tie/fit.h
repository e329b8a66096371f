// Maximum-likelihood fits of seven families of laws to answer lengths, censored answers included.
// Pure.
//
// Every family is told by the same two numbers of ln(tokens), so that a table can show them side by
// side: `mu`, where the law lies, and `sigma`, how wide it is. With y = ln x and z = (y -
// mu)/sigma:
//   log-t         z ~ Student-t(nu), nu given (3.5 where none is) or fitted within [1, 100]
//   log-normal    z ~ N(0, 1)
//   Weibull       shape 1/sigma, scale e^mu (z ~ Gumbel of minima)
//   log-logistic  shape 1/sigma, scale e^mu (z ~ logistic)
//   gamma         mean e^mu, shape 1/sigma^2 (sigma is the coefficient of variation)
//   Pareto        P(X > x) = (x / e^mu)^(-1/sigma) for x >= e^mu: a power tail alone
// An answer cut at its token limit is censored: it enters by its survival, not by its density.
//
// Numerics. log-normal (nothing censored) and Pareto are closed forms; Weibull, log-logistic and
// the censored log-normal are concave in (1/sigma, mu/sigma): Newton with halved steps. Log-t with
// nu given: the parameter-expanded EM of Kent, Tyler and Vardi (1994), whose fixed point is unique
// for nu >= 1; nu fitted: a golden section on ln nu around the best of a grid. Gamma: Newton on the
// shape. Censored log-t and gamma: Nelder-Mead from the fit that takes limits for lengths. Steps
// stop at 1e-8 of a sigma, the simplex at 1e-5.
//
// Degenerate samples. sigma never goes below kSigmaFloor: equal lengths give a law that narrow,
// `at_floor` says so, and its likelihood means nothing. Lengths are integers; where ties must not
// decide a comparison, spread them first (`jittered`).
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "base/length_law.h"
#include "base/result.h"

namespace tailor::tie {

/// In the order of every table. kLogT has a given nu, kLogTFree fits it.
enum class Family : uint8_t {
  kLogT,
  kLogTFree,
  kLogNormal,
  kGamma,
  kWeibull,
  kLogLogistic,
  kPareto,
};
inline constexpr int kFamilyCount = 7;
inline constexpr std::array<Family, kFamilyCount> kFamilies = {
    Family::kLogT,    Family::kLogTFree,    Family::kLogNormal, Family::kGamma,
    Family::kWeibull, Family::kLogLogistic, Family::kPareto};

inline constexpr double kSigmaFloor = 1e-5;
inline constexpr double kSigmaCeiling = 1e3;
inline constexpr double kNuLowest = 1, kNuHighest = 100;

const char* name_of(Family family);  ///< "log-t, nu fixed"
const char* key_of(Family family);   ///< "log_t": for JSON and file columns
int parameters_of(Family family);    ///< fitted numbers, for AIC: 2, or 3 with nu

struct LengthSample {
  double tokens = 0;      ///< above 0
  bool censored = false;  ///< the answer was cut here: its length is more than `tokens`
};

/// One law of a family. All functions take any x; below the support the density is 0.
struct FittedLaw {
  Family family = Family::kLogT;
  double mu = 0, sigma = 1;
  double nu = 3.5;  ///< of the log-t families

  double log_density(double x) const;   ///< ln f(x), per token
  double log_survival(double x) const;  ///< ln P(X > x), also where P underflows
  double cdf(double x) const;           ///< P(X <= x)
  double quantile(double p) const;      ///< p in (0, 1)
  /// The log-t families as the value that messages carry. Checks the family.
  LengthLaw to_length_law() const;
};

struct Fit {
  FittedLaw law;
  double log_likelihood = 0;
  uint32_t samples = 0, censored = 0;
  bool at_floor = false;  ///< the sample is (nearly) one value
};

/// Fits one family. `nu` is the degrees of freedom of kLogT, at least 1.
/// Errors: InvalidArgument for fewer than two samples, none uncensored, or a length that is not a
/// finite number above 0.
Result<Fit> fit(Family family, std::span<const LengthSample> samples, double nu = 3.5);

/// sum of ln f(x) of the uncensored samples and ln P(X > x) of the censored ones.
double log_likelihood(const FittedLaw& law, std::span<const LengthSample> samples);

/// Random numbers that are the same on every platform: splitmix64.
class UniformStream {
 public:
  explicit UniformStream(uint64_t seed) : state_(seed) {}
  uint64_t bits();
  double operator()();  ///< in (0, 1), both ends excluded

 private:
  uint64_t state_;
};

/// Integer lengths as continuous ones: each uncensored length plus U(-0.5, 0.5), but above 0.25.
/// Limits of censored ones stay.
std::vector<LengthSample> jittered(std::span<const LengthSample> samples, UniformStream& random);

}  // namespace tailor::tie
