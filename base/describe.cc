#include "base/describe.h"

#include <cstdio>

#include "base/utf8.h"

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

std::string on_one_line(std::string_view text) {
  constexpr const char* kDigits = "0123456789abcdef";
  std::string out;
  unsigned char before = 0;
  size_t invalid = find_invalid_utf8(text);  // the next byte that is
  for (size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    const auto next = i + 1 < text.size() ? static_cast<unsigned char>(text[i + 1]) : 0;
    const bool c1 = (byte == 0xC2 && next / 0x20 == 4) ||  // U+0080..U+009F in UTF-8
                    (before == 0xC2 && byte / 0x20 == 4);
    if (byte < 0x20 || byte == 0x7F || byte == '\\' || c1 || i == invalid)
      (out += "\\x") += {kDigits[byte >> 4], kDigits[byte & 15]};
    else
      out += text[i];
    if (i == invalid) {
      const size_t next_one = find_invalid_utf8(text.substr(i + 1));
      invalid = next_one == std::string_view::npos ? next_one : i + 1 + next_one;
    }
    before = byte;
  }
  return out;
}

std::string describe(const ToReplica& message) {
  return with_envelope(message.envelope, message.command);
}
std::string describe(const FromReplica& message) {
  return with_envelope(message.envelope, message.report);
}

}  // namespace tailor
