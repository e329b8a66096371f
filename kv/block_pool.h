// BlockPool: the device tier's memory. A block holds `block_tokens` tokens of all layers as one
// contiguous slab per KV group: [block][group_local][layer][K,V][slot][head_dim], so that swapping
// or moving a block, also between replicas of different tp sizes, is a few large copies. On the CPU
// it is lazily touched anonymous memory: an idle pool costs address space, not RAM. Owner: the
// rank's main thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "base/result.h"

namespace tailor::kv {

/// Where things lie inside a pool. All strides count values, not bytes.
struct BlockLayout {
  int64_t block_tokens = 16;
  int64_t num_layers = 0;
  int64_t num_groups_local = 0;
  int64_t head_dim = 0;
  int64_t value_bytes = 4;  ///< 4 = F32, 2 = BF16

  int64_t plane_values() const {
    return block_tokens * head_dim;
  }  ///< K or V of one layer and group
  int64_t slab_values() const { return num_layers * 2 * plane_values(); }
  int64_t block_values() const { return num_groups_local * slab_values(); }
  int64_t slab_bytes() const { return slab_values() * value_bytes; }
  int64_t block_bytes() const { return block_values() * value_bytes; }
  /// Offset of a K (kv = 0) or V (kv = 1) plane inside a block.
  int64_t plane_offset(int64_t group, int64_t layer, int64_t kv) const {
    return group * slab_values() + (layer * 2 + kv) * plane_values();
  }
};

/// What the size of a pool is chosen from. Bytes and blocks are this rank's.
struct PoolRequest {
  BlockLayout layout;
  uint64_t kv_bytes = 0;                ///< 0 = choose
  uint64_t available_bytes = 0;         ///< this rank's share of free memory, after the weights
  uint64_t ceiling_bytes = 2ull << 30;  ///< of a chosen pool
  double available_share = 0.25;        ///< of a chosen pool
  int32_t max_context = 0;              ///< tokens
  bool max_context_given = false;       ///< by the user: then it is refused, not capped
  int32_t target_sequences = 32;        ///< of max_context, when choosing
};

struct PoolSize {
  int32_t num_blocks = 0;
  int32_t max_context = 0;
  std::string sentence;  ///< for the log: the choice and its reasons
};

/// Pure. Errors: LimitExceeded when one sequence of a given max_context (or, if none was given, of
/// one block) does not fit; the message names both numbers.
Result<PoolSize> choose_pool_size(const PoolRequest& request);

class BlockPool {
 public:
  /// Reserves num_blocks * layout.block_bytes() of zeroed, untouched memory. Errors: OutOfBlocks
  /// (the system refuses).
  static Result<std::unique_ptr<BlockPool>> create(const BlockLayout& layout, int32_t num_blocks);
  ~BlockPool();
  BlockPool(const BlockPool&) = delete;
  BlockPool& operator=(const BlockPool&) = delete;

  const BlockLayout& layout() const { return layout_; }
  int32_t num_blocks() const { return num_blocks_; }
  std::byte* data() const { return data_; }
  /// One group's slab of one block: what a swap or a migration copies.
  std::span<std::byte> slab(int32_t block, int32_t group_local) const;

 private:
  BlockPool(const BlockLayout& layout, int32_t num_blocks, std::byte* data, size_t bytes)
      : layout_(layout), num_blocks_(num_blocks), data_(data), bytes_(bytes) {}

  const BlockLayout layout_;
  const int32_t num_blocks_;
  std::byte* const data_;
  const size_t bytes_;
};

}  // namespace tailor::kv
