// Sixteen lanes in one AVX-512 register, integer dot products by VNNI. One of three layers of the
// same face under kernels_cpu.inc; included by kernels_avx512_cpu.cc alone, whose flags it needs.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace tailor::parallel::cpu {
namespace {

constexpr int kLanes = 16;
constexpr int kRowGroupMax = 16;  // rows of a block-quantized product held in registers

using F = __m512;
using I = __m512i;

inline F zero() { return _mm512_setzero_ps(); }
inline F set1(float v) { return _mm512_set1_ps(v); }
inline F load(const float* p) { return _mm512_loadu_ps(p); }
inline void store(float* p, F v) { _mm512_storeu_ps(p, v); }
inline F add(F a, F b) { return _mm512_add_ps(a, b); }
inline F sub(F a, F b) { return _mm512_sub_ps(a, b); }
inline F mul(F a, F b) { return _mm512_mul_ps(a, b); }
inline F div(F a, F b) { return _mm512_div_ps(a, b); }
inline F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
inline F max(F a, F b) { return _mm512_max_ps(a, b); }
inline F min(F a, F b) { return _mm512_min_ps(a, b); }
inline F load_f16(const void* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(static_cast<const __m256i*>(p)));
}
inline F load_bf16(const void* p) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(
      _mm512_cvtepu16_epi32(_mm256_loadu_si256(static_cast<const __m256i*>(p))), 16));
}
inline void store_f16(void* p, F v) {
  _mm256_storeu_si256(static_cast<__m256i*>(p),
                      _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
inline F to_float(I v) { return _mm512_cvtepi32_ps(v); }
inline I bits(F v) { return _mm512_castps_si512(v); }
inline F as_float(I v) { return _mm512_castsi512_ps(v); }
inline I iset1(int32_t v) { return _mm512_set1_epi32(v); }
inline I iadd(I a, I b) { return _mm512_add_epi32(a, b); }
inline I iand(I a, I b) { return _mm512_and_si512(a, b); }
inline I imax(I a, I b) { return _mm512_max_epi32(a, b); }
inline float largest_lane(F v) { return _mm512_reduce_max_ps(v); }
inline int32_t largest_lane(I v) { return _mm512_reduce_max_epi32(v); }
inline void store_low_bytes(int8_t* p, I v) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(v));
}
/// As signed numbers.
inline int32_t sum_of_low_bytes(I v) {
  return _mm512_reduce_add_epi32(_mm512_cvtepi8_epi32(_mm512_cvtepi32_epi8(v)));
}
inline I imul(I a, I b) { return _mm512_mullo_epi32(a, b); }
template <int kBits>
inline I shift_left(I v) {
  return _mm512_slli_epi32(v, kBits);
}
inline I widen_u8(const uint8_t* p) {
  return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
inline I widen_i8(const uint8_t* p) {
  return _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
/// a where `x` is at least `limit`, else 0.
inline F keep_from(F x, F limit, F a) {
  return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, limit, _CMP_GE_OQ), a);
}

// ---- sums of products of bytes: unsigned weights [kLanes][4] with four signed activations ----

using Bytes = __m512i;
inline Bytes load_bytes(const uint8_t* p) { return _mm512_loadu_si512(p); }
inline Bytes low_nibbles(Bytes v) { return _mm512_and_si512(v, _mm512_set1_epi8(15)); }
inline Bytes high_nibbles(Bytes v) {
  return _mm512_and_si512(_mm512_srli_epi16(v, 4), _mm512_set1_epi8(15));
}
/// low | two bits of `high` (field f) << 4
template <int f>
inline Bytes with_high_bits(Bytes low, Bytes high) {
  const Bytes moved =
      f < 2 ? _mm512_slli_epi16(high, f == 0 ? 4 : 2) : _mm512_srli_epi16(high, f == 2 ? 0 : 2);
  return _mm512_or_si512(low, _mm512_and_si512(moved, _mm512_set1_epi8(0x30)));
}

/// Weights of at most 63, of any byte: the same here.
struct SmallDot {
  using Sum = I;
  static Sum begin(I start) { return start; }
  static void add(Sum& sum, Bytes w, const int8_t* x) {
    int32_t four;
    __builtin_memcpy(&four, x, 4);
    sum = _mm512_dpbusd_epi32(sum, w, _mm512_set1_epi32(four));
  }
  static I end(Sum sum) { return sum; }
};
using NibbleDot = SmallDot;
using ByteDot = SmallDot;

}  // namespace
}  // namespace tailor::parallel::cpu
