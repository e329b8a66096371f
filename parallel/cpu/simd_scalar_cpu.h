// Sixteen lanes as plain arrays: any CPU, and the readable meaning of the two other layers. One of
// three layers of the same face under kernels_cpu.inc; included by kernels_scalar_cpu.cc alone.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "weights/dequantize.h"

namespace tailor::parallel::cpu {
namespace {

constexpr int kLanes = 16;
constexpr int kRowGroupMax = 1;

struct F {
  float v[16];
};
struct I {
  int32_t v[16];
};
template <class Op>
inline F each(Op op) {
  F out;
  for (int i = 0; i < 16; ++i) out.v[i] = op(i);
  return out;
}
template <class Op>
inline I ieach(Op op) {
  I out;
  for (int i = 0; i < 16; ++i) out.v[i] = op(i);
  return out;
}

inline F zero() { return {}; }
inline F set1(float v) {
  return each([&](int) { return v; });
}
inline F load(const float* p) {
  return each([&](int i) { return p[i]; });
}
inline void store(float* p, const F& v) { std::memcpy(p, v.v, sizeof v.v); }
inline F add(const F& a, const F& b) {
  return each([&](int i) { return a.v[i] + b.v[i]; });
}
inline F sub(const F& a, const F& b) {
  return each([&](int i) { return a.v[i] - b.v[i]; });
}
inline F mul(const F& a, const F& b) {
  return each([&](int i) { return a.v[i] * b.v[i]; });
}
inline F div(const F& a, const F& b) {
  return each([&](int i) { return a.v[i] / b.v[i]; });
}
inline F fma(const F& a, const F& b, const F& c) {
  return each([&](int i) { return std::fma(a.v[i], b.v[i], c.v[i]); });
}
inline F max(const F& a, const F& b) {
  return each([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
}
inline F min(const F& a, const F& b) {
  return each([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; });
}
inline F load_f16(const void* p) {
  return each([&](int i) {
    uint16_t half;
    std::memcpy(&half, static_cast<const char*>(p) + 2 * i, 2);
    return weights::half_to_float(half);
  });
}
inline F load_bf16(const void* p) {
  return each([&](int i) {
    uint16_t half;
    std::memcpy(&half, static_cast<const char*>(p) + 2 * i, 2);
    return std::bit_cast<float>(static_cast<uint32_t>(half) << 16);
  });
}
/// To nearest even, as the hardware does; what is too large becomes infinite.
inline uint16_t half_of(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  const auto sign = static_cast<uint16_t>(bits >> 16 & 0x8000);
  const uint32_t magnitude = bits & 0x7FFFFFFF;
  if (magnitude > 0x7F800000) return sign | 0x7E00 | static_cast<uint16_t>(magnitude >> 13 & 0x3FF);
  if (magnitude >= 0x477FF000) return sign | 0x7C00;
  if (magnitude < 0x38800000) {  // subnormal half: the float unit rounds at the right place
    const float scaled = std::bit_cast<float>(magnitude) + 0.5f;
    return static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(scaled) - 0x3F000000u));
  }
  const uint32_t rounded = magnitude + 0xFFF + (magnitude >> 13 & 1);
  return static_cast<uint16_t>(sign | (rounded - 0x38000000u) >> 13);
}
inline void store_f16(void* p, const F& v) {
  for (int i = 0; i < 16; ++i) {
    const uint16_t half = half_of(v.v[i]);
    std::memcpy(static_cast<char*>(p) + 2 * i, &half, 2);
  }
}
inline F to_float(const I& v) {
  return each([&](int i) { return static_cast<float>(v.v[i]); });
}
inline I bits(const F& v) { return std::bit_cast<I>(v); }
inline F as_float(const I& v) { return std::bit_cast<F>(v); }
inline I iset1(int32_t v) {
  return ieach([&](int) { return v; });
}
inline I iadd(const I& a, const I& b) {
  return ieach([&](int i) {
    return static_cast<int32_t>(static_cast<uint32_t>(a.v[i]) + static_cast<uint32_t>(b.v[i]));
  });
}
inline I iand(const I& a, const I& b) {
  return ieach([&](int i) { return a.v[i] & b.v[i]; });
}
inline I imax(const I& a, const I& b) {
  return ieach([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
}
inline float largest_lane(const F& v) {
  float out = v.v[0];
  for (float lane : v.v) out = lane > out ? lane : out;
  return out;
}
inline int32_t largest_lane(const I& v) {
  int32_t out = v.v[0];
  for (int32_t lane : v.v) out = lane > out ? lane : out;
  return out;
}
inline void store_low_bytes(int8_t* p, const I& v) {
  for (int i = 0; i < 16; ++i) p[i] = static_cast<int8_t>(v.v[i]);
}
/// As signed numbers.
inline int32_t sum_of_low_bytes(const I& v) {
  int32_t out = 0;
  for (int32_t lane : v.v) out += static_cast<int8_t>(lane);
  return out;
}
inline I imul(const I& a, const I& b) {
  return ieach([&](int i) { return a.v[i] * b.v[i]; });
}
template <int kBits>
inline I shift_left(const I& v) {
  return ieach([&](int i) { return static_cast<int32_t>(static_cast<uint32_t>(v.v[i]) << kBits); });
}
inline I widen_u8(const uint8_t* p) {
  return ieach([&](int i) { return static_cast<int32_t>(p[i]); });
}
inline I widen_i8(const uint8_t* p) {
  return ieach([&](int i) { return static_cast<int32_t>(static_cast<int8_t>(p[i])); });
}
inline F keep_from(const F& x, const F& limit, const F& a) {
  return each([&](int i) { return x.v[i] >= limit.v[i] ? a.v[i] : 0.0f; });
}

struct Bytes {
  uint8_t v[64];
};
inline Bytes load_bytes(const uint8_t* p) {
  Bytes out;
  std::memcpy(out.v, p, 64);
  return out;
}
inline Bytes low_nibbles(Bytes v) {
  for (uint8_t& b : v.v) b &= 15;
  return v;
}
inline Bytes high_nibbles(Bytes v) {
  for (uint8_t& b : v.v) b >>= 4;
  return v;
}
template <int f>
inline Bytes with_high_bits(Bytes low, const Bytes& high) {
  for (int i = 0; i < 64; ++i)
    low.v[i] = static_cast<uint8_t>(low.v[i] | (high.v[i] >> (2 * f) & 3) << 4);
  return low;
}

struct SmallDot {
  using Sum = I;
  static Sum begin(const I& start) { return start; }
  static void add(Sum& sum, const Bytes& w, const int8_t* x) {
    for (int i = 0; i < 64; ++i) sum.v[i / 4] += w.v[i] * x[i % 4];
  }
  static I end(const Sum& sum) { return sum; }
};
using NibbleDot = SmallDot;
using ByteDot = SmallDot;

}  // namespace
}  // namespace tailor::parallel::cpu
