// `--engine torch`: the readable reference in libtorch ops, and the oracle for every faster engine.
// Llama: RMSNorm in F32, rotate-half RoPE, grouped-query attention over the paged pool
// (parallel/attention_torch.h), SiLU MLP; column-parallel, then row-parallel products as fixed
// partials summed in one fixed tree (parallel/reduction.h). Device and type are parameters: F32 or
// BF16 on the CPU, BF16 on a CUDA device.
#pragma once

#include <memory>
#include <string>

#include "base/result.h"
#include "parallel/engine.h"
#include "weights/weight_files.h"

namespace tailor::parallel {

/// Reads this rank's shard and reserves its KV pool; `files` is not used after the return. Both
/// sizes are checked against free memory, which ranks of one host share
/// (EngineOptions::ranks_on_host); `info().summary` tells the choices. On CUDA `tp.collective` is
/// given device pointers; the engine waits for its own stream before each call, and the collective
/// returns when the bytes are there. Errors: InvalidArgument (tp above the units, unknown device or
/// dtype), LimitExceeded (memory, with the numbers), DeviceFailure, and those of WeightFiles::read.
Result<std::unique_ptr<Engine>> make_torch_engine(const weights::WeightFiles& files,
                                                  const TpContext& tp,
                                                  const EngineOptions& options);

/// The name of the engine's arithmetic: replicas of one cluster share one, and a GPU's sums are not
/// the CPU's.
std::string torch_arithmetic(bool on_gpu, bool bf16);

}  // namespace tailor::parallel
