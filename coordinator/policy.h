// Policy: which waiting request runs first, as a small value chosen in config. One number per
// request, smaller first; equal numbers go by arrival, then by id. Keys are time-invariant: they
// change when a request's own law or the level of beta changes, never because time passes, so a
// queue is never rebuilt for waiting.
//
//   fcfs   nothing is predicted: arrival decides
//   sept   ln E + (a / tau) ln(1 / gamma), E the expected work in tokens (at most max_tokens)
//   tie    the same with E + beta CVaR_0.9; beta follows the queue (tie/score.h)
//
// Source: arXiv 2604.00499, score and waiting decay.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.h"
#include "base/time.h"
#include "tie/score.h"

namespace tailor::coordinator {

struct Policy {
  enum class Kind : uint8_t { kFcfs = 0, kSept = 1, kTie = 2 };
  Kind kind = Kind::kFcfs;
  double tau_seconds =
      tie::kTieTauSeconds;  ///< a wait of tau makes a score count `gamma` of itself
  double gamma = tie::kDecayPerTau;

  bool needs_law() const { return kind != Kind::kFcfs; }
  bool needs_beta() const { return kind == Kind::kTie; }

  /// Smaller runs first. `moments` of the work that is left, `arrival` on any one clock.
  double key(const tie::Moments& moments, double beta, Time arrival) const {
    if (kind == Kind::kFcfs) return 0.0;
    const double score = tie::score(moments, kind == Kind::kTie ? beta : 0.0);
    return tie::time_invariant_key(score, arrival.time_since_epoch(), tau_seconds, gamma);
  }
  std::string_view name() const {
    switch (kind) {
      case Kind::kFcfs:
        return "fcfs";
      case Kind::kSept:
        return "sept";
      case Kind::kTie:
        return "tie";
    }
    return "unknown";
  }
  /// Errors: InvalidArgument (names what is known).
  static Result<Policy> parse(std::string_view name) {
    for (const Kind kind : {Kind::kFcfs, Kind::kSept, Kind::kTie})
      if (name == Policy{kind}.name()) return Policy{kind};
    return fail(ErrorCode::kInvalidArgument,
                "unknown policy '" + std::string(name) + "'; known: fcfs, sept, tie");
  }
};

}  // namespace tailor::coordinator
