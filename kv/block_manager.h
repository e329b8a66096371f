// BlockManager: who holds which KV block, on every tier. Pure bookkeeping: no memory is touched
// here, block ids are equal on all ranks of a replica, and kv/block_store.h has the bytes. Owner:
// the leader's main thread, inside worker::BatchPlanner; the simulator owns another.
//
// A block table lists the blocks of one tier that hold a sequence's tokens in order; a block may
// stand in several tables (shared prompt of n samples) and is counted once per table. Shared blocks
// are always full, so nobody writes to one. There may be more tables than sequences that run: one
// that is paused keeps its own. Blocks that are being filled by a move are reserved: taken, but in
// no table before commit().
//
// Invariant after every call, on each tier: free + used + cached = capacity. "Cached" are blocks
// nobody holds whose content is still named; there is no prefix cache yet, so it is 0. Source:
// PagedAttention block tables, arXiv 2309.06180.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "base/result.h"
#include "kv/block_layout.h"
#include "kv/block_moves.h"

namespace tailor::kv {

/// A block table's place, dense from 0; reused after close_table().
using TableId = int32_t;

struct BlockManagerOptions {
  std::array<int32_t, kMaxTiers> tier_blocks{};  ///< the device first; 0 = no such tier
  int32_t block_tokens = kBlockTokens;
  int32_t max_tables = 0;  ///< sequences that can hold blocks at once, running or paused
};

class BlockManager {
 public:
  explicit BlockManager(const BlockManagerOptions& options);

  /// An empty table on `tier`, which has blocks. At most `max_tables` are open at once (both
  /// checked). Cost: O(1).
  TableId open_table(TierId tier = kDeviceTier);
  /// Gives back the table and every block nobody else holds. A reservation must be over (checked):
  /// a move may still be filling its blocks. Cost: O(its blocks).
  void close_table(TableId table);

  /// Makes the table long enough for `num_tokens` tokens in all; never shortens it. Cost: O(new
  /// blocks), no allocation once the table's place has held as many before. Errors: OutOfBlocks
  /// (nothing taken; `free_blocks()` tells how many were left).
  Result<void> extend(TableId table, int32_t num_tokens);

  /// As extend() in two phases, so that what fails in between leaves nothing half done: takes the
  /// blocks, which enter the table with commit() or are free again after abort(). One reservation a
  /// table at a time (checked). Errors: as extend().
  Result<void> reserve(TableId table, int32_t num_tokens);
  void commit(TableId table);
  void abort(TableId table);
  /// The blocks of an open reservation.
  std::span<const BlockId> reserved(TableId table) const {
    const Table& t = tables_[table];
    return std::span(t.blocks).subspan(t.held);
  }

  /// Puts the blocks that are full within the first `num_tokens` tokens of `from` into the empty
  /// table `to` of the same tier, shared. Returns how many tokens they hold: a multiple of the
  /// block size. Needs no free block. Cost: O(shared blocks).
  int32_t fork(TableId from, TableId to, int32_t num_tokens);

  /// New blocks that extend() would take.
  int32_t blocks_missing(TableId table, int32_t num_tokens) const;
  int32_t blocks_for(int32_t num_tokens) const {
    return (num_tokens + options_.block_tokens - 1) / options_.block_tokens;
  }

  std::span<const BlockId> table(TableId table) const {
    const Table& t = tables_[table];
    return std::span(t.blocks).first(t.held);
  }
  TierId tier(TableId table) const { return tables_[table].tier; }
  int32_t ref_count(BlockId block, TierId tier = kDeviceTier) const {
    return tiers_[tier].ref_counts[block];
  }

  int32_t capacity(TierId tier = kDeviceTier) const { return options_.tier_blocks[tier]; }
  int32_t free_blocks(TierId tier = kDeviceTier) const {
    return static_cast<int32_t>(tiers_[tier].free.size());
  }
  /// In tables or reserved.
  int32_t used_blocks(TierId tier = kDeviceTier) const {
    return capacity(tier) - free_blocks(tier) - cached_blocks(tier);
  }
  int32_t cached_blocks(TierId = kDeviceTier) const { return 0; }
  int32_t block_tokens() const { return options_.block_tokens; }
  int32_t open_tables() const {
    return options_.max_tables - static_cast<int32_t>(free_tables_.size());
  }

  /// Recounts everything: each block is either free or held, and its count is the number of tables
  /// and reservations it stands in. Cost: O(capacity + tables). Errors: Internal (what does not add
  /// up).
  Result<void> check_integrity() const;

 private:
  struct Tier {
    std::vector<BlockId> free;        // taken from the back
    std::vector<int32_t> ref_counts;  // [capacity]
  };
  struct Table {
    std::vector<BlockId> blocks;
    size_t held = 0;  // of them; those behind are reserved
    TierId tier = kDeviceTier;
    bool open = false, reserving = false;
  };
  void give_back(Tier& tier, BlockId block);
  Result<void> check_tier(TierId tier) const;

  const BlockManagerOptions options_;
  std::array<Tier, kMaxTiers> tiers_;
  std::vector<Table> tables_;         // [max_tables]
  std::vector<TableId> free_tables_;  // taken from the back
};

}  // namespace tailor::kv
