// BlockPool: the device tier alone, on the CPU. Lazily touched anonymous memory: an idle pool costs
// address space, not RAM. A move is a copy inside the pool and over when begin() returns.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "base/result.h"
#include "kv/block_layout.h"
#include "kv/block_store.h"

namespace tailor::kv {

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

class BlockPool final : public BlockStore {
 public:
  /// Reserves num_blocks * layout.block_bytes() of zeroed, untouched memory. Errors: OutOfBlocks
  /// (the system refuses).
  static Result<std::unique_ptr<BlockPool>> create(const BlockLayout& layout, int32_t num_blocks);
  ~BlockPool() override;
  BlockPool(const BlockPool&) = delete;
  BlockPool& operator=(const BlockPool&) = delete;

  const BlockLayout& layout() const override { return layout_; }
  int32_t num_blocks(TierId tier = kDeviceTier) const override {
    return tier == kDeviceTier ? num_blocks_ : 0;
  }
  std::byte* device_data() const override { return data_; }
  Result<void> begin(std::span<const BlockMove> moves) override;
  MoveStatus status(uint64_t) override { return {begun_, 0}; }
  Result<uint64_t> checksum(TierId tier, BlockId block, int32_t group_local) const override;

 private:
  BlockPool(const BlockLayout& layout, int32_t num_blocks, std::byte* data, size_t bytes)
      : layout_(layout), num_blocks_(num_blocks), data_(data), bytes_(bytes) {}

  const BlockLayout layout_;
  const int32_t num_blocks_;
  std::byte* const data_;
  const size_t bytes_;
  uint64_t begun_ = 0;
};

/// A BlockPool, as a MakeBlockStore.
Result<std::shared_ptr<BlockStore>> make_block_pool(const BlockLayout& layout, int32_t num_blocks);

}  // namespace tailor::kv
