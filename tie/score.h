// The TIE score of a waiting request and the key that orders a queue by it.
//
//   Score = E + beta CVaR_0.9 of min(X, xmax), in tokens; the smallest runs first.
//   beta  = min(0.5, max(0.1, 0.1 Lq / B)): Lq waiting requests, B slots of ready replicas.
//   A request that has waited for tw counts as Score * gamma^(tw / tau).
//
// The decay has no clock: at any instant ln(Score gamma^((now - a) / tau)) is
// ln Score + (a / tau) ln(1 / gamma) plus the same number for everybody, so that sum is the key and
// time changes no order. beta does change the order; it moves in levels (BetaLevel), so a queue is
// rebuilt once per level. Pure.
// Source: TIE, arXiv 2604.00499. There beta is frozen when a request is predicted; here all
// requests are compared under the same, current beta.
#pragma once

#include <optional>

#include "base/time.h"
#include "tie/law.h"

namespace tailor::tie {

inline constexpr double kDecayPerTau = 0.9;   ///< gamma
inline constexpr double kTieTauSeconds = 30;  ///< of the score, as published

/// 0.5 while anybody waits and there is no slot.
double beta(double waiting, double slots);

double score(const Moments& moments, double beta);

/// ln(score) + (since_epoch / tau) ln(1 / gamma); an infinite tau means no decay. `since_epoch` is
/// the arrival after any fixed moment, the same for everybody in a queue.
double time_invariant_key(double score, Duration since_epoch, double tau_seconds,
                          double gamma = kDecayPerTau);

/// beta rounded to levels of kStep, each held for at least kHold. Owned by the queue's owner.
class BetaLevel {
 public:
  static constexpr double kStep = 0.025;
  static constexpr Duration kHold = seconds(1);

  /// The level now. The first call sets it; later ones move it to what `waiting` and `slots` ask
  /// for, if it has been held long enough.
  double update(Time now, double waiting, double slots);
  double value() const { return kStep * steps_; }

 private:
  int steps_ = 4;  // 0.1
  std::optional<Time> since_;
};

}  // namespace tailor::tie
