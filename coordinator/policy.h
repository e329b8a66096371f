// Policy: which waiting request runs first, as a small value chosen in config. One number per
// request, smaller first; equal numbers go by arrival, then by id. Keys are time-invariant: they
// change when a request's own law changes, never because time passes, so a queue is never rebuilt.
// fcfs is the policy that needs nothing; the others come with the predictor's laws and add a kind
// and a case here.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.h"

namespace tailor::coordinator {

/// What a policy may look at. Grows with the predictor (the law of the answer's length).
struct PolicyInput {
  uint32_t prompt_tokens = 0;
  uint32_t max_tokens = 0;
  uint32_t samples = 1;
};

struct Policy {
  enum class Kind : uint8_t { kFcfs };
  Kind kind = Kind::kFcfs;

  /// Smaller runs first. fcfs: all equal, so that arrival decides.
  double key(const PolicyInput&) const {
    switch (kind) {
      case Kind::kFcfs:
        return 0.0;
    }
    return 0.0;
  }
  std::string_view name() const {
    switch (kind) {
      case Kind::kFcfs:
        return "fcfs";
    }
    return "unknown";
  }
  /// Errors: InvalidArgument (names what is known).
  static Result<Policy> parse(std::string_view name) {
    if (name == "fcfs") return Policy{Kind::kFcfs};
    return fail(ErrorCode::kInvalidArgument,
                "unknown policy '" + std::string(name) + "'; known: fcfs");
  }
};

}  // namespace tailor::coordinator
