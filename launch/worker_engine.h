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
Result<std::unique_ptr<parallel::Engine>> make_worker_engine(
    const weights::WeightFiles& files, const parallel::TpContext& tp,
    const parallel::EngineOptions& options);

}  // namespace tailor::launch
