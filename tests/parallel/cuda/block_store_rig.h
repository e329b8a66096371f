// A block store on the linked device, for its tests.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "parallel/cuda/block_store_cuda.h"
#include "tests/parallel/cuda/test_device.h"

namespace tailor::parallel::gpu {

using kv::BlockId;
using kv::BlockMove;
using kv::kDeviceTier;
using kv::TierId;

inline constexpr int32_t kBlocks = 12, kHostBlocks = 9;
inline constexpr Duration kSoon = seconds(30);

inline kv::BlockLayout small_layout() {
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
    device_ = open_test_device(seed);
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

}  // namespace tailor::parallel::gpu
