// BlockStore: the memory that block ids name on one rank, all its tiers, and what moves blocks
// between them: a door of the world, like a transport. The worker makes it and gives it to its
// engine, which reads and writes the device tier; the worker carries out the moves that plans
// order. First implementation: kv/block_pool.h, the device tier alone. Owner: the rank's main
// thread.
//
// How a move, the steps around it and the ranks of a replica keep out of each other's way:
//   - A plan's moves are begun before its rows are computed, on every rank in the plan's order.
//   - A block that a move fills may be named by a step, and one that it reads may be written again,
//     only when the move is over on every rank (MoveStatus, kv/block_moves.h). So no rank waits for
//     another's copies, and need not wait for its own: begin() may copy and wait until that is done
//     (both stores here do), or leave it to the device; status() waits for nothing.
//   - What does not arrive as it left (checksum), or cannot be copied, has failed: a miss, never a
//     token.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>

#include "base/result.h"
#include "kv/block_layout.h"
#include "kv/block_moves.h"

namespace tailor::kv {

class BlockStore {
 public:
  virtual ~BlockStore() = default;
  virtual const BlockLayout& layout() const = 0;
  /// 0: no such tier.
  virtual int32_t num_blocks(TierId tier) const = 0;
  /// The device tier's memory, block after block; on the engine's device.
  virtual std::byte* device_data() const = 0;

  /// Begins these, in order, behind all that were begun before; they may be over when it returns.
  /// Errors: InvalidArgument (check() of
  /// one; none of them is begun), DeviceFailure (the device is of no use any more).
  virtual Result<void> begin(std::span<const BlockMove> moves) = 0;
  /// The fence: how far they are; `failed` is the first above `agreed`, what is not above may be
  /// forgotten. Waits for nothing.
  virtual MoveStatus status(uint64_t agreed) = 0;

  /// slab_checksum of what lies there, after the moves that fill it are over. Errors:
  /// InvalidArgument (no such slab), DeviceFailure.
  virtual Result<uint64_t> checksum(TierId tier, BlockId block, int32_t group_local) const = 0;
};

/// Makes a rank's store when its engine knows what it needs of the device tier: `num_blocks` blocks
/// of this layout, zeroed. Errors: OutOfBlocks (the system refuses).
using MakeBlockStore =
    std::function<Result<std::shared_ptr<BlockStore>>(const BlockLayout&, int32_t num_blocks)>;

}  // namespace tailor::kv
