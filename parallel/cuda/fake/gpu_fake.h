// The kernel language for g++: parallel/cuda/gpu.h includes this where nvcc does not compile. The
// names are CUDA's; parallel/cuda/fake/fibers.h gives them their meaning.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <type_traits>

#include "base/result.h"
#include "parallel/cuda/fake/fibers.h"
#include "parallel/cuda/stream_fake.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define threadIdx (::tailor::parallel::gpu::fake::self().thread)
#define blockIdx (::tailor::parallel::gpu::fake::self().block)
#define blockDim (::tailor::parallel::gpu::fake::self().block_dim)
#define gridDim (::tailor::parallel::gpu::fake::self().grid_dim)

/// T name[count] in shared memory.
#define TAILOR_SHARED(T, name, count) \
  static char name##_key;             \
  T* const name =                     \
      static_cast<T*>(::tailor::parallel::gpu::fake::shared(&name##_key, sizeof(T) * (count)))
/// T name[] as large as the launch says.
#define TAILOR_DYNAMIC_SHARED(T, name) \
  T* const name = static_cast<T*>(::tailor::parallel::gpu::fake::dynamic_shared())

namespace tailor::parallel::gpu {

using Dim3 = fake::Dim3;

inline void __syncthreads() { fake::sync_threads(); }
inline void __syncwarp() { fake::exchange(fake::Exchange::kSync, nullptr, 0, 0, nullptr); }

/// What lane `lane ^ mask` holds.
template <class T>
T shuffle_xor(T value, int mask) {
  T out;
  fake::exchange(fake::Exchange::kShuffle, &value, sizeof(T), fake::lane() ^ mask, &out);
  return out;
}
/// What lane `from` holds.
template <class T>
T shuffle(T value, int from) {
  T out;
  fake::exchange(fake::Exchange::kShuffle, &value, sizeof(T), from, &out);
  return out;
}
/// What the lane `delta` below holds; the lowest keep their own.
template <class T>
T shuffle_up(T value, int delta) {
  const int from = fake::lane() - delta;
  return shuffle(value, from < 0 ? fake::lane() : from);
}
inline uint32_t ballot(bool predicate) { return fake::ballot(predicate); }

template <class T>
T atomicAdd(T* at, T value) {
  const T before = *at;
  *at += value;
  return before;
}
template <class T>
T atomicOr(T* at, T value) {
  const T before = *at;
  *at |= value;
  return before;
}

/// a * b, rounded before anything is added to it.
inline float rounded_product(float a, float b) { return a * b; }

// BF16, to nearest even; what is no number stays none.
inline uint16_t bf16_bits(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  if (value != value) return 0x7FFF;
  return static_cast<uint16_t>((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

/// Puts kernel(args..) into the stream: `grid` blocks of `block` threads.
template <class... Args>
Result<void> launch(const char* name, void (*kernel)(Args...), Dim3 grid, Dim3 block,
                    size_t shared_bytes, Stream stream, std::type_identity_t<Args>... args) {
  return run_on(stream, [=]() -> Result<void> {
    fake::run({name, grid, block, shared_bytes, [=] { kernel(args...); }}, fake::next_seed());
    return {};
  });
}

}  // namespace tailor::parallel::gpu
