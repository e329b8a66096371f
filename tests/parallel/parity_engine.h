// The engine that parity_test.cc compares with transformers: parity_engine_torch.cc,
// parity_engine_cpu.cc or cuda/parity_engine_cuda.cc, one binary each. Weights and KV in F32, or
// in BF16 where parity_in_bf16() says so (the cuda engine).
#pragma once

#include <cstdlib>
#include <memory>

#include "parallel/engine.h"

namespace tailor::parallel::testing {

inline bool parity_in_bf16() { return std::getenv("TAILOR_PARITY_BF16") != nullptr; }

Result<std::unique_ptr<Engine>> make_parity_engine(const weights::WeightFiles& files,
                                                   const TpContext& tp);

}  // namespace tailor::parallel::testing
