// The kernels for one instruction set: the flags are in parallel/CMakeLists.txt. Nothing but the
// table leaves this file, so that no function compiled with these flags can be shared.

// The layer comes before what stands on it.
// clang-format off
#include "parallel/cpu/kernels_cpu.h"
#include "parallel/cpu/simd_avx2_cpu.h"
#include "parallel/cpu/kernels_cpu.inc"
// clang-format on

namespace tailor::parallel::cpu {
extern const CpuKernels kernels_avx2;
const CpuKernels kernels_avx2 = table("avx2");
}  // namespace tailor::parallel::cpu
