#include "parallel/cpu/kernels_cpu.h"

namespace tailor::parallel::cpu {

extern const CpuKernels kernels_scalar;
#if defined(__x86_64__)
extern const CpuKernels kernels_avx2, kernels_avx512;
#endif

Result<const CpuKernels*> cpu_kernels(const std::string& instruction_set) {
#if defined(__x86_64__)
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                    __builtin_cpu_supports("f16c");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vnni");
  const bool any = instruction_set == "auto";
  if (avx512 && (any || instruction_set == "avx512")) return &kernels_avx512;
  if (avx2 && (any || instruction_set == "avx2")) return &kernels_avx2;
  if (instruction_set == "avx512" || instruction_set == "avx2")
    return fail(ErrorCode::kInvalidArgument,
                "this CPU lacks " + std::string(instruction_set == "avx2"
                                                    ? "AVX2, FMA or F16C"
                                                    : "AVX-512 F, BW, VL, DQ or VNNI"));
#endif
  if (instruction_set == "auto" || instruction_set == "scalar") return &kernels_scalar;
  return fail(ErrorCode::kInvalidArgument,
              "the instruction set must be auto, avx512, avx2 or scalar, found " + instruction_set);
}

}  // namespace tailor::parallel::cpu
