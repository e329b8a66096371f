#include "parallel/block_store_torch.h"

#include <ATen/ATen.h>
#include <c10/core/Stream.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <deque>
#include <span>
#include <string>
#include <utility>

namespace tailor::parallel {
namespace {

class TensorStore final : public kv::BlockStore {
 public:
  TensorStore(at::Tensor memory, const kv::BlockLayout& layout, int32_t num_blocks)
      : memory_(std::move(memory)), layout_(layout), num_blocks_(num_blocks) {}

  const kv::BlockLayout& layout() const override { return layout_; }
  int32_t num_blocks(kv::TierId tier) const override {
    return tier == kv::kDeviceTier ? num_blocks_ : 0;
  }
  std::byte* device_data() const override { return static_cast<std::byte*>(memory_.data_ptr()); }

  Result<void> begin(std::span<const kv::BlockMove> moves) override {
    for (const kv::BlockMove& move : moves) TAILOR_TRY(check(move, std::span(&num_blocks_, 1)));
    for (const kv::BlockMove& move : moves) {
      ++begun_;
      try {
        memory_.narrow(0, move.to, move.count).copy_(memory_.narrow(0, move.from, move.count));
      } catch (const std::exception& error) {
        if (!failed_.empty() && failed_.back() + 1 == begun_) return broken(error);
        failed_.push_back(begun_);
      }
    }
    try {
      if (!moves.empty()) wait_for_device();
    } catch (const std::exception& error) {
      return broken(error);
    }
    return {};
  }

  /// Keeps the last failure: another may follow it.
  kv::MoveStatus status(uint64_t agreed) override {
    while (failed_.size() > 1 && failed_.front() <= agreed) failed_.pop_front();
    const bool open = !failed_.empty() && failed_.front() > agreed;
    return {begun_, open ? failed_.front() : 0};
  }

  Result<uint64_t> checksum(kv::TierId tier, kv::BlockId block, int32_t group) const override {
    TAILOR_TRY(
        kv::check_slab(tier, block, group, std::span(&num_blocks_, 1), layout_.num_groups_local));
    try {
      const at::Tensor slab = memory_[block]
                                  .narrow(0, layout_.slab_offset(0, group), layout_.slab_bytes())
                                  .to(at::kCPU);
      return slab_checksum(layout_, {static_cast<const std::byte*>(slab.data_ptr()),
                                     static_cast<size_t>(layout_.slab_bytes())});
    } catch (const std::exception& error) {
      return fail(ErrorCode::kDeviceFailure, std::string("reading a KV block: ") + error.what());
    }
  }

 private:
  static Unexpected broken(const std::exception& error) {
    return fail(ErrorCode::kDeviceFailure, std::string("moving KV blocks: ") + error.what());
  }
  void wait_for_device() const {
    const at::Device device = memory_.device();
    if (device.is_cpu()) return;
    c10::impl::VirtualGuardImpl(device.type()).getStream(device).synchronize();
  }

  const at::Tensor memory_;  // bytes [num_blocks, block_bytes]
  const kv::BlockLayout layout_;
  const int32_t num_blocks_;
  uint64_t begun_ = 0;
  std::deque<uint64_t> failed_;  // ascending; the last one and those not agreed about
};

}  // namespace

Result<std::shared_ptr<kv::BlockStore>> make_tensor_store(const std::string& device,
                                                          const kv::BlockLayout& layout,
                                                          int32_t num_blocks) {
  try {
    at::Tensor memory = at::zeros({num_blocks, layout.block_bytes()},
                                  at::TensorOptions().dtype(at::kByte).device(at::Device(device)));
    return std::make_shared<TensorStore>(std::move(memory), layout, num_blocks);
  } catch (const std::exception& error) {
    return fail(ErrorCode::kOutOfBlocks,
                "could not reserve the KV pool on " + device + ": " + error.what());
  }
}

}  // namespace tailor::parallel
