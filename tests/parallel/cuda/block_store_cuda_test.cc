// The block store of a GPU: random moves between the device and the pinned host tier, which end
// late, against a model of what lies where; and what it refuses.
#include <cstdlib>
#include <limits>
#include <map>
#include <random>

#include "tests/parallel/cuda/block_store_rig.h"

namespace tailor::parallel::gpu {
namespace {

TEST_F(CudaStore, RandomMovesEndAsAModelSays) {
  int late = 0;
  for (uint64_t seed = 1; seed <= 6; ++seed) {
    open(seed);
    std::mt19937 random(static_cast<uint32_t>(seed));
    const auto below = [&](int32_t n) { return static_cast<int32_t>(random() % n); };
    std::map<std::pair<TierId, BlockId>, int> model;  // what is known to lie there
    std::vector<bool> busy_device(kBlocks), busy_host(kHostBlocks);
    const auto busy = [&](TierId tier) -> std::vector<bool>& {
      return tier == kDeviceTier ? busy_device : busy_host;
    };
    std::vector<BlockMove> open_moves;
    uint64_t begun = 0, over = 0;
    for (int turn = 0; turn < 60; ++turn) {
      for (int i = below(4); i > 0; --i) {  // a step writes
        const BlockId block = below(kBlocks);
        if (busy_device[static_cast<size_t>(block)]) continue;
        const int value = below(251);
        write(block, static_cast<uint8_t>(value));
        model[{kDeviceTier, block}] = value;
      }
      std::vector<BlockMove> moves;
      for (int i = below(3); i > 0; --i) {
        BlockMove move{.count = 1 + below(2),
                       .from_tier = static_cast<TierId>(below(2)),
                       .to_tier = static_cast<TierId>(below(2))};
        move.from = below(store_->num_blocks(move.from_tier) - move.count + 1);
        move.to = below(store_->num_blocks(move.to_tier) - move.count + 1);
        const auto taken = [&](TierId tier, BlockId first) {
          for (int32_t k = 0; k < move.count; ++k)
            if (busy(tier)[static_cast<size_t>(first + k)]) return true;
          return false;
        };
        bool known = true;
        for (int32_t k = 0; k < move.count; ++k)
          known &= model.contains({move.from_tier, move.from + k});
        const bool same = move.from_tier == move.to_tier && std::abs(move.from - move.to) < 2;
        if (!known || same || taken(move.from_tier, move.from) || taken(move.to_tier, move.to))
          continue;
        for (int32_t k = 0; k < move.count; ++k) {
          busy(move.from_tier)[static_cast<size_t>(move.from + k)] = true;
          busy(move.to_tier)[static_cast<size_t>(move.to + k)] = true;
        }
        moves.push_back(move);
      }
      ASSERT_TRUE(store_->begin(moves).has_value());
      begun += moves.size();
      open_moves.insert(open_moves.end(), moves.begin(), moves.end());
      late += store_->status(over).done < begun;
      if (below(3) != 0) continue;
      ASSERT_EQ(wait_for(begun, over), 0u);
      for (const BlockMove& move : open_moves)
        for (int32_t k = 0; k < move.count; ++k) {
          model[{move.to_tier, move.to + k}] = model[{move.from_tier, move.from + k}];
          busy(move.from_tier)[static_cast<size_t>(move.from + k)] = false;
          busy(move.to_tier)[static_cast<size_t>(move.to + k)] = false;
        }
      open_moves.clear();
      over = begun;
      for (const auto& [place, value] : model) {
        if (place.first == kDeviceTier) {
          EXPECT_EQ(read(place.second), value);
        }
        const int32_t group = below(3);
        EXPECT_EQ(*store_->checksum(place.first, place.second, group),
                  sum_of(static_cast<uint8_t>(value)));
      }
    }
    TearDown();
  }
  if (device_is_late()) {
    EXPECT_GT(late, 10);  // begin() did not wait
  }
}

TEST_F(CudaStore, RefusesWhatIsNotThereAndBeginsNone) {
  open(1, 0);
  EXPECT_EQ(store_->num_blocks(kDeviceTier), kBlocks);
  EXPECT_EQ(store_->num_blocks(kHostTier), 0);
  EXPECT_EQ(read(3), 0);  // zeroed
  const std::vector<BlockMove> wrong = {
      {.from = 0, .to = 1}, {.from = 0, .to = 0, .from_tier = kDeviceTier, .to_tier = kHostTier}};
  const auto refused = store_->begin(wrong);
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(store_->status(0).done, 0u);
  for (const auto& [tier, block, group] : {std::tuple<TierId, BlockId, int32_t>{kHostTier, 0, 0},
                                           {kDeviceTier, kBlocks, 0},
                                           {kDeviceTier, 0, 3},
                                           {kDeviceTier, -1, 0}})
    EXPECT_FALSE(store_->checksum(tier, block, group).has_value());

  const int32_t terabytes = std::numeric_limits<int32_t>::max();
  const auto large = make_cuda_store(*device_, {}, layout_, terabytes);
  ASSERT_FALSE(large.has_value());
  EXPECT_EQ(large.error().code, ErrorCode::kOutOfBlocks);
}

}  // namespace
}  // namespace tailor::parallel::gpu
