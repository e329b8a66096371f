// The language of our kernels (*.cu), which two compilers understand: nvcc, and g++ with fibers for
// threads (parallel/cuda/fake/fibers.h). Of CUDA it has __global__, __device__, threadIdx and its
// like, __syncthreads, __syncwarp and atomics; and TAILOR_SHARED, TAILOR_DYNAMIC_SHARED, shuffle,
// ballot and launch, spelled so that both can read them. A warp's exchanges take all its 32 lanes.
// Only kernel sources include this. Why: docs/decisions/021.
#pragma once

#if defined(__CUDACC__)
#include "parallel/cuda/gpu_nvcc.h"
#else
#include "parallel/cuda/fake/gpu_fake.h"
#endif

#include <cstddef>
#include <cstdint>

#include "kv/block_layout.h"

namespace tailor::parallel::gpu {

constexpr int kWarp = 32;

struct Bf16 {
  uint16_t bits;
};

inline __device__ float to_float(float value) { return value; }
inline __device__ float to_float(Bf16 value) {
  return std::bit_cast<float>(static_cast<uint32_t>(value.bits) << 16);
}
template <class T>
__device__ T rounded(float value);
template <>
inline __device__ float rounded<float>(float value) {
  return value;
}
template <>
inline __device__ Bf16 rounded<Bf16>(float value) {
  return {bf16_bits(value)};
}

// ---- memory -------------------------------------------------------------------------------------

/// 16 bytes that are read or written at once.
template <class T>
struct alignas(16) Pack {
  static constexpr int kSize = 16 / sizeof(T);
  T values[kSize];
};

inline __device__ bool aligned(const void* at) { return reinterpret_cast<uintptr_t>(at) % 16 == 0; }

/// Values that a thread takes at once where memory allows it: 16 bytes of BF16.
constexpr int kRun = 8;

/// Whether rows of n values at all of these may be taken in such runs.
template <class... Pointers>
__device__ bool takes_runs(int64_t n, Pointers... at) {
  return n % kRun == 0 && (aligned(at) && ...);
}

/// kCount values at `at`, as F32. More than one: `at` is 16-byte aligned.
template <class T, int kCount>
__device__ void load(const T* at, float (&values)[kCount]) {
  if constexpr (kCount == 1) {
    values[0] = to_float(*at);
  } else {
    constexpr int kSize = Pack<T>::kSize;
    for (int i = 0; i < kCount; i += kSize) {
      const Pack<T> pack = *reinterpret_cast<const Pack<T>*>(at + i);
      for (int j = 0; j < kSize; ++j) values[i + j] = to_float(pack.values[j]);
    }
  }
}
template <class T, int kCount>
__device__ void store(T* at, const float (&values)[kCount]) {
  if constexpr (kCount == 1) {
    *at = rounded<T>(values[0]);
  } else {
    constexpr int kSize = Pack<T>::kSize;
    for (int i = 0; i < kCount; i += kSize) {
      Pack<T> pack;
      for (int j = 0; j < kSize; ++j) pack.values[j] = rounded<T>(values[i + j]);
      *reinterpret_cast<Pack<T>*>(at + i) = pack;
    }
  }
}

template <int kCount>
struct Run {
  static constexpr int kLength = kCount;
};
/// Calls f(Run<length>, i) for the runs of n values that this one of `threads` threads takes: of
/// kRun values where `whole` says that the row allows it, else of one.
template <class F>
__device__ void for_runs(bool whole, int64_t n, int64_t thread, int64_t threads, const F& f) {
  if (whole) {
    for (int64_t i = thread * kRun; i < n; i += threads * kRun) f(Run<kRun>{}, i);
  } else {
    for (int64_t i = thread; i < n; i += threads) f(Run<1>{}, i);
  }
}

// ---- sums ---------------------------------------------------------------------------------------

/// The sum over a warp, the same bits on every lane.
template <class T>
__device__ T warp_sum(T value) {
  for (int mask = kWarp / 2; mask > 0; mask /= 2) value += shuffle_xor(value, mask);
  return value;
}
template <class T>
__device__ T warp_max(T value) {
  for (int mask = kWarp / 2; mask > 0; mask /= 2) {
    const T other = shuffle_xor(value, mask);
    value = other > value ? other : value;
  }
  return value;
}

/// `combine` over all threads of a block of whole warps (blockDim.x of them), in a fixed tree; the
/// same on every thread. Holds two barriers.
template <class T, class Combine>
__device__ T block_combine(T value, T neutral, const Combine& combine) {
  TAILOR_SHARED(T, warps, kWarp);
  const int lane = static_cast<int>(threadIdx.x) % kWarp,
            warp = static_cast<int>(threadIdx.x) / kWarp;
  for (int mask = kWarp / 2; mask > 0; mask /= 2) value = combine(value, shuffle_xor(value, mask));
  __syncthreads();  // `warps` of the call before has been read
  if (lane == 0) warps[warp] = value;
  __syncthreads();
  value = lane < static_cast<int>(blockDim.x) / kWarp ? warps[lane] : neutral;
  for (int mask = kWarp / 2; mask > 0; mask /= 2) value = combine(value, shuffle_xor(value, mask));
  return value;
}
template <class T>
__device__ T block_sum(T value) {
  return block_combine(value, T{0}, [](T a, T b) { return a + b; });
}
template <class T>
__device__ T block_max(T value, T least) {
  return block_combine(value, least, [](T a, T b) { return b > a ? b : a; });
}

// ---- launchers ----------------------------------------------------------------------------------

/// f(T{}) of the element type.
template <class F>
auto with_type(kv::ValueType type, const F& f) {
  return type == kv::ValueType::kF32 ? f(float{}) : f(Bf16{});
}

constexpr __host__ __device__ int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
constexpr __host__ __device__ int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
inline Dim3 grid_of(int64_t x, int64_t y = 1) {
  return Dim3{static_cast<unsigned>(x), static_cast<unsigned>(y), 1};
}
/// Threads of a block that walks along n values: whole warps, at most `most`.
inline Dim3 threads_for(int64_t n, int64_t most) {
  const int64_t whole = ceil_div(n > 1 ? n : 1, kWarp) * kWarp;
  return grid_of(least(whole, most));
}

}  // namespace tailor::parallel::gpu
