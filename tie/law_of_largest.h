// The length of the longest of n answers to one prompt: its samples hold their slots until the last
// has ended, so that is the work a request with n > 1 waits to do. Samples are independent given
// the law: P(max > x) = 1 - (1 - S(x))^n. Pure.
#pragma once

#include <cstdint>

#include "base/length_law.h"
#include "tie/law.h"

namespace tailor::tie {

/// Moments of min(max of n, xmax); n = 1 is LawMath::moments. Relative error under 1e-3; no
/// allocation. Cost: about 100 survival values.
Moments moments_of_largest(const LawMath& math, const LengthLaw& law, uint32_t n, double xmax,
                           double alpha = 0.9);

}  // namespace tailor::tie
