// BlockManager: who holds which KV block. Pure bookkeeping: no memory is touched here, block ids
// are equal on all ranks of a replica, and the pool (kv/block_pool.h) owns the bytes. Owner: the
// leader's main thread, inside worker::BatchPlanner; the simulator owns another.
//
// A block table lists the blocks that hold a sequence's tokens in order; a block may stand in
// several tables (shared prompt of n samples) and is counted once per table. Shared blocks are
// always full, so nobody writes to one. Invariant after every call: free + used + cached =
// capacity. "Cached" are blocks nobody holds whose content is still named; there is no prefix cache
// yet, so it is 0. Tiers: device now. Source: PagedAttention block tables, arXiv 2309.06180.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/result.h"

namespace tailor::kv {

inline constexpr int32_t kBlockTokens = 16;

using BlockId = int32_t;
/// A block table's place, dense from 0; reused after close_table().
using TableId = int32_t;

struct BlockManagerOptions {
  int32_t num_blocks = 0;
  int32_t block_tokens = kBlockTokens;
  int32_t max_tables = 0;  ///< sequences that can hold blocks at once
};

class BlockManager {
 public:
  explicit BlockManager(const BlockManagerOptions& options);

  /// An empty table. At most `max_tables` are open at once (checked). Cost: O(1).
  TableId open_table();
  /// Gives back the table and every block nobody else holds. Cost: O(its blocks).
  void close_table(TableId table);

  /// Makes the table long enough for `num_tokens` tokens in all; never shortens it. Cost: O(new
  /// blocks), no allocation once the table's place has held as many before. Errors: OutOfBlocks
  /// (nothing reserved; `free_blocks()` tells how many were left).
  Result<void> reserve(TableId table, int32_t num_tokens);

  /// Puts the blocks that are full within the first `num_tokens` tokens of `from` into the empty
  /// table `to`, shared. Returns how many tokens they hold: a multiple of the block size. Needs no
  /// free block. Cost: O(shared blocks).
  int32_t fork(TableId from, TableId to, int32_t num_tokens);

  /// New blocks that reserve() would take.
  int32_t blocks_missing(TableId table, int32_t num_tokens) const;
  int32_t blocks_for(int32_t num_tokens) const {
    return (num_tokens + options_.block_tokens - 1) / options_.block_tokens;
  }

  std::span<const BlockId> table(TableId table) const { return tables_[table].blocks; }
  int32_t ref_count(BlockId block) const { return ref_counts_[block]; }

  int32_t capacity() const { return options_.num_blocks; }
  int32_t free_blocks() const { return static_cast<int32_t>(free_.size()); }
  int32_t used_blocks() const { return capacity() - free_blocks() - cached_blocks(); }
  int32_t cached_blocks() const { return 0; }
  int32_t block_tokens() const { return options_.block_tokens; }
  int32_t open_tables() const {
    return options_.max_tables - static_cast<int32_t>(free_tables_.size());
  }

  /// Recounts everything: each block is either free or held, and its count is the number of tables
  /// it stands in. Cost: O(capacity + tables). Errors: Internal (what does not add up).
  Result<void> check_integrity() const;

 private:
  struct Table {
    std::vector<BlockId> blocks;
    bool open = false;
  };

  const BlockManagerOptions options_;
  std::vector<BlockId> free_;         // taken from the back
  std::vector<int32_t> ref_counts_;   // [num_blocks]
  std::vector<Table> tables_;         // [max_tables]
  std::vector<TableId> free_tables_;  // taken from the back
};

}  // namespace tailor::kv
