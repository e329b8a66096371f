// `--engine cpu`: Llama on the CPU from the weights' stored formats, one arithmetic per format. A
// request's logits are the same bits alone or in any batch, chunked in any way, recomputed, at
// every tp size and thread count, and on every instruction set (parallel/cpu/kernels_cpu.h tells
// how). KV in F16 or F32. No allocation and no tensor library inside a step. The torch engine is
// the oracle it is compared with.
#pragma once

#include <memory>

#include "base/result.h"
#include "parallel/engine.h"
#include "weights/weight_files.h"

namespace tailor::parallel {

/// Packs the weights or maps a packed copy (EngineOptions::packed_folder), and reserves this rank's
/// KV pool; `files` is not used after the return. Errors: InvalidArgument (tp above the units,
/// sizes the kernels do not take, unknown dtype or instruction set), LimitExceeded (memory, with
/// the numbers), and those of WeightFiles::read.
Result<std::unique_ptr<Engine>> make_cpu_engine(const weights::WeightFiles& files,
                                                const TpContext& tp, const EngineOptions& options);

}  // namespace tailor::parallel
