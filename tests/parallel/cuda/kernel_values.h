// Values of both element types for tests of kernels: random ones, and what a kernel is held
// against, in float64.
#pragma once

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

#include "kv/block_layout.h"

namespace tailor::parallel::gpu {

using Bits16 = uint16_t;  // a BF16

template <class T>
constexpr kv::ValueType kTypeOf = kv::ValueType::kF32;
template <>
inline constexpr kv::ValueType kTypeOf<Bits16> = kv::ValueType::kBF16;

inline double value_of(float x) { return x; }
inline double value_of(Bits16 x) { return std::bit_cast<float>(static_cast<uint32_t>(x) << 16); }

template <class T>
T nearest(float x) {
  if constexpr (sizeof(T) == 4) {
    return x;
  } else {
    const auto bits = std::bit_cast<uint32_t>(x);
    return static_cast<T>((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
  }
}

/// The rounding of a result to T, relative, and of sums of F32 values before it.
template <class T>
constexpr double kRounding = sizeof(T) == 4 ? 2e-7 : 0x1p-8;

/// What no kernel may let through: memory that holds nothing yet.
template <class T>
T poison() {
  if constexpr (sizeof(T) == 4)
    return std::numeric_limits<float>::quiet_NaN();
  else
    return 0x7FFF;
}

class RandomValues {
 public:
  explicit RandomValues(uint64_t seed) : random_(seed) {}
  template <class T>
  std::vector<T> normal(int64_t n, float spread = 1) {
    std::normal_distribution<float> of(0, spread);
    std::vector<T> values(static_cast<size_t>(n));
    for (T& value : values) value = nearest<T>(of(random_));
    return values;
  }
  /// In [low, high].
  int64_t between(int64_t low, int64_t high) {
    return std::uniform_int_distribution<int64_t>(low, high)(random_);
  }
  std::mt19937_64& engine() { return random_; }

 private:
  std::mt19937_64 random_;
};

template <class T>
std::vector<double> values_of(const std::vector<T>& values) {
  std::vector<double> out;
  for (T value : values) out.push_back(value_of(value));
  return out;
}

/// |found - expected| <= relative * |expected| + absolute, everywhere.
template <class T>
void expect_near(const std::vector<T>& found, const std::vector<double>& expected, double relative,
                 double absolute, const char* what) {
  ASSERT_EQ(found.size(), expected.size()) << what;
  for (size_t i = 0; i < found.size(); ++i) {
    const double bound = relative * std::abs(expected[i]) + absolute;
    ASSERT_LE(std::abs(value_of(found[i]) - expected[i]), bound)
        << what << ", value " << i << ": " << value_of(found[i]) << " for " << expected[i];
  }
}

}  // namespace tailor::parallel::gpu
