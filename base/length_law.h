// LengthLaw: the predicted distribution of an answer's length in tokens, as a plain value that can
// ride in messages and logs. tie/law.h gives it meaning (survival, quantiles, moments, scores).
#pragma once

#include <array>
#include <cmath>
#include <cstdint>

namespace tailor {

struct LengthLaw {
  enum class Kind : uint8_t {
    kNone = 0,       ///< nobody has said anything: the population law stands in
    kLogT = 1,       ///< X = exp(mu + sigma T), T Student-t with `nu` degrees of freedom
    kHistogram = 2,  ///< `bins` between `low` and `high`, edges low * (high / low)^(i / kBins)
  };
  static constexpr int kBins = 32;

  Kind kind = Kind::kNone;
  float mu = 0, sigma = 0, nu = 3.5f;  ///< of kLogT; mu and sigma of ln(tokens)
  float low = 0, high = 0;  ///< of kHistogram, tokens; what lies above `high` is in the last bin
  std::array<float, kBins> bins{};  ///< of kHistogram: probabilities, sum 1

  friend bool operator==(const LengthLaw&, const LengthLaw&) = default;
};

/// Whether the numbers can be a law at all: what comes over a wire is asked before it is believed.
/// kNone is (it says nothing); a log-t needs finite numbers, sigma and nu above 0; a histogram
/// 0 < low < high and bins that are probabilities.
inline bool well_formed(const LengthLaw& law) {
  switch (law.kind) {
    case LengthLaw::Kind::kNone:
      return true;
    case LengthLaw::Kind::kLogT:
      return std::isfinite(law.mu) && std::isfinite(law.sigma) && law.sigma > 0 &&
             std::isfinite(law.nu) && law.nu > 0;
    case LengthLaw::Kind::kHistogram: {
      double sum = 0;
      for (const float bin : law.bins) {
        if (!(bin >= 0)) return false;  // NaN too
        sum += static_cast<double>(bin);
      }
      return law.low > 0 && law.high > law.low && std::isfinite(law.high) &&
             std::abs(sum - 1) < 1e-3;
    }
  }
  return false;
}

}  // namespace tailor
