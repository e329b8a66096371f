// The engine of a worker program. Which of the two sources is linked makes the program:
// tailor-worker computes with --engine cpu and loads no libtorch; tailor-worker-torch with --engine
// torch, the reference, on CPU or CUDA.
#pragma once

#include <memory>

#include "base/result.h"
#include "parallel/engine.h"

namespace tailor::launch {

/// The value of --engine that this program takes.
const char* worker_engine_name();
/// The memory of a rank's KV blocks: so far the device tier, on `device` ("cpu", "cuda:0").
Result<std::shared_ptr<kv::BlockStore>> make_worker_store(const std::string& device,
                                                          const kv::BlockLayout& layout,
                                                          int32_t num_blocks);
Result<std::unique_ptr<parallel::Engine>> make_worker_engine(
    const weights::WeightFiles& files, const parallel::TpContext& tp,
    const parallel::EngineOptions& options);

}  // namespace tailor::launch
