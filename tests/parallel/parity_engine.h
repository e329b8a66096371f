// The engine that parity_test.cc compares with transformers: parity_engine_torch.cc or
// parity_engine_cpu.cc, one binary each. Weights and KV in F32.
#pragma once

#include <memory>

#include "parallel/engine.h"

namespace tailor::parallel::testing {

Result<std::unique_ptr<Engine>> make_parity_engine(const weights::WeightFiles& files,
                                                   const TpContext& tp);

}  // namespace tailor::parallel::testing
