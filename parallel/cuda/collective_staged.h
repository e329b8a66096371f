// A Collective on device memory over one on host memory: what a rank sends is copied to pinned
// memory first, what it receives back from there. For ranks that share a GPU, or a process (tests),
// where NCCL does not serve, and for the fake device. Calls wait on the host for what is in the
// stream before them; what is put into it afterwards sees the bytes.
#pragma once

#include <memory>

#include "base/result.h"
#include "base/time.h"
#include "comm/collective.h"
#include "parallel/cuda/device.h"

namespace tailor::parallel::gpu {

/// `host` and `device` outlive it; `host` carries nothing else meanwhile. Every wait for the device
/// ends at `deadline`. Errors of its calls: those of `host`, DeviceFailure, Timeout, and
/// LimitExceeded where pinned memory for a call larger than all before cannot be had.
std::unique_ptr<comm::Collective> make_staged_collective(Device& device, comm::Collective& host,
                                                         Duration deadline);

}  // namespace tailor::parallel::gpu
