#include "kv/block_moves.h"

#include <algorithm>
#include <limits>
#include <string>

namespace tailor::kv {

Result<void> check(const BlockMove& move, std::span<const int32_t> blocks) {
  const auto bad = [](const std::string& what) {
    return fail(ErrorCode::kInvalidArgument, "block move: " + what);
  };
  if (move.count < 1) return bad(std::to_string(move.count) + " blocks");
  const auto inside = [&](TierId tier, BlockId first) {
    const int64_t there = tier < blocks.size() ? blocks[tier] : 0;
    return first >= 0 && int64_t{first} + move.count <= there;
  };
  const auto name = [&](TierId tier, BlockId first) {
    return "blocks " + std::to_string(first) + " + " + std::to_string(move.count) + " of tier " +
           std::to_string(tier);
  };
  if (!inside(move.from_tier, move.from))
    return bad(name(move.from_tier, move.from) + " are not there");
  if (!inside(move.to_tier, move.to)) return bad(name(move.to_tier, move.to) + " are not there");
  const int64_t apart = int64_t{move.from} - move.to;
  if (move.from_tier == move.to_tier && apart < move.count && -apart < move.count)
    return bad(name(move.from_tier, move.from) + " overlap their target");
  return {};
}

Result<void> check_slab(TierId tier, BlockId block, int64_t group_local,
                        std::span<const int32_t> blocks, int64_t num_groups_local) {
  if (tier < blocks.size() && block >= 0 && block < blocks[tier] && group_local >= 0 &&
      group_local < num_groups_local)
    return {};
  return fail(ErrorCode::kInvalidArgument, "no slab of block " + std::to_string(block) +
                                               " and group " + std::to_string(group_local) +
                                               " in tier " + std::to_string(tier));
}

MoveStatus agree(std::span<const MoveStatus> ranks, uint64_t agreed) {
  constexpr uint64_t kNone = std::numeric_limits<uint64_t>::max();
  uint64_t done = kNone, failed = kNone;
  for (const MoveStatus& rank : ranks) {
    done = std::min(done, rank.done);
    if (rank.failed > agreed) failed = std::min(failed, rank.failed);
  }
  if (done == kNone) return {agreed, 0};
  // A failure counts when the move is over everywhere: nobody writes its target any more.
  if (failed <= done) return {failed - 1, failed};
  return {std::max(done, agreed), 0};
}

}  // namespace tailor::kv
