// A 64-bit finalizer (the one of splitmix64) behind the fingerprint and the random weights. Pure.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

namespace tailor::weights {

inline uint64_t mix64(uint64_t x) {
  x += 0x9E3779B97F4A7C15u;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}

/// Order-dependent 128-bit hash; for telling models apart, not against an attacker.
class Hasher {
 public:
  void add(uint64_t value) {
    a_ = mix64(a_ ^ value);
    b_ = mix64(b_ + value * 0xD6E8FEB86659FD93u);
  }
  void add(std::string_view bytes) {
    add(bytes.size());
    for (size_t i = 0; i < bytes.size(); i += 8) {
      uint64_t word = 0;
      std::memcpy(&word, bytes.data() + i, bytes.size() - i < 8 ? bytes.size() - i : 8);
      add(word);
    }
  }
  /// 32 hexadecimal digits.
  std::string hex() const {
    std::string out;
    for (uint64_t half : {a_, b_}) {
      for (int shift = 60; shift >= 0; shift -= 4) out += "0123456789abcdef"[(half >> shift) & 15];
    }
    return out;
  }
  uint64_t value() const { return a_; }

 private:
  uint64_t a_ = 1, b_ = 2;
};

}  // namespace tailor::weights
