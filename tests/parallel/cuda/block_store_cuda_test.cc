// The block store of a GPU on the fake device: random moves between the device and the pinned host
// tier, which end late, against a model of what lies where; and damage, which is a failed move and
// never a block.
#include "parallel/cuda/block_store_cuda.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <random>
#include <vector>

#include "base/clock.h"
#include "parallel/cuda/device_fake.h"

namespace tailor::parallel::gpu {
namespace {

using kv::BlockId;
using kv::BlockMove;
using kv::kDeviceTier;
using kv::TierId;

constexpr int32_t kBlocks = 12, kHostBlocks = 9;
constexpr Duration kSoon = seconds(30);

kv::BlockLayout small_layout() {
  kv::BlockLayout layout;
  layout.num_layers = 2;
  layout.num_groups_local = 3;
  layout.head_dim = 6;
  layout.value_type = kv::ValueType::kBF16;
  return layout;
}

class CudaStore : public ::testing::Test {
 protected:
  void open(uint64_t seed, int32_t host_blocks = kHostBlocks) {
    device_ = open_fake_device({.seed = seed});
    auto store = make_cuda_store(*device_, {.host_blocks = host_blocks}, layout_, kBlocks);
    ASSERT_TRUE(store.has_value()) << to_string(store.error());
    store_ = std::move(*store);
    auto staged = device_->allocate_pinned(static_cast<size_t>(layout_.block_bytes()));
    auto event = device_->make_event();
    ASSERT_TRUE(staged && event);
    staged_ = std::move(*staged);
    event_ = std::move(*event);
  }
  void TearDown() override {
    if (event_.get() != nullptr) finish();  // what writes to the store is over before it goes
    store_.reset();
    staged_ = {};
    event_ = {};
    device_.reset();
  }

  void finish() {
    ASSERT_TRUE(device_->record(event_.get(), device_->stream()));
    ASSERT_TRUE(device_->wait_until(event_.get(), kSoon, "a test"));
  }
  std::byte* place(BlockId block) { return store_->device_data() + block * layout_.block_bytes(); }
  /// As a step would: in the engine's stream, and over later.
  void write(BlockId block, uint8_t value) {
    ASSERT_TRUE(device_->fill(device_->stream(), place(block), value,
                              static_cast<size_t>(layout_.block_bytes())));
  }
  /// What all bytes of a block are; -1 when they differ.
  int read(BlockId block) {
    const auto bytes = static_cast<size_t>(layout_.block_bytes());
    EXPECT_TRUE(device_->copy(device_->stream(), staged_.data(), place(block), bytes));
    finish();
    const auto* first = staged_.as<uint8_t>();
    return std::all_of(first, first + bytes, [&](uint8_t b) { return b == *first; }) ? *first : -1;
  }
  uint64_t sum_of(uint8_t value) {
    const std::vector<std::byte> slab(static_cast<size_t>(layout_.slab_bytes()), std::byte{value});
    return slab_checksum(layout_, slab);
  }
  /// Until all moves up to `last` are over; whether it fails on the way.
  uint64_t wait_for(uint64_t last, uint64_t agreed) {
    for (const Time begin = now(); store_->status(agreed).done < last;)
      if (now() - begin > kSoon) {
        ADD_FAILURE() << "move " << last << " is not over";
        break;
      }
    return store_->status(agreed).failed;
  }

  const kv::BlockLayout layout_ = small_layout();
  std::unique_ptr<Device> device_;
  std::shared_ptr<kv::BlockStore> store_;
  Memory staged_;
  OwnedEvent event_;
};

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
  EXPECT_GT(late, 10);  // completion was late, and begin() did not wait
}

TEST_F(CudaStore, DamageInTheHostsMemoryIsAFailedMove) {
  open(3);
  for (const BlockId block : {0, 1, 2}) write(block, static_cast<uint8_t>(40 + block));
  ASSERT_TRUE(store_->begin(std::vector<BlockMove>{
      {.from = 0, .to = 4, .count = 3, .from_tier = kDeviceTier, .to_tier = kHostTier}}));
  ASSERT_EQ(wait_for(1, 0), 0u);
  const auto host =
      pinned_memory(*device_, static_cast<size_t>(layout_.block_bytes()) * kHostBlocks);
  ASSERT_FALSE(host.empty());
  host[static_cast<size_t>(layout_.slab_offset(5, 2) + 7)] ^= std::byte{1};  // block 1's copy

  std::vector<BlockMove> back;
  for (const BlockId block : {4, 5, 6, 5})
    back.push_back({.from = block,
                    .to = 6 + static_cast<BlockId>(back.size()),
                    .from_tier = kHostTier,
                    .to_tier = kDeviceTier});
  back.push_back({.from = 0, .to = 11, .from_tier = kHostTier, .to_tier = kDeviceTier});
  ASSERT_TRUE(store_->begin(back));
  EXPECT_EQ(wait_for(6, 1), 3u);  // moves are numbered from 1: the third brings block 5 back
  EXPECT_EQ(store_->status(3).failed, 5u);
  EXPECT_EQ(store_->status(5).failed, 6u) << "what was never moved to matches nothing";
  EXPECT_EQ(store_->status(6).failed, 0u);
  EXPECT_EQ(read(6), 40);
  EXPECT_EQ(read(8), 42);

  // Within the host's tier the sum goes along: damage before shows after.
  ASSERT_TRUE(store_->begin(std::vector<BlockMove>{
      {.from = 5, .to = 7, .from_tier = kHostTier, .to_tier = kHostTier},
      {.from = 7, .to = 3, .from_tier = kHostTier, .to_tier = kDeviceTier},
      {.from = 6, .to = 8, .from_tier = kHostTier, .to_tier = kHostTier},
      {.from = 8, .to = 4, .from_tier = kHostTier, .to_tier = kDeviceTier}}));
  EXPECT_EQ(wait_for(10, 6), 8u);
  EXPECT_EQ(store_->status(8).failed, 0u);
  EXPECT_EQ(read(4), 42);
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

  const auto small = open_fake_device({.memory_bytes = 1 << 16});
  const auto large = make_cuda_store(*small, {}, layout_, 1 << 20);
  ASSERT_FALSE(large.has_value());
  EXPECT_EQ(large.error().code, ErrorCode::kOutOfBlocks);
}

TEST_F(CudaStore, AMoveThatNeverEndsIsSaidAtTheNext) {
  device_ = open_fake_device({.hangs_after = 8});
  auto store = make_cuda_store(*device_, {.deadline = milliseconds(30)}, layout_, kBlocks);
  if (!store) {  // it hung before
    EXPECT_EQ(store.error().code, ErrorCode::kTimeout);
    return;
  }
  const std::vector<BlockMove> move = {{.from = 0, .to = 1}};
  for (const Time begin = now(); now() - begin < kSoon;) {
    const auto begun = (*store)->begin(move);
    if (begun) continue;
    EXPECT_EQ(begun.error().code, ErrorCode::kTimeout) << begun.error().message;
    return;
  }
  ADD_FAILURE() << "a hang was not noticed";
}

}  // namespace
}  // namespace tailor::parallel::gpu
