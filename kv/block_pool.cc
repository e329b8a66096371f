#include "kv/block_pool.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <limits>

#include "base/check.h"

namespace tailor::kv {
namespace {

std::string mib(uint64_t bytes) { return std::to_string((bytes + (1u << 19)) >> 20) + " MiB"; }

}  // namespace

Result<PoolSize> choose_pool_size(const PoolRequest& request) {
  const BlockLayout& layout = request.layout;
  TAILOR_CHECK(layout.block_bytes() > 0 && request.max_context > 0, "an empty block layout");
  const uint64_t block_bytes = static_cast<uint64_t>(layout.block_bytes());
  const uint64_t blocks_per_sequence =
      static_cast<uint64_t>((request.max_context + layout.block_tokens - 1) / layout.block_tokens);

  uint64_t budget = request.kv_bytes;
  std::string why = "as asked";
  if (budget == 0) {
    const uint64_t wanted = blocks_per_sequence * block_bytes *
                            static_cast<uint64_t>(std::max(1, request.target_sequences));
    const auto share = static_cast<uint64_t>(static_cast<double>(request.available_bytes) *
                                             request.available_share);
    budget = std::min({wanted, share, request.ceiling_bytes});
    why = budget == wanted ? std::to_string(request.target_sequences) + " sequences of " +
                                 std::to_string(request.max_context) + " tokens"
          : budget == share ? std::to_string(static_cast<int>(request.available_share * 100)) +
                                  " % of " + mib(request.available_bytes) + " free"
                            : "the ceiling of " + mib(request.ceiling_bytes);
  }
  const uint64_t blocks =
      std::min<uint64_t>(budget / block_bytes, std::numeric_limits<int32_t>::max());
  const std::string unit = "a block of " + std::to_string(layout.block_tokens) + " tokens takes " +
                           std::to_string(block_bytes) + " bytes";

  PoolSize size;
  size.num_blocks = static_cast<int32_t>(blocks);
  size.max_context = request.max_context;
  std::string capped;
  if (blocks < blocks_per_sequence) {
    if (request.max_context_given || blocks == 0) {
      return fail(ErrorCode::kLimitExceeded,
                  "the KV pool of " + mib(budget) + " (" + why + ") holds " +
                      std::to_string(blocks) + " blocks, but one sequence of " +
                      std::to_string(request.max_context) + " tokens needs " +
                      std::to_string(blocks_per_sequence) + " (" + unit +
                      "); raise the KV memory or lower the context limit");
    }
    size.max_context = static_cast<int32_t>(blocks * static_cast<uint64_t>(layout.block_tokens));
    capped = "; context limit lowered from " + std::to_string(request.max_context) + " to " +
             std::to_string(size.max_context) + " tokens so that one sequence fits";
  }
  size.sentence = "KV pool: " + std::to_string(blocks) + " blocks, " + mib(blocks * block_bytes) +
                  " (" + why + "; " + unit + ")" + capped;
  return size;
}

Result<std::unique_ptr<BlockPool>> BlockPool::create(const BlockLayout& layout,
                                                     int32_t num_blocks) {
  TAILOR_CHECK(num_blocks > 0 && layout.block_bytes() > 0, "an empty pool");
  const size_t bytes = static_cast<size_t>(layout.block_bytes()) * static_cast<size_t>(num_blocks);
  void* data = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (data == MAP_FAILED) {
    return fail(ErrorCode::kOutOfBlocks,
                "could not reserve " + mib(bytes) + " for the KV pool: " + std::strerror(errno));
  }
  return std::unique_ptr<BlockPool>(
      new BlockPool(layout, num_blocks, static_cast<std::byte*>(data), bytes));
}

BlockPool::~BlockPool() { ::munmap(data_, bytes_); }

Result<void> BlockPool::begin(std::span<const BlockMove> moves) {
  for (const BlockMove& move : moves) TAILOR_TRY(check(move, std::span(&num_blocks_, 1)));
  const auto bytes = static_cast<size_t>(layout_.block_bytes());
  for (const BlockMove& move : moves)
    std::memcpy(data_ + static_cast<size_t>(move.to) * bytes,
                data_ + static_cast<size_t>(move.from) * bytes,
                static_cast<size_t>(move.count) * bytes);
  begun_ += moves.size();
  return {};
}

Result<uint64_t> BlockPool::checksum(TierId tier, BlockId block, int32_t group_local) const {
  TAILOR_TRY(
      check_slab(tier, block, group_local, std::span(&num_blocks_, 1), layout_.num_groups_local));
  return slab_checksum(layout_, {data_ + layout_.slab_offset(block, group_local),
                                 static_cast<size_t>(layout_.slab_bytes())});
}

Result<std::shared_ptr<BlockStore>> make_block_pool(const BlockLayout& layout, int32_t num_blocks) {
  TAILOR_ASSIGN(std::shared_ptr<BlockStore> pool, BlockPool::create(layout, num_blocks));
  return pool;
}

}  // namespace tailor::kv
