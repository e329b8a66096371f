#include "base/utf8.h"

#include <cstdint>

namespace tailor {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

struct Scan {
  // bytes of the character, or of the maximal part that could have begun one (at least 1)
  size_t size = 0;
  bool valid = false;
  bool incomplete = false;  // the bytes ended inside a character that could still become valid
};

// The well-formed sequences of the Unicode Standard, table 3-7.
Scan scan(std::string_view s) {
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(s[i]); };
  const uint8_t lead = byte(0);
  if (lead < 0x80) return {1, true, false};
  size_t need = 0;
  uint8_t low = 0x80, high = 0xBF;  // bounds of the second byte
  if (lead >= 0xC2 && lead <= 0xDF) {
    need = 2;
  } else if (lead >= 0xE0 && lead <= 0xEF) {
    need = 3;
    if (lead == 0xE0) low = 0xA0;
    if (lead == 0xED) high = 0x9F;
  } else if (lead >= 0xF0 && lead <= 0xF4) {
    need = 4;
    if (lead == 0xF0) low = 0x90;
    if (lead == 0xF4) high = 0x8F;
  } else {
    return {1, false, false};
  }
  for (size_t i = 1; i < need; ++i) {
    if (i == s.size()) return {i, false, true};
    if (byte(i) < low || byte(i) > high) return {i, false, false};
    low = 0x80, high = 0xBF;
  }
  return {need, true, false};
}

}  // namespace

size_t append_utf8(std::string_view bytes, bool at_end, std::string& out) {
  size_t at = 0;
  while (at < bytes.size()) {
    const Scan s = scan(bytes.substr(at));
    if (s.incomplete && !at_end) break;
    if (s.valid) {
      out.append(bytes.substr(at, s.size));
    } else {
      out.append(kReplacement);
    }
    at += s.size;
  }
  return at;
}

size_t find_invalid_utf8(std::string_view bytes) {
  size_t at = 0;
  while (at < bytes.size()) {
    const Scan s = scan(bytes.substr(at));
    if (!s.valid) return at;
    at += s.size;
  }
  return std::string_view::npos;
}

}  // namespace tailor
