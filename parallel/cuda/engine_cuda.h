// `--engine cuda`: Llama on a GPU. Weights and KV in BF16 (F32 for parity), the residual stream and
// all sums in F32; tokens are drawn on the device and ids alone come back, logits only where they
// are asked for. A step is work in one stream: submit() lays its rows out in pinned memory, puts
// copies and kernels into the stream and returns; collect() waits for its events. So the next step
// may be submitted, naming tokens that are not drawn yet, while one computes (depth 2). Plain C++
// over parallel/cuda/device.h, kernels.h and gemm.h: the fake device runs it too. The torch engine
// and the stored parity fixtures are the oracles.
#pragma once

#include <memory>

#include "base/result.h"
#include "parallel/cuda/device.h"
#include "parallel/engine.h"
#include "weights/weight_files.h"

namespace tailor::parallel {

/// Loads this rank's shard and reserves its KV pool; `files` is not used after the return, `device`
/// outlives the engine and is what EngineOptions::device names. A collective works on memory of
/// this device, in the order of its stream (comm/collective_nccl.h without wait_for_data,
/// parallel/cuda/collective_staged.h). Errors: InvalidArgument (tp above the units, sizes the
/// kernels do not take, unknown dtype), LimitExceeded (memory, with the numbers), DeviceFailure,
/// Timeout, those of WeightFiles::read and of the collective.
Result<std::unique_ptr<Engine>> make_cuda_engine(gpu::Device& device,
                                                 const weights::WeightFiles& files,
                                                 const TpContext& tp, const EngineOptions& options);

}  // namespace tailor::parallel
