// Bytes as text: two hexadecimal digits each, in lower case. Pure.
#pragma once

#include <span>
#include <string>

namespace tailor {

inline std::string to_hex(std::span<const unsigned char> bytes) {
  constexpr const char* kDigits = "0123456789abcdef";
  std::string out;
  for (const unsigned char byte : bytes) {
    out += kDigits[byte >> 4];
    out += kDigits[byte & 15];
  }
  return out;
}

}  // namespace tailor
