// The collective that moves an engine's device bytes: MPI's own on the CPU, NCCL's on CUDA devices.
// Which of the two sources is compiled says whether NCCL's headers were found.
#pragma once

#include <memory>
#include <string>

#include "base/result.h"
#include "comm/collective.h"

namespace tailor::launch {

/// "cpu" as it is; "cuda" becomes "cuda:N", one device a rank: `first` counted on by this rank's
/// number on its host. "cuda:N" counts from N. Errors: Unavailable (fewer devices than ranks: names
/// both numbers; a device serves one process).
Result<std::string> device_of_rank(const std::string& device, int first, int local_rank);

/// Null on the CPU and for one rank: `bootstrap` serves. Errors: Unavailable (this build has no
/// NCCL), and NCCL's.
Result<std::unique_ptr<comm::Collective>> make_device_collective(const std::string& device,
                                                                 comm::Collective& bootstrap);

}  // namespace tailor::launch
