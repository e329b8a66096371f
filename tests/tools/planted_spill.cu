// A kernel that cannot keep what it needs in registers: tools/kernel_resources must find it
// (kernel_resources_finds_a_spill). Compiled for that test alone.
#include <cuda_runtime.h>

constexpr int kValues = 96;

__global__ void __launch_bounds__(1024, 2) planted_spill(const float* in, float* out) {
  float value[kValues];
#pragma unroll
  for (int i = 0; i < kValues; ++i) value[i] = in[i * 1024 + threadIdx.x];
  __syncthreads();
#pragma unroll
  for (int i = 0; i < kValues; ++i)
    out[(kValues - 1 - i) * 1024 + threadIdx.x] = value[i] * value[kValues - 1 - i];
}
