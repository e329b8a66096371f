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
  /// What the arithmetic of tie/law.h is made for; nothing beyond is a length.
  static constexpr float kMuMost = 100, kSigmaMost = 100, kNuLeast = 0.5f, kNuMost = 1e4f,
                         kTokensMost = 1e9f;

  Kind kind = Kind::kNone;
  float mu = 0, sigma = 0, nu = 3.5f;  ///< of kLogT; mu and sigma of ln(tokens)
  float low = 0, high = 0;  ///< of kHistogram, tokens; what lies above `high` is in the last bin
  std::array<float, kBins> bins{};  ///< of kHistogram: probabilities, sum 1

  friend bool operator==(const LengthLaw&, const LengthLaw&) = default;
};

/// Whether the numbers can be a law at all: what comes over a wire is asked before it is believed.
/// kNone is (it says nothing); a log-t needs |mu| <= kMuMost, sigma in (0, kSigmaMost] and nu in
/// [kNuLeast, kNuMost]; a histogram 0 < low < high <= kTokensMost and bins that are probabilities.
inline bool well_formed(const LengthLaw& law) {
  switch (law.kind) {
    case LengthLaw::Kind::kNone:
      return true;
    case LengthLaw::Kind::kLogT:
      return std::abs(law.mu) <= LengthLaw::kMuMost && law.sigma > 0 &&
             law.sigma <= LengthLaw::kSigmaMost && law.nu >= LengthLaw::kNuLeast &&
             law.nu <= LengthLaw::kNuMost;  // false for NaN too
    case LengthLaw::Kind::kHistogram: {
      double sum = 0;
      for (const float bin : law.bins) {
        if (!(bin >= 0)) return false;  // NaN too
        sum += static_cast<double>(bin);
      }
      return law.low > 0 && law.high > law.low && law.high <= LengthLaw::kTokensMost &&
             std::abs(sum - 1) < 1e-3;
    }
  }
  return false;
}

}  // namespace tailor
