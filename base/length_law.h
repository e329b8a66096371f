// LengthLaw: the predicted distribution of an answer's length in tokens, as a plain value that can
// ride in messages and logs. tie/law.h gives it meaning (survival, quantiles, moments, scores).
#pragma once

#include <array>
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

}  // namespace tailor
