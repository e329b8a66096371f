#include "tie/fit.h"

#include <algorithm>
#include <boost/math/distributions/gamma.hpp>
#include <boost/math/distributions/normal.hpp>
#include <boost/math/special_functions/digamma.hpp>
#include <boost/math/special_functions/gamma.hpp>
#include <boost/math/special_functions/trigamma.hpp>
#include <cmath>
#include <limits>
#include <numbers>

#include "base/check.h"
#include "tie/boost_policy.h"

namespace tailor::tie {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kHalfLog2Pi = 0.91893853320467274178;
constexpr double kStep = 1e-8;

using Policy = BoostPolicy;
using Normal = boost::math::normal_distribution<double, Policy>;

// --- the standard laws, in z ------------------------------------------------------------------

double normal_log_survival(double z) {
  if (z < 30) return std::log(0.5 * std::erfc(z * std::numbers::sqrt2 / 2));
  const double w = 1 / (z * z);  // Mills' ratio, to 1e-9 from 30 on
  return -0.5 * z * z - kHalfLog2Pi - std::log(z) + std::log1p(-w * (1 - 3 * w));
}

double log1p_exp(double z) { return z > 36 ? z : std::log1p(std::exp(z)); }

double t_log_norm(double nu) {
  return boost::math::lgamma((nu + 1) / 2, Policy()) - std::lgamma(nu / 2) -
         0.5 * std::log(nu * std::numbers::pi_v<double>);
}

// P(T > z), accurate in both tails.
double t_survival(double z, double nu) {
  return boost::math::cdf(boost::math::complement(StudentT(nu), z));
}

// lgamma(k) minus Stirling's formula.
double stirling_rest(double k) {
  if (k < 1e3)
    return boost::math::lgamma(k, Policy()) - ((k - 0.5) * std::log(k) - k + kHalfLog2Pi);
  return 1 / (12 * k) - 1 / (360 * k * k * k);
}

// ln f of Gamma(shape k, mean m): written around the mean, so that shapes of 1e10 keep their
// digits.
double gamma_log_density(double x, double k, double m) {
  const double u = x / m - 1;
  return -k * (u - std::log1p(u)) - std::log(x) + 0.5 * std::log(k) - kHalfLog2Pi -
         stirling_rest(k);
}

double gamma_log_survival(double x, double k, double m) {
  const double scaled = k * (x / m);
  const double q = boost::math::gamma_q(k, scaled, Policy());
  if (q > 1e-290) return std::log(q);
  return gamma_log_density(x, k, m) + std::log(x) - std::log(std::max(scaled - k + 1, 1.0));
}

// --- Newton on (a, b) = (1/sigma, mu/sigma) for the log-concave standard laws -------------------

struct Slope {
  double value = 0, first = 0, second = 0;  // of ln g(z) or ln G(z), with its derivatives in z
};

Slope density_slope(Family family, double z) {
  if (family == Family::kLogNormal) return {-0.5 * z * z - kHalfLog2Pi, -z, -1};
  if (family == Family::kWeibull) {
    const double e = std::exp(std::min(z, 700.0));
    return {z - e, 1 - e, -e};
  }
  const double p = 1 / (1 + std::exp(-z));
  return {z - 2 * log1p_exp(z), 1 - 2 * p, -2 * p * (1 - p)};
}

Slope survival_slope(Family family, double z) {
  if (family == Family::kLogNormal) {
    const double log_s = normal_log_survival(z);
    const double hazard = std::exp(-0.5 * z * z - kHalfLog2Pi - log_s);
    return {log_s, -hazard, -hazard * (hazard - z)};
  }
  if (family == Family::kWeibull) {
    const double e = std::exp(std::min(z, 700.0));
    return {-e, -e, -e};
  }
  const double p = 1 / (1 + std::exp(-z));
  return {-log1p_exp(z), -p, -p * (1 - p)};
}

struct Derivatives {
  double value = 0, a = 0, b = 0, aa = 0, ab = 0, bb = 0;
};

// `y` holds (ln x - center) / spread: near 0 and 1 in size.
Derivatives derivatives(Family family, std::span<const double> y,
                        std::span<const LengthSample> samples, double a, double b) {
  Derivatives d;
  for (size_t i = 0; i < y.size(); ++i) {
    const double z = a * y[i] - b;
    const bool censored = samples[i].censored;
    const Slope s = censored ? survival_slope(family, z) : density_slope(family, z);
    d.value += s.value + (censored ? 0 : std::log(a));
    d.a += s.first * y[i] + (censored ? 0 : 1 / a);
    d.b -= s.first;
    d.aa += s.second * y[i] * y[i] - (censored ? 0 : 1 / (a * a));
    d.ab -= s.second * y[i];
    d.bb += s.second;
  }
  return d;
}

struct Place {
  double mu = 0, sigma = 0;
};

Place newton(Family family, std::span<const double> y, std::span<const LengthSample> samples) {
  double a = 1, b = 0;
  Derivatives now = derivatives(family, y, samples, a, b);
  for (int step = 0; step < 200; ++step) {
    const double det = now.aa * now.bb - now.ab * now.ab;
    double da = -(now.bb * now.a - now.ab * now.b) / det;
    double db = -(now.aa * now.b - now.ab * now.a) / det;
    if (!std::isfinite(da) || !std::isfinite(db)) break;
    if (std::abs(da) < kStep * a && std::abs(db) < kStep * (std::abs(b) + 1)) break;
    bool moved = false;
    for (int half = 0; half < 40 && !moved; ++half, da /= 2, db /= 2) {
      if (a + da <= 0) continue;
      const Derivatives next = derivatives(family, y, samples, a + da, b + db);
      if (!(next.value >= now.value)) continue;
      a += da, b += db;
      now = next;
      moved = true;
    }
    if (!moved) break;
  }
  return {b / a, 1 / a};
}

// --- log-t, nothing censored --------------------------------------------------------------------

// The EM of Kent, Tyler and Vardi: weights (nu + 1)/(nu + z^2), sigma^2 = weighted mean square.
Place student_em(std::span<const double> y, double nu, Place start) {
  Place p = start;
  for (int step = 0; step < 1000; ++step) {
    const double inverse = 1 / (p.sigma * p.sigma);
    double w_sum = 0, wy = 0;
    for (double v : y) {
      const double w = (nu + 1) / (nu + (v - p.mu) * (v - p.mu) * inverse);
      w_sum += w;
      wy += w * v;
    }
    const double mu = wy / w_sum;
    double square = 0;
    for (double v : y) {
      const double w = (nu + 1) / (nu + (v - p.mu) * (v - p.mu) * inverse);
      square += w * (v - mu) * (v - mu);
    }
    const double sigma = std::sqrt(square / w_sum);
    if (!(sigma > 1e-9)) return {mu, 1e-9};
    const bool still =
        std::abs(mu - p.mu) < kStep * sigma && std::abs(sigma - p.sigma) < kStep * sigma;
    p = {mu, sigma};
    if (still) break;
  }
  return p;
}

double student_log_likelihood(std::span<const double> y, double nu, Place p) {
  double sum = 0;
  for (double v : y) {
    const double z = (v - p.mu) / p.sigma;
    sum += std::log1p(z * z / nu);
  }
  return static_cast<double>(y.size()) * (t_log_norm(nu) - std::log(p.sigma)) -
         0.5 * (nu + 1) * sum;
}

// nu by golden section on ln nu, around the best of a grid. Fills `nu`.
Place student_free(std::span<const double> y, double& nu) {
  static constexpr std::array kGrid = {1.0, 1.6, 2.5, 4.0, 7.0, 13.0, 30.0, 100.0};
  Place place{0, 1};
  const auto value_at = [&](double at) {
    place = student_em(y, at, place);
    return student_log_likelihood(y, at, place);
  };
  size_t best = 0;
  double best_value = -kInfinity;
  for (size_t i = kGrid.size(); i-- > 0;) {  // from the widest: each fit starts at the last one
    const double value = value_at(kGrid[i]);
    if (value > best_value) best = i, best_value = value;
  }
  double low = std::log(kGrid[best > 0 ? best - 1 : 0]);
  double high = std::log(kGrid[std::min(best + 1, kGrid.size() - 1)]);
  constexpr double kGolden = 0.6180339887498949;
  double left = high - kGolden * (high - low), right = low + kGolden * (high - low);
  double at_left = value_at(std::exp(left)), at_right = value_at(std::exp(right));
  while (high - low > 1e-3) {
    if (at_left > at_right) {
      high = right, right = left, at_right = at_left;
      left = high - kGolden * (high - low);
      at_left = value_at(std::exp(left));
    } else {
      low = left, left = right, at_left = at_right;
      right = low + kGolden * (high - low);
      at_right = value_at(std::exp(right));
    }
  }
  nu = std::exp((low + high) / 2);
  const double inside = value_at(nu);
  if (inside < best_value) {  // the maximum is the end of the range
    nu = kGrid[best];
    value_at(nu);
  }
  return place;
}

// --- Nelder-Mead, for censored log-t and gamma ---------------------------------------------------

using Point = std::array<double, 3>;

template <class F>
Point nelder_mead(F value, Point start, int size) {
  struct Corner {
    Point at{};
    double value = 0;
  };
  std::vector<Corner> simplex;
  const auto corner = [&](Point at) { return Corner{at, value(at)}; };
  const auto by_value = [](const Corner& a, const Corner& b) { return a.value > b.value; };
  simplex.push_back(corner(start));
  for (int i = 0; i < size; ++i) {
    Point at = start;
    at[i] += 0.5;
    simplex.push_back(corner(at));
  }
  for (int step = 0; step < 600; ++step) {
    std::sort(simplex.begin(), simplex.end(), by_value);
    double width = 0;
    for (int i = 0; i < size; ++i) {
      width = std::max(width, std::abs(simplex[0].at[i] - simplex[size].at[i]));
    }
    if (width < 1e-5) break;  // of a sigma: 1e-10 of a likelihood
    Point middle{};
    for (int c = 0; c < size; ++c) {
      for (int i = 0; i < size; ++i) middle[i] += simplex[c].at[i] / size;
    }
    const auto along = [&](double factor) {
      Point at{};
      for (int i = 0; i < size; ++i) at[i] = middle[i] + factor * (simplex[size].at[i] - middle[i]);
      return corner(at);
    };
    Corner next = along(-1);
    if (next.value > simplex[0].value) {
      const Corner further = along(-2);
      simplex[size] = further.value > next.value ? further : next;
    } else if (next.value > simplex[size - 1].value) {
      simplex[size] = next;
    } else {
      next = along(next.value > simplex[size].value ? -0.5 : 0.5);
      if (next.value > simplex[size].value) {
        simplex[size] = next;
      } else {
        for (int c = 1; c <= size; ++c) {
          for (int i = 0; i < size; ++i)
            simplex[c].at[i] = (simplex[c].at[i] + simplex[0].at[i]) / 2;
          simplex[c].value = value(simplex[c].at);
        }
      }
    }
  }
  return std::min_element(simplex.begin(), simplex.end(), by_value)->at;
}

double clamped_sigma(double sigma) { return std::clamp(sigma, kSigmaFloor, kSigmaCeiling); }

// Climbs from `start` and from twice its width; keeps the better.
FittedLaw climbed(const FittedLaw& start, std::span<const LengthSample> samples) {
  const bool free = start.family == Family::kLogTFree;
  const double spread = clamped_sigma(start.sigma);
  const auto law_at = [&](const Point& at) {
    FittedLaw law = start;
    law.mu = start.mu + at[0] * spread;
    law.sigma = clamped_sigma(spread * std::exp(std::clamp(at[1], -30.0, 30.0)));
    if (free) law.nu = std::clamp(start.nu * std::exp(at[2]), kNuLowest, kNuHighest);
    return law;
  };
  FittedLaw best = start;
  double best_value = -kInfinity;
  for (double wider : {0.0, std::log(2.0)}) {
    const FittedLaw law =
        law_at(nelder_mead([&](const Point& at) { return log_likelihood(law_at(at), samples); },
                           Point{0, wider, 0}, free ? 3 : 2));
    const double value = log_likelihood(law, samples);
    if (value > best_value) best = law, best_value = value;
  }
  return best;
}

// --- gamma ---------------------------------------------------------------------------------------

// Uncensored: ln k - digamma(k) = ln mean - mean ln, by Newton on 1/k (Minka 2002).
FittedLaw fit_gamma(std::span<const LengthSample> samples) {
  double mean = 0, s = 0;
  for (const LengthSample& x : samples) mean += x.tokens / samples.size();
  for (const LengthSample& x : samples) s -= std::log1p(x.tokens / mean - 1) / samples.size();
  FittedLaw law{Family::kGamma, std::log(mean), kSigmaFloor, 0};
  if (!(s > 0)) return law;
  double k = (3 - s + std::sqrt((s - 3) * (s - 3) + 24 * s)) / (12 * s);
  if (k < 1e4) {
    for (int step = 0; step < 50; ++step) {
      const double error = std::log(k) - boost::math::digamma(k, Policy()) - s;
      const double slope = k * k * (1 / k - boost::math::trigamma(k, Policy()));
      const double next = 1 / (1 / k + error / slope);
      const bool still = std::abs(next - k) < kStep * k;
      k = next;
      if (still) break;
    }
  } else {
    k = (1 + std::sqrt(1 + 4 * s / 3)) / (4 * s);  // ln k - digamma(k) = 1/2k + 1/12k^2 + O(k^-4)
  }
  law.sigma = 1 / std::sqrt(k);
  return law;
}

// --- all -----------------------------------------------------------------------------------------

FittedLaw fit_pareto(std::span<const LengthSample> samples) {
  double low = kInfinity, sum = 0, exact = 0;
  for (const LengthSample& s : samples) low = std::min(low, s.tokens);
  for (const LengthSample& s : samples) {
    sum += std::log(s.tokens / low);
    exact += !s.censored;
  }
  return {Family::kPareto, std::log(low), sum / exact, 0};
}

FittedLaw fit_location_scale(Family family, std::span<const LengthSample> samples, bool censored,
                             double nu) {
  std::vector<double> y;
  y.reserve(samples.size());
  double center = 0, square = 0;
  for (const LengthSample& s : samples) y.push_back(std::log(s.tokens));
  for (double v : y) center += v / y.size();
  for (double v : y) square += (v - center) * (v - center) / y.size();
  const double spread = std::sqrt(square);
  if (spread < kSigmaFloor && !censored) return {family, center, kSigmaFloor, nu};
  const double unit = std::max(spread, kSigmaFloor);
  Place p{0, 1};
  if (family != Family::kLogNormal || censored) {
    for (double& v : y) v = (v - center) / unit;
    if (family == Family::kLogT) {
      p = student_em(y, nu, p);
    } else if (family == Family::kLogTFree) {
      p = student_free(y, nu);
    } else {
      p = newton(family, y, samples);
    }
  }
  FittedLaw law{family, center + p.mu * unit, p.sigma * unit, nu};
  const bool student = family == Family::kLogT || family == Family::kLogTFree;
  return student && censored ? climbed(law, samples) : law;
}

}  // namespace

const char* name_of(Family family) {
  static constexpr std::array kNames = {"log-t, nu fixed", "log-t, nu fitted", "log-normal",
                                        "gamma",           "Weibull",          "log-logistic",
                                        "Pareto"};
  return kNames[static_cast<size_t>(family)];
}

const char* key_of(Family family) {
  static constexpr std::array kKeys = {"log_t",   "log_t_free",   "log_normal", "gamma",
                                       "weibull", "log_logistic", "pareto"};
  return kKeys[static_cast<size_t>(family)];
}

int parameters_of(Family family) { return family == Family::kLogTFree ? 3 : 2; }

double FittedLaw::log_density(double x) const {
  if (!(x > 0) || !std::isfinite(x)) return -kInfinity;
  const double y = std::log(x), z = (y - mu) / sigma;
  switch (family) {
    case Family::kLogT:
    case Family::kLogTFree:
      return t_log_norm(nu) - 0.5 * (nu + 1) * std::log1p(z * z / nu) - std::log(sigma) - y;
    case Family::kGamma:
      return gamma_log_density(x, 1 / (sigma * sigma), std::exp(mu));
    case Family::kPareto:
      return z < 0 ? -kInfinity : -z - std::log(sigma) - y;
    default:
      return density_slope(family, z).value - std::log(sigma) - y;
  }
}

double FittedLaw::log_survival(double x) const {
  if (!(x > 0)) return 0;
  const double z = (std::log(x) - mu) / sigma;
  switch (family) {
    case Family::kLogT:
    case Family::kLogTFree:
      return std::log(t_survival(z, nu));
    case Family::kGamma:
      return gamma_log_survival(x, 1 / (sigma * sigma), std::exp(mu));
    case Family::kPareto:
      return -std::max(z, 0.0);
    default:
      return survival_slope(family, z).value;
  }
}

double FittedLaw::cdf(double x) const {
  if (!(x > 0)) return 0;
  const double z = (std::log(x) - mu) / sigma;
  switch (family) {
    case Family::kLogT:
    case Family::kLogTFree:
      return boost::math::cdf(StudentT(nu), z);
    case Family::kLogNormal:
      return 0.5 * std::erfc(-z * std::numbers::sqrt2 / 2);
    case Family::kGamma: {
      const double k = 1 / (sigma * sigma);
      return boost::math::gamma_p(k, k * x / std::exp(mu), Policy());
    }
    case Family::kWeibull:
      return -std::expm1(-std::exp(std::min(z, 700.0)));
    case Family::kLogLogistic:
      return 1 / (1 + std::exp(-z));
    case Family::kPareto:
      return z < 0 ? 0 : -std::expm1(-z);
  }
  return 0;
}

double FittedLaw::quantile(double p) const {
  TAILOR_CHECK(p > 0 && p < 1, "a quantile is asked strictly between 0 and 1");
  switch (family) {
    case Family::kLogT:
    case Family::kLogTFree:
      return std::exp(mu + sigma * boost::math::quantile(StudentT(nu), p));
    case Family::kLogNormal:
      return std::exp(mu + sigma * boost::math::quantile(Normal(), p));
    case Family::kGamma: {
      const double k = 1 / (sigma * sigma);
      return std::exp(mu) * (boost::math::gamma_p_inv(k, p, Policy()) / k);
    }
    case Family::kWeibull:
      return std::exp(mu + sigma * std::log(-std::log1p(-p)));
    case Family::kLogLogistic:
      return std::exp(mu + sigma * (std::log(p) - std::log1p(-p)));
    case Family::kPareto:
      return std::exp(mu - sigma * std::log1p(-p));
  }
  return 0;
}

LengthLaw FittedLaw::to_length_law() const {
  TAILOR_CHECK(family == Family::kLogT || family == Family::kLogTFree,
               "only log-t has a LengthLaw");
  LengthLaw law;
  law.kind = LengthLaw::Kind::kLogT;
  law.mu = static_cast<float>(mu);
  law.sigma = static_cast<float>(sigma);
  law.nu = static_cast<float>(nu);
  return law;
}

double log_likelihood(const FittedLaw& law, std::span<const LengthSample> samples) {
  double sum = 0;
  for (const LengthSample& s : samples) {
    sum += s.censored ? law.log_survival(s.tokens) : law.log_density(s.tokens);
  }
  return std::isnan(sum) ? -kInfinity : sum;
}

Result<Fit> fit(Family family, std::span<const LengthSample> samples, double nu) {
  Fit result;
  result.samples = static_cast<uint32_t>(samples.size());
  for (const LengthSample& s : samples) {
    result.censored += s.censored;
    if (!(s.tokens > 0) || !std::isfinite(s.tokens)) {
      return fail(ErrorCode::kInvalidArgument,
                  "a fit needs finite lengths above 0, found " + std::to_string(s.tokens));
    }
  }
  if (samples.size() < 2) {
    return fail(ErrorCode::kInvalidArgument,
                "a fit needs at least 2 lengths, found " + std::to_string(samples.size()));
  }
  if (result.censored == result.samples) {
    return fail(ErrorCode::kInvalidArgument, "a fit needs a length that was not cut, but all " +
                                                 std::to_string(samples.size()) + " were");
  }
  if (family == Family::kLogT && !(nu >= kNuLowest)) {
    return fail(ErrorCode::kInvalidArgument, "nu must be at least 1, found " + std::to_string(nu));
  }
  FittedLaw law;
  if (family == Family::kPareto) {
    law = fit_pareto(samples);
  } else if (family == Family::kGamma) {
    law = fit_gamma(samples);
    if (result.censored > 0) law = climbed(law, samples);
  } else {
    law = fit_location_scale(family, samples, result.censored > 0, nu);
  }
  result.at_floor = !(law.sigma > kSigmaFloor);
  law.sigma = clamped_sigma(law.sigma);
  result.law = law;
  result.log_likelihood = log_likelihood(law, samples);
  return result;
}

uint64_t UniformStream::bits() {
  uint64_t x = (state_ += 0x9e3779b97f4a7c15ull);
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}

double UniformStream::operator()() { return (static_cast<double>(bits() >> 11) + 0.5) * 0x1p-53; }

std::vector<LengthSample> jittered(std::span<const LengthSample> samples, UniformStream& random) {
  std::vector<LengthSample> spread(samples.begin(), samples.end());
  for (LengthSample& s : spread) {
    const double shift = random() - 0.5;
    if (!s.censored) s.tokens = std::max(s.tokens + shift, 0.25);
  }
  return spread;
}

}  // namespace tailor::tie
