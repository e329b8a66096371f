#include "kv/block_manager.h"

#include <algorithm>
#include <string>

#include "base/check.h"

namespace tailor::kv {

BlockManager::BlockManager(const BlockManagerOptions& options)
    : options_(options), ref_counts_(options.num_blocks, 0), tables_(options.max_tables) {
  TAILOR_CHECK(options.num_blocks > 0 && options.block_tokens > 0 && options.max_tables > 0,
               "a block manager needs blocks and tables");
  constexpr int32_t kUsualBlocks = 64;  // longer tables grow once, and keep their memory
  for (Table& t : tables_) t.blocks.reserve(std::min(options.num_blocks, kUsualBlocks));
  free_.reserve(options.num_blocks);
  for (BlockId id = options.num_blocks - 1; id >= 0; --id) free_.push_back(id);
  free_tables_.reserve(options.max_tables);
  for (TableId id = options.max_tables - 1; id >= 0; --id) free_tables_.push_back(id);
}

TableId BlockManager::open_table() {
  TAILOR_CHECK(!free_tables_.empty(), "more block tables than sequences that may run");
  TableId id = free_tables_.back();
  free_tables_.pop_back();
  tables_[id].open = true;
  return id;
}

void BlockManager::close_table(TableId table) {
  Table& t = tables_[table];
  TAILOR_CHECK(t.open, "a block table is closed twice");
  for (size_t i = t.blocks.size(); i-- > 0;) {
    BlockId block = t.blocks[i];
    TAILOR_CHECK(ref_counts_[block] > 0, "a free block stands in a table");
    if (--ref_counts_[block] == 0) free_.push_back(block);
  }
  t.blocks.clear();
  t.open = false;
  free_tables_.push_back(table);
}

int32_t BlockManager::blocks_missing(TableId table, int32_t num_tokens) const {
  int32_t held = static_cast<int32_t>(tables_[table].blocks.size());
  int32_t wanted = blocks_for(num_tokens);
  return wanted > held ? wanted - held : 0;
}

Result<void> BlockManager::reserve(TableId table, int32_t num_tokens) {
  Table& t = tables_[table];
  TAILOR_CHECK(t.open, "blocks for a table that is not open");
  int32_t missing = blocks_missing(table, num_tokens);
  if (missing > free_blocks()) {
    return fail(ErrorCode::kOutOfBlocks, std::to_string(missing) + " more KV blocks are needed, " +
                                             std::to_string(free_blocks()) + " of " +
                                             std::to_string(capacity()) + " are free");
  }
  for (int32_t i = 0; i < missing; ++i) {
    BlockId block = free_.back();
    free_.pop_back();
    ref_counts_[block] = 1;
    t.blocks.push_back(block);
  }
  return {};
}

int32_t BlockManager::fork(TableId from, TableId to, int32_t num_tokens) {
  const Table& source = tables_[from];
  Table& target = tables_[to];
  TAILOR_CHECK(source.open && target.open && target.blocks.empty(),
               "fork goes into an empty table");
  int32_t full = num_tokens / options_.block_tokens;
  TAILOR_CHECK(full <= static_cast<int32_t>(source.blocks.size()),
               "fork of more blocks than there are");
  for (int32_t i = 0; i < full; ++i) {
    BlockId block = source.blocks[i];
    ++ref_counts_[block];
    target.blocks.push_back(block);
  }
  return full * options_.block_tokens;
}

Result<void> BlockManager::check_integrity() const {
  auto wrong = [](const std::string& what) { return fail(ErrorCode::kInternal, what); };
  std::vector<int32_t> counts(capacity(), 0);
  for (const Table& t : tables_) {
    if (!t.open && !t.blocks.empty()) return wrong("a closed table holds blocks");
    for (size_t i = 0; i < t.blocks.size(); ++i) {
      BlockId block = t.blocks[i];
      if (block < 0 || block >= capacity())
        return wrong("block " + std::to_string(block) + " does not exist");
      ++counts[block];
    }
  }
  std::vector<bool> is_free(capacity(), false);
  for (BlockId block : free_) {
    if (is_free[block]) return wrong("block " + std::to_string(block) + " is free twice");
    is_free[block] = true;
  }
  for (BlockId block = 0; block < capacity(); ++block) {
    if (counts[block] != ref_counts_[block])
      return wrong("block " + std::to_string(block) + " is counted " +
                   std::to_string(ref_counts_[block]) + " times but stands in " +
                   std::to_string(counts[block]) + " tables");
    if (is_free[block] == (counts[block] > 0))
      return wrong("block " + std::to_string(block) +
                   (is_free[block] ? " is free and held" : " is lost"));
  }
  return {};
}

}  // namespace tailor::kv
