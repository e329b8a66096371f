// `tailor bench kernels`: what each CPU kernel does of what this machine can do. The machine's own
// rates are probed in the same run: fused multiply-adds and byte dot products in registers alone,
// and reading memory in order. Each kernel and the probes alternate; medians.
#pragma once

#include <string>

#include "base/result.h"

namespace tailor::bench {

struct KernelBench {
  std::string instruction_set = "auto";
  int rounds = 7;
};
struct KernelReport {
  std::string table, json;
};
/// Errors: InvalidArgument (an instruction set this CPU lacks).
Result<KernelReport> bench_kernels(const KernelBench& options);

}  // namespace tailor::bench
