// The device tier as a tensor: the KV pool of `--engine torch` on a device that is not the CPU. A
// plan's moves are copies on the device's stream, and over when begin() returns: the reference
// waits once for all of them. A copy that fails is a miss; two one after the other, or a device
// that cannot be waited for, is DeviceFailure.
#pragma once

#include <memory>
#include <string>

#include "base/result.h"
#include "kv/block_store.h"

namespace tailor::parallel {

/// As kv::MakeBlockStore. `device` as torch names it. Errors: OutOfBlocks.
Result<std::shared_ptr<kv::BlockStore>> make_tensor_store(const std::string& device,
                                                          const kv::BlockLayout& layout,
                                                          int32_t num_blocks);

}  // namespace tailor::parallel
