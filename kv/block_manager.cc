#include "kv/block_manager.h"

#include <algorithm>
#include <string>

#include "base/check.h"

namespace tailor::kv {

BlockManager::BlockManager(const BlockManagerOptions& options)
    : options_(options), tables_(options.max_tables) {
  TAILOR_CHECK(capacity() > 0 && options.block_tokens > 0 && options.max_tables > 0,
               "a block manager needs blocks and tables");
  for (TierId t = 0; t < kMaxTiers; ++t) {
    tiers_[t].ref_counts.assign(capacity(t), 0);
    tiers_[t].free.reserve(capacity(t));
    for (BlockId id = capacity(t) - 1; id >= 0; --id) tiers_[t].free.push_back(id);
  }
  constexpr int32_t kUsualBlocks = 64;  // longer tables grow once, and keep their memory
  for (Table& t : tables_) t.blocks.reserve(std::min(capacity(), kUsualBlocks));
  free_tables_.reserve(options.max_tables);
  for (TableId id = options.max_tables - 1; id >= 0; --id) free_tables_.push_back(id);
}

TableId BlockManager::open_table(TierId tier) {
  TAILOR_CHECK(!free_tables_.empty(), "more block tables than sequences that may hold blocks");
  TAILOR_CHECK(tier < kMaxTiers && capacity(tier) > 0, "a table on a tier that is not there");
  TableId id = free_tables_.back();
  free_tables_.pop_back();
  tables_[id].open = true;
  tables_[id].tier = tier;
  return id;
}

void BlockManager::close_table(TableId table) {
  Table& t = tables_[table];
  TAILOR_CHECK(t.open, "a block table is closed twice");
  TAILOR_CHECK(!t.reserving, "a block table is closed while blocks are reserved for it");
  for (size_t i = t.blocks.size(); i-- > 0;) give_back(tiers_[t.tier], t.blocks[i]);
  t.blocks.clear();
  t.held = 0;
  t.open = false;
  free_tables_.push_back(table);
}

void BlockManager::give_back(Tier& tier, BlockId block) {
  TAILOR_CHECK(tier.ref_counts[block] > 0, "a free block stands in a table");
  if (--tier.ref_counts[block] == 0) tier.free.push_back(block);
}

int32_t BlockManager::blocks_missing(TableId table, int32_t num_tokens) const {
  int32_t held = static_cast<int32_t>(tables_[table].held);
  int32_t wanted = blocks_for(num_tokens);
  return wanted > held ? wanted - held : 0;
}

Result<void> BlockManager::extend(TableId table, int32_t num_tokens) {
  TAILOR_TRY(reserve(table, num_tokens));
  commit(table);
  return {};
}

Result<void> BlockManager::reserve(TableId table, int32_t num_tokens) {
  Table& t = tables_[table];
  TAILOR_CHECK(t.open, "blocks for a table that is not open");
  TAILOR_CHECK(!t.reserving, "a second reservation for one table");
  Tier& tier = tiers_[t.tier];
  int32_t missing = blocks_missing(table, num_tokens);
  if (missing > free_blocks(t.tier)) {
    return fail(ErrorCode::kOutOfBlocks, std::to_string(missing) + " more KV blocks are needed, " +
                                             std::to_string(free_blocks(t.tier)) + " of " +
                                             std::to_string(capacity(t.tier)) + " are free");
  }
  for (int32_t i = 0; i < missing; ++i) {
    BlockId block = tier.free.back();
    tier.free.pop_back();
    tier.ref_counts[block] = 1;
    t.blocks.push_back(block);
  }
  t.reserving = true;
  return {};
}

void BlockManager::commit(TableId table) {
  Table& t = tables_[table];
  TAILOR_CHECK(t.open && t.reserving, "no reservation to commit");
  t.held = t.blocks.size();
  t.reserving = false;
}

void BlockManager::abort(TableId table) {
  Table& t = tables_[table];
  TAILOR_CHECK(t.open && t.reserving, "no reservation to abort");
  for (; t.blocks.size() > t.held; t.blocks.pop_back()) give_back(tiers_[t.tier], t.blocks.back());
  t.reserving = false;
}

int32_t BlockManager::fork(TableId from, TableId to, int32_t num_tokens) {
  const Table& source = tables_[from];
  Table& target = tables_[to];
  TAILOR_CHECK(source.open && target.open && target.blocks.empty(),
               "fork goes into an empty table");
  TAILOR_CHECK(source.tier == target.tier, "a block is shared within its tier only");
  int32_t full = num_tokens / options_.block_tokens;
  TAILOR_CHECK(full <= static_cast<int32_t>(source.held), "fork of more blocks than there are");
  for (int32_t i = 0; i < full; ++i) {
    BlockId block = source.blocks[i];
    ++tiers_[source.tier].ref_counts[block];
    target.blocks.push_back(block);
  }
  target.held = target.blocks.size();
  return full * options_.block_tokens;
}

Result<void> BlockManager::check_integrity() const {
  auto wrong = [](const std::string& what) { return fail(ErrorCode::kInternal, what); };
  for (const Table& t : tables_) {
    if (!t.open && !t.blocks.empty()) return wrong("a closed table holds blocks");
    if (t.reserving ? t.held > t.blocks.size() : t.held != t.blocks.size())
      return wrong("blocks are reserved for nobody");
  }
  for (TierId t = 0; t < kMaxTiers; ++t) TAILOR_TRY(check_tier(t));
  return {};
}

Result<void> BlockManager::check_tier(TierId tier) const {
  auto wrong = [tier](const std::string& what) {
    return fail(ErrorCode::kInternal, what + " (tier " + std::to_string(tier) + ")");
  };
  std::vector<int32_t> counts(capacity(tier), 0);
  for (const Table& t : tables_) {
    if (t.tier != tier) continue;
    for (BlockId block : t.blocks) {
      if (block < 0 || block >= capacity(tier))
        return wrong("block " + std::to_string(block) + " does not exist");
      ++counts[block];
    }
  }
  std::vector<bool> is_free(capacity(tier), false);
  for (BlockId block : tiers_[tier].free) {
    if (is_free[block]) return wrong("block " + std::to_string(block) + " is free twice");
    is_free[block] = true;
  }
  for (BlockId block = 0; block < capacity(tier); ++block) {
    const int32_t counted = ref_count(block, tier);
    if (counts[block] != counted)
      return wrong("block " + std::to_string(block) + " is counted " + std::to_string(counted) +
                   " times but stands in " + std::to_string(counts[block]) + " tables");
    if (is_free[block] == (counts[block] > 0))
      return wrong("block " + std::to_string(block) +
                   (is_free[block] ? " is free and held" : " is lost"));
  }
  return {};
}

}  // namespace tailor::kv
