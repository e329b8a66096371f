// LateStore: a block store whose moves are over late, one by one, some of them failed: what a rank
// meets whose copies take their time.
#pragma once

#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <random>
#include <set>
#include <utility>
#include <vector>

#include "kv/block_pool.h"

namespace tailor::worker::test {

/// A pool whose moves are over one by one, some of them failed.
class LateStore final : public kv::BlockStore {
 public:
  LateStore(const kv::BlockLayout& layout, int32_t num_blocks, std::set<uint64_t> failing,
            uint32_t seed)
      : pool_(*kv::BlockPool::create(layout, num_blocks)),
        failing_(std::move(failing)),
        random_(seed) {}

  const kv::BlockLayout& layout() const override { return pool_->layout(); }
  int32_t num_blocks(kv::TierId tier) const override { return pool_->num_blocks(tier); }
  std::byte* device_data() const override { return pool_->device_data(); }
  Result<void> begin(std::span<const kv::BlockMove> moves) override {
    const int32_t blocks = num_blocks(kv::kDeviceTier);
    for (const kv::BlockMove& move : moves) TAILOR_TRY(check(move, std::span(&blocks, 1)));
    waiting_.insert(waiting_.end(), moves.begin(), moves.end());
    return {};
  }
  kv::MoveStatus status(uint64_t agreed) override {
    ++asked;
    for (uint32_t n = random_() % 3; n > 0 && done_ < waiting_.size(); --n) {
      const kv::BlockMove& move = waiting_[done_++];
      if (failing_.count(done_) > 0) continue;
      EXPECT_TRUE(pool_->begin(std::span(&move, 1)).has_value());
    }
    const auto failed = failing_.upper_bound(agreed);
    return {done_, failed != failing_.end() && *failed <= done_ ? *failed : 0};
  }
  Result<uint64_t> checksum(kv::TierId tier, kv::BlockId block, int32_t group) const override {
    return pool_->checksum(tier, block, group);
  }

  std::atomic<int> asked = 0;  ///< status(): once with each plan while moves are open

 private:
  const std::unique_ptr<kv::BlockPool> pool_;
  const std::set<uint64_t> failing_;
  std::mt19937 random_;
  std::vector<kv::BlockMove> waiting_;
  uint64_t done_ = 0;
};

inline kv::BlockLayout small_layout() {
  kv::BlockLayout out;
  out.num_layers = 1;
  out.num_groups_local = 2;
  out.head_dim = 4;
  return out;
}

}  // namespace tailor::worker::test
