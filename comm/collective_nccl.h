// Collective over NCCL: spans are device memory of this rank's GPU, moved on one CUDA stream. One
// caller: the rank's main thread, as NCCL asks. Compiled wherever the headers are found, also where
// no GPU is.
//
// The communicator is non-blocking: every call is polled with a deadline, and any error or timeout
// aborts it, so that a dead peer cannot hang this rank. Bytes only: reductions are ours.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "base/time.h"
#include "comm/collective.h"

namespace tailor::comm {

struct NcclCollectiveOptions {
  int device = 0;                   ///< CUDA device of this rank; no two ranks share one
  void* stream = nullptr;           ///< cudaStream_t; null = the default stream
  Duration deadline = seconds(30);  ///< of every wait, creation included
  /// Each call returns when its bytes have arrived. False: when the work is in the stream; later
  /// work on that stream sees the bytes, and a peer lost in between shows at the next call.
  bool wait_for_data = true;
};

/// The number of CUDA devices that can be used here; 0 where there is no GPU or no driver.
int nccl_device_count();

/// Their UUIDs, in CUDA's order.
std::vector<std::array<uint8_t, 16>> cuda_device_ids();

/// Makes the communicator of the same ranks as `bootstrap` (a Collective on host memory, usually
/// MPI's), which only carries the unique id made by rank 0. All ranks call it. Leaves `device` as
/// the thread's current device. Errors: DeviceFailure (CUDA's or NCCL's own words), Timeout, and
/// those of `bootstrap`. Errors of its calls: InvalidArgument, LimitExceeded (nothing was sent),
/// Timeout, DeviceFailure; after the last two the communicator is aborted and every call fails at
/// once.
Result<std::unique_ptr<Collective>> make_nccl_collective(Collective& bootstrap,
                                                         const NcclCollectiveOptions& options);

}  // namespace tailor::comm
