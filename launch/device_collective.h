// What a worker knows of CUDA beside its engine: the collective that moves an engine's device bytes
// (NCCL's on GPUs), and which GPUs there are (launch/device_place.h). Which of the two sources is
// linked says whether the program knows any.
#pragma once

#include <memory>
#include <string>

#include "base/result.h"
#include "comm/collective.h"

namespace tailor::launch {

/// Null on the CPU and for one rank: `bootstrap` serves. Errors: Unavailable (this program has
/// no NCCL), and NCCL's.
Result<std::unique_ptr<comm::Collective>> make_device_collective(const std::string& device,
                                                                 comm::Collective& bootstrap);

}  // namespace tailor::launch
