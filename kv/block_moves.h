// Block moves: copies of whole blocks, within a tier or from one to another, as a plan orders them
// and every rank of a replica replays them. Plain values; kv/block_store.h carries them out.
//
// A tier is an index: 0 is the device, the others are slower and larger. Moves are numbered from 1
// in the order of the plans, the same on every rank, and are over in that order, done or failed.
// One that failed on any rank is a miss on all: its target holds nothing.
#pragma once

#include <cstdint>
#include <span>
#include <variant>

#include "base/ids.h"
#include "base/result.h"

namespace tailor::kv {

using BlockId = int32_t;
using tailor::kDeviceTier;
using tailor::TierId;
inline constexpr int kMaxTiers = 4;

/// Blocks from .. from + count - 1 of one tier become to .. to + count - 1 of another, or of the
/// same.
struct BlockMove {
  BlockId from = 0, to = 0;
  int32_t count = 1;
  TierId from_tier = kDeviceTier, to_tier = kDeviceTier;
  uint16_t reserved = 0;
};

/// `blocks[t]` = blocks of tier t; tiers beyond have none. Errors: InvalidArgument (a tier or block
/// that is not there, blocks copied onto themselves).
Result<void> check(const BlockMove& move, std::span<const int32_t> blocks);

/// The same of one slab, for who reads it: the KV group `group_local` of `num_groups_local` in a
/// block.
Result<void> check_slab(TierId tier, BlockId block, int64_t group_local,
                        std::span<const int32_t> blocks, int64_t num_groups_local);

/// How far a rank is, or the ranks are.
struct MoveStatus {
  uint64_t done = 0;    ///< all moves up to this one are over
  uint64_t failed = 0;  ///< the first that failed above those agreed about; 0 = none
};

/// What all ranks make of theirs when they agreed about the moves up to `agreed`: either all up to
/// `done` went well on all ranks (failed 0), or also `failed` == done + 1 is over and failed on
/// some. To be asked again behind a failure.
MoveStatus agree(std::span<const MoveStatus> ranks, uint64_t agreed);

/// What the replica's bookkeeping is told: every rank has done all moves up to `through`.
struct MoveDone {
  uint64_t through = 0;
};
/// `move` failed on some rank; those before it are done.
struct MoveFailed {
  uint64_t move = 0;
};
using MoveEvent = std::variant<MoveDone, MoveFailed>;

}  // namespace tailor::kv
