// The Kolmogorov-Smirnov distance of a sample from a law, and its exact distribution when the law
// was NOT fitted to that sample. Fitted laws lie closer: bench/null_distances.h simulates theirs.
// Pure.
#pragma once

#include <span>

#include "tie/fit.h"

namespace tailor::tie {

/// sup |F_n(x) - F(x)| over the x at which F_n is known: all of them, or those up to the smallest
/// censored length. `samples` need no order.
double kolmogorov_distance(const FittedLaw& law, std::span<const LengthSample> samples);

/// P(D_n >= distance) for n draws of a continuous law that is known beforehand. Exact (about 7
/// digits): Marsaglia, Tsang and Wang, J. Stat. Software 8 (2003) 18. Cost: O(n distance)^3 log n.
double kolmogorov_p_value(double distance, int n);

}  // namespace tailor::tie
