// The collective between the ranks of the cuda engine, which works on device memory in the order of
// the device's stream. Which of the two sources is linked: stream_collective_nccl.cc, or
// stream_collective_staged.cc over host memory, where a fake device serves.
#pragma once

#include <memory>

#include "base/result.h"
#include "base/time.h"
#include "comm/collective.h"
#include "parallel/cuda/device.h"

namespace tailor::launch {

/// All ranks call it. `control` and `transport` as launch/worker_engine.h has them. Every wait ends
/// at `deadline`. Errors: those of NCCL and of `control`.
Result<std::unique_ptr<comm::Collective>> make_stream_collective(parallel::gpu::Device& device,
                                                                 comm::Collective& control,
                                                                 comm::Collective& transport,
                                                                 Duration deadline);

}  // namespace tailor::launch
