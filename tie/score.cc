#include "tie/score.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"

namespace tailor::tie {

double beta(double waiting, double slots) {
  if (!(waiting > 0)) return 0.1;
  if (!(slots > 0)) return 0.5;
  return std::min(0.5, std::max(0.1, 0.1 * waiting / slots));
}

double score(const Moments& moments, double beta) { return moments.expected + beta * moments.cvar; }

double time_invariant_key(double score, Duration since_epoch, double tau_seconds, double gamma) {
  TAILOR_CHECK(tau_seconds > 0 && gamma > 0 && gamma <= 1, "a decay needs tau > 0, 0 < gamma <= 1");
  constexpr double kLeastScore = 1e-3;  // of a request that is as good as done
  return std::log(std::max(score, kLeastScore)) -
         to_seconds(since_epoch) / tau_seconds * std::log(gamma);
}

double BetaLevel::update(Time now, double waiting, double slots) {
  const int steps = static_cast<int>(std::lround(beta(waiting, slots) / kStep));
  if (!since_ || (steps != steps_ && now - *since_ >= kHold)) {
    steps_ = steps;
    since_ = now;
  }
  return value();
}

}  // namespace tailor::tie
