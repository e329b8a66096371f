// The kernel language for nvcc: CUDA's own, with the few names that parallel/cuda/gpu.h adds.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <bit>
#include <cstdint>
#include <string>
#include <type_traits>

#include "base/result.h"
#include "parallel/cuda/stream.h"

#define TAILOR_SHARED(T, name, count) __shared__ T name[count]
#define TAILOR_DYNAMIC_SHARED(T, name)                                   \
  extern __shared__ __align__(16) unsigned char tailor_dynamic_shared[]; \
  T* const name = reinterpret_cast<T*>(tailor_dynamic_shared)

namespace tailor::parallel::gpu {

using Dim3 = dim3;

template <class T>
__device__ T shuffle_xor(T value, int mask) {
  return __shfl_xor_sync(0xFFFFFFFF, value, mask);
}
template <class T>
__device__ T shuffle(T value, int from) {
  return __shfl_sync(0xFFFFFFFF, value, from);
}
template <class T>
__device__ T shuffle_up(T value, int delta) {
  return __shfl_up_sync(0xFFFFFFFF, value, delta);
}
inline __device__ uint32_t ballot(bool predicate) { return __ballot_sync(0xFFFFFFFF, predicate); }

inline __device__ float rounded_product(float a, float b) { return __fmul_rn(a, b); }

inline __device__ uint16_t bf16_bits(float value) {
  return __bfloat16_as_ushort(__float2bfloat16_rn(value));
}

/// Shared memory beyond this must be asked for.
constexpr size_t kSharedBytesUnasked = 48 * 1024;

template <class... Args>
Result<void> launch(const char* name, void (*kernel)(Args...), Dim3 grid, Dim3 block,
                    size_t shared_bytes, Stream stream, std::type_identity_t<Args>... args) {
  cudaError_t error = cudaSuccess;
  if (shared_bytes > kSharedBytesUnasked)
    error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 static_cast<int>(shared_bytes));
  if (error == cudaSuccess) {
    kernel<<<grid, block, shared_bytes, reinterpret_cast<cudaStream_t>(stream)>>>(args...);
    error = cudaGetLastError();
  }
  if (error == cudaSuccess) return {};
  return fail(ErrorCode::kDeviceFailure,
              std::string("kernel ") + name + ": " + cudaGetErrorString(error));
}

}  // namespace tailor::parallel::gpu
