// Eight lanes in one AVX2 register; integer dot products by multiply-add of byte pairs. One of
// three layers of the same face under kernels_cpu.inc; included by kernels_avx2_cpu.cc alone,
// whose flags it needs. Sums of products are exact integers in every layer.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace tailor::parallel::cpu {
namespace {

constexpr int kLanes = 8;
constexpr int kRowGroupMax = 4;

using F = __m256;
using I = __m256i;

inline F zero() { return _mm256_setzero_ps(); }
inline F set1(float v) { return _mm256_set1_ps(v); }
inline F load(const float* p) { return _mm256_loadu_ps(p); }
inline void store(float* p, F v) { _mm256_storeu_ps(p, v); }
inline F add(F a, F b) { return _mm256_add_ps(a, b); }
inline F sub(F a, F b) { return _mm256_sub_ps(a, b); }
inline F mul(F a, F b) { return _mm256_mul_ps(a, b); }
inline F div(F a, F b) { return _mm256_div_ps(a, b); }
inline F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
inline F max(F a, F b) { return _mm256_max_ps(a, b); }
inline F min(F a, F b) { return _mm256_min_ps(a, b); }
inline F load_f16(const void* p) {
  return _mm256_cvtph_ps(_mm_loadu_si128(static_cast<const __m128i*>(p)));
}
inline F load_bf16(const void* p) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(
      _mm256_cvtepu16_epi32(_mm_loadu_si128(static_cast<const __m128i*>(p))), 16));
}
inline void store_f16(void* p, F v) {
  _mm_storeu_si128(static_cast<__m128i*>(p),
                   _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
inline F to_float(I v) { return _mm256_cvtepi32_ps(v); }
inline I bits(F v) { return _mm256_castps_si256(v); }
inline F as_float(I v) { return _mm256_castsi256_ps(v); }
inline I iset1(int32_t v) { return _mm256_set1_epi32(v); }
inline I iadd(I a, I b) { return _mm256_add_epi32(a, b); }
inline I iand(I a, I b) { return _mm256_and_si256(a, b); }
inline I imax(I a, I b) { return _mm256_max_epi32(a, b); }
inline float largest_lane(F v) {
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps(two, two, 1)));
}
inline int32_t largest_lane(I v) {
  alignas(32) int32_t lanes[8];
  _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), v);
  int32_t out = lanes[0];
  for (int i = 1; i < 8; ++i) out = lanes[i] > out ? lanes[i] : out;
  return out;
}
inline void store_low_bytes(int8_t* p, I v) {
  alignas(32) int32_t lanes[8];
  _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), v);
  for (int i = 0; i < 8; ++i) p[i] = static_cast<int8_t>(lanes[i]);
}
/// As signed numbers.
inline int32_t sum_of_low_bytes(I v) {
  const __m256i sign_extended = _mm256_srai_epi32(_mm256_slli_epi32(v, 24), 24);
  const __m128i four = _mm_add_epi32(_mm256_castsi256_si128(sign_extended),
                                     _mm256_extracti128_si256(sign_extended, 1));
  const __m128i two = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4E));
  return _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32(two, 0xB1)));
}
inline I imul(I a, I b) { return _mm256_mullo_epi32(a, b); }
template <int kBits>
inline I shift_left(I v) {
  return _mm256_slli_epi32(v, kBits);
}
inline I widen_u8(const uint8_t* p) {
  return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
}
inline I widen_i8(const uint8_t* p) {
  return _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
}
inline F keep_from(F x, F limit, F a) {
  return _mm256_and_ps(_mm256_cmp_ps(x, limit, _CMP_GE_OQ), a);
}

using Bytes = __m256i;
inline Bytes load_bytes(const uint8_t* p) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
}
inline Bytes low_nibbles(Bytes v) { return _mm256_and_si256(v, _mm256_set1_epi8(15)); }
inline Bytes high_nibbles(Bytes v) {
  return _mm256_and_si256(_mm256_srli_epi16(v, 4), _mm256_set1_epi8(15));
}
template <int f>
inline Bytes with_high_bits(Bytes low, Bytes high) {
  const Bytes moved =
      f < 2 ? _mm256_slli_epi16(high, f == 0 ? 4 : 2) : _mm256_srli_epi16(high, f == 2 ? 0 : 2);
  return _mm256_or_si256(low, _mm256_and_si256(moved, _mm256_set1_epi8(0x30)));
}

inline __m256i four_of(const int8_t* x) {
  int32_t four;
  __builtin_memcpy(&four, x, 4);
  return _mm256_set1_epi32(four);
}
inline I pairs_to_int(__m256i pairs) { return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)); }

/// Weights of at most 15: eight pair sums (15 * 127 * 2 each) fit 16 bits.
struct NibbleDot {
  struct Sum {
    I start;
    __m256i pairs;
  };
  static Sum begin(I start) { return {start, _mm256_setzero_si256()}; }
  static void add(Sum& sum, Bytes w, const int8_t* x) {
    sum.pairs = _mm256_add_epi16(sum.pairs, _mm256_maddubs_epi16(w, four_of(x)));
  }
  static I end(const Sum& sum) { return iadd(sum.start, pairs_to_int(sum.pairs)); }
};
/// Weights of at most 63: one pair sum (63 * 127 * 2) fits 16 bits.
struct SmallDot {
  using Sum = I;
  static Sum begin(I start) { return start; }
  static void add(Sum& sum, Bytes w, const int8_t* x) {
    sum = iadd(sum, pairs_to_int(_mm256_maddubs_epi16(w, four_of(x))));
  }
  static I end(Sum sum) { return sum; }
};
/// Any byte: 255 * 127 * 2 does not fit 16 bits, so the halves of each byte go one by one.
struct ByteDot {
  using Sum = I;
  static Sum begin(I start) { return start; }
  static void add(Sum& sum, Bytes w, const int8_t* x) {
    const __m256i four = four_of(x);
    const I low = pairs_to_int(_mm256_maddubs_epi16(low_nibbles(w), four));
    const I high = pairs_to_int(_mm256_maddubs_epi16(high_nibbles(w), four));
    sum = iadd(sum, iadd(low, shift_left<4>(high)));
  }
  static I end(Sum sum) { return sum; }
};

}  // namespace
}  // namespace tailor::parallel::cpu
