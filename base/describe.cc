#include "base/describe.h"

#include <cstdio>

namespace tailor {
namespace {

template <class Variant>
std::string with_envelope(const Envelope& envelope, const Variant& message) {
  const std::string words = std::visit([](const auto& m) { return describe(m); }, message);
  return words + " replica=" + std::to_string(envelope.replica.value) +
         " epoch=" + std::to_string(envelope.epoch.value) +
         " sequence=" + std::to_string(envelope.sequence);
}

}  // namespace

std::string describe(const LengthLaw& law) {
  char text[96];
  switch (law.kind) {
    case LengthLaw::Kind::kLogT:
      std::snprintf(text, sizeof text, "log-t mu %.3f sigma %.3f nu %.1f",
                    static_cast<double>(law.mu), static_cast<double>(law.sigma),
                    static_cast<double>(law.nu));
      return text;
    case LengthLaw::Kind::kHistogram:
      std::snprintf(text, sizeof text, "histogram %.4g..%.4g", static_cast<double>(law.low),
                    static_cast<double>(law.high));
      return text;
    case LengthLaw::Kind::kNone:
      break;
  }
  return "none";
}

std::string describe(const ToReplica& message) {
  return with_envelope(message.envelope, message.command);
}
std::string describe(const FromReplica& message) {
  return with_envelope(message.envelope, message.report);
}

}  // namespace tailor
