// The KV blocks of a GPU: the device tier, which its engine reads and writes, and, where asked for,
// a tier of pinned host memory. Moves are copies on a stream of their own, behind what the engine
// has put into its stream when they are begun; begin() waits for none of them, and status() asks
// their events.
//
// What leaves the device takes a checksum of each slab with it, computed there from the slab
// itself. What comes back is summed again on the device, and a move whose sums differ has failed:
// damage on the bus, in the host's memory and by whoever writes to it shows. A host block that
// nothing was moved to matches nothing. Copies within a tier are not summed; within the host's, the
// sums go along.
#pragma once

#include <memory>

#include "base/result.h"
#include "base/time.h"
#include "kv/block_store.h"
#include "parallel/cuda/device.h"

namespace tailor::parallel::gpu {

inline constexpr kv::TierId kHostTier = 1;

struct CudaStoreOptions {
  int32_t host_blocks = 0;          ///< of the pinned tier; 0: there is none
  Duration deadline = seconds(60);  ///< of the oldest move, and of what checksum() waits for
};

/// As kv::MakeBlockStore; `device` outlives the store. Owner: the rank's main thread. Errors:
/// OutOfBlocks (names what was asked for and what is free), DeviceFailure. Errors of begin() beside
/// those of kv::BlockStore: Timeout (a move is not over in time: the rank must leave).
Result<std::shared_ptr<kv::BlockStore>> make_cuda_store(Device& device,
                                                        const CudaStoreOptions& options,
                                                        const kv::BlockLayout& layout,
                                                        int32_t num_blocks);

}  // namespace tailor::parallel::gpu
