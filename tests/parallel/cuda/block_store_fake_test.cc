// The block store on a device that is damaged or hangs: a failed move and never a block.
#include "parallel/cuda/device_fake.h"
#include "tests/parallel/cuda/block_store_rig.h"

namespace tailor::parallel::gpu {
namespace {

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
