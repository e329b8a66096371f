#include "parallel/cuda/block_store_cuda.h"

#include <algorithm>
#include <array>
#include <deque>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "parallel/cuda/kernels.h"

namespace tailor::parallel::gpu {
namespace {

using kv::BlockMove;
using kv::kDeviceTier;

class CudaStore final : public kv::BlockStore {
 public:
  CudaStore(Device& device, const CudaStoreOptions& options, const kv::BlockLayout& layout,
            int32_t num_blocks)
      : device_(device),
        deadline_(options.deadline),
        layout_(layout),
        seed_(kv::slab_seed(layout)),
        blocks_{num_blocks, options.host_blocks} {}

  /// Behind its copies, which the memory must outlive.
  ~CudaStore() override {
    if (!pending_.empty())
      (void)device_.wait_until(pending_.back().over.get(), deadline_, "the last block moves");
  }

  Result<void> reserve() {
    const auto device_blocks = static_cast<size_t>(blocks_[0]);
    const auto host_blocks = static_cast<size_t>(blocks_[1]);
    const auto block_bytes = static_cast<size_t>(layout_.block_bytes());
    TAILOR_ASSIGN(copies_, device_.make_stream());
    TAILOR_ASSIGN(steps_, device_.make_event());
    TAILOR_ASSIGN(asked_, device_.make_event());
    TAILOR_ASSIGN(pool_, device_.allocate(block_bytes * device_blocks));
    TAILOR_TRY(device_.fill(device_.stream(), pool_.data(), 0, pool_.bytes()));
    const size_t slabs = std::max(device_blocks, host_blocks) * groups();
    TAILOR_ASSIGN(offsets_, device_.allocate(slabs * sizeof(int64_t)));
    // One more than there are slabs: the answer of checksum().
    const size_t sums = (device_blocks * groups() + 1) * sizeof(uint64_t);
    TAILOR_ASSIGN(found_, device_.allocate(sums));
    TAILOR_ASSIGN(found_here_, device_.allocate_pinned(std::max(sums, slabs * sizeof(int64_t))));
    if (host_blocks > 0) {
      const size_t host_sums = host_blocks * groups() * sizeof(uint64_t);
      TAILOR_ASSIGN(host_, device_.allocate_pinned(block_bytes * host_blocks));
      TAILOR_ASSIGN(left_, device_.allocate(host_sums));
      TAILOR_TRY(device_.fill(device_.stream(), left_.data(), 0xff, host_sums));
      TAILOR_ASSIGN(left_here_, device_.allocate_pinned(sums));
    }
    auto* offsets = found_here_.as<int64_t>();
    for (size_t slab = 0; slab < slabs; ++slab)
      offsets[slab] = static_cast<int64_t>(slab) * layout_.slab_bytes();
    TAILOR_TRY(device_.copy(device_.stream(), offsets_.data(), offsets, offsets_.bytes()));
    TAILOR_TRY(device_.record(steps_.get(), device_.stream()));
    return device_.wait_until(steps_.get(), deadline_, "reserving KV blocks");
  }

  const kv::BlockLayout& layout() const override { return layout_; }
  int32_t num_blocks(kv::TierId tier) const override {
    return tier < blocks_.size() ? blocks_[tier] : 0;
  }
  std::byte* device_data() const override { return pool_.data(); }

  Result<void> begin(std::span<const BlockMove> moves) override {
    for (const BlockMove& move : moves) TAILOR_TRY(check(move, blocks_));
    take_over();
    if (!pending_.empty() && now() - pending_.front().begun > deadline_)
      return fail(ErrorCode::kTimeout, "KV block move " + std::to_string(over_ + 1) +
                                           " was not over within " +
                                           std::to_string(to_seconds(deadline_)) + " s");
    if (moves.empty()) return {};
    // What steps have written is there before it is copied.
    TAILOR_TRY(device_.record(steps_.get(), device_.stream()));
    TAILOR_TRY(device_.wait(copies_.get(), steps_.get()));
    for (const BlockMove& move : moves) {
      TAILOR_TRY(put(move));
      Pending pending{move, now(), {}};
      if (!spare_.empty()) {
        pending.over = std::move(spare_.back());
        spare_.pop_back();
      } else {
        TAILOR_ASSIGN(pending.over, device_.make_event());
      }
      TAILOR_TRY(device_.record(pending.over.get(), copies_.get()));
      pending_.push_back(std::move(pending));
    }
    return {};
  }

  /// Keeps the last failure: another may follow it.
  kv::MoveStatus status(uint64_t agreed) override {
    take_over();
    while (failed_.size() > 1 && failed_.front() <= agreed) failed_.pop_front();
    const auto open =
        std::find_if(failed_.begin(), failed_.end(), [&](uint64_t move) { return move > agreed; });
    return {over_, open != failed_.end() ? *open : 0};
  }

  Result<uint64_t> checksum(kv::TierId tier, kv::BlockId block, int32_t group) const override {
    if (block < 0 || block >= num_blocks(tier) || group < 0 || group >= layout_.num_groups_local)
      return fail(ErrorCode::kInvalidArgument, "no slab of block " + std::to_string(block) +
                                                   " and group " + std::to_string(group) +
                                                   " in tier " + std::to_string(tier));
    if (tier == kHostTier)
      return slab_checksum(layout_, {host_.data() + layout_.slab_offset(block, group),
                                     static_cast<size_t>(layout_.slab_bytes())});
    const size_t last = found_.bytes() - sizeof(uint64_t);
    // Behind the steps that wrote it, and behind the copies.
    TAILOR_TRY(device_.record(asked_.get(), device_.stream()));
    TAILOR_TRY(device_.wait(copies_.get(), asked_.get()));
    TAILOR_TRY(sum(first_slab(block) + static_cast<size_t>(group), 1, found_.as<uint64_t>(last)));
    TAILOR_TRY(device_.copy(copies_.get(), found_here_.as<uint64_t>(last),
                            found_.as<uint64_t>(last), sizeof(uint64_t)));
    TAILOR_TRY(device_.record(asked_.get(), copies_.get()));
    TAILOR_TRY(device_.wait_until(asked_.get(), deadline_, "the checksum of a KV block"));
    return *found_here_.as<uint64_t>(last);
  }

 private:
  struct Pending {
    BlockMove move;
    Time begun;
    OwnedEvent over;
  };

  size_t groups() const { return static_cast<size_t>(layout_.num_groups_local); }
  size_t first_slab(int32_t block) const { return static_cast<size_t>(block) * groups(); }
  std::byte* place(kv::TierId tier, int32_t block) const {
    return (tier == kDeviceTier ? pool_ : host_).data() + layout_.slab_offset(block, 0);
  }

  /// Sums of slabs of the device tier, on the copies' stream.
  Result<void> sum(size_t slab, size_t count, uint64_t* out) const {
    return checksum_slabs(copies_.get(), {.pool = pool_.data(),
                                          .slab_bytes = layout_.slab_bytes(),
                                          .offsets = offsets_.as<int64_t>() + slab,
                                          .count = static_cast<int64_t>(count),
                                          .seed = seed_,
                                          .out = out});
  }

  Result<void> put(const BlockMove& move) {
    const Stream stream = copies_.get();
    const size_t from = first_slab(move.from), to = first_slab(move.to);
    const size_t slabs = first_slab(move.count), sums = slabs * sizeof(uint64_t);
    // The sums of the leaving slabs lie with them; those of the arriving ones, at their targets.
    if (move.from_tier == kDeviceTier && move.to_tier == kHostTier)
      TAILOR_TRY(sum(from, slabs, left_.as<uint64_t>() + to));
    TAILOR_TRY(device_.copy(stream, place(move.to_tier, move.to), place(move.from_tier, move.from),
                            static_cast<size_t>(move.count * layout_.block_bytes())));
    if (move.from_tier == kDeviceTier) return {};
    if (move.to_tier == kHostTier)
      return device_.copy(stream, left_.as<uint64_t>() + to, left_.as<uint64_t>() + from, sums);
    TAILOR_TRY(sum(to, slabs, found_.as<uint64_t>() + to));
    TAILOR_TRY(
        device_.copy(stream, found_here_.as<uint64_t>() + to, found_.as<uint64_t>() + to, sums));
    return device_.copy(stream, left_here_.as<uint64_t>() + to, left_.as<uint64_t>() + from, sums);
  }

  /// What is over, in order. A device that fails says so when it is next asked to do something.
  void take_over() {
    while (!pending_.empty()) {
      const auto passed = device_.passed(pending_.front().over.get());
      if (!passed || !*passed) return;
      ++over_;
      if (!arrived(pending_.front().move)) failed_.push_back(over_);
      spare_.push_back(std::move(pending_.front().over));
      pending_.pop_front();
    }
  }
  bool arrived(const BlockMove& move) const {
    if (move.from_tier == kDeviceTier || move.to_tier != kDeviceTier) return true;
    const auto* found = found_here_.as<uint64_t>() + first_slab(move.to);
    const auto* left = left_here_.as<uint64_t>() + first_slab(move.to);
    return std::equal(found, found + first_slab(move.count), left);
  }

  Device& device_;
  const Duration deadline_;
  const kv::BlockLayout layout_;
  const uint64_t seed_;
  const std::array<int32_t, 2> blocks_;  // [tier]
  OwnedStream copies_;
  Memory pool_, host_;
  Memory offsets_;     // device int64 [slabs]: where each lies, in either tier
  Memory left_;        // device uint64 [slabs of the host tier]: what left the device for there
  Memory found_;       // device uint64 [slabs of the device tier + 1]: what has arrived there
  Memory found_here_;  // pinned, as found_
  Memory left_here_;   // pinned uint64 [slabs of the device tier]: what should have
  OwnedEvent steps_, asked_;

  uint64_t over_ = 0;
  std::deque<Pending> pending_;  // moves over_ + 1, ...
  std::vector<OwnedEvent> spare_;
  std::deque<uint64_t> failed_;  // ascending; the last one and those not agreed about
};

}  // namespace

Result<std::shared_ptr<kv::BlockStore>> make_cuda_store(Device& device,
                                                        const CudaStoreOptions& options,
                                                        const kv::BlockLayout& layout,
                                                        int32_t num_blocks) {
  auto store = std::make_shared<CudaStore>(device, options, layout, num_blocks);
  if (auto reserved = store->reserve(); !reserved) {
    if (reserved.error().code == ErrorCode::kLimitExceeded)
      return fail(ErrorCode::kOutOfBlocks, "could not reserve " + std::to_string(num_blocks) +
                                               " KV blocks: " + reserved.error().message);
    return fail(std::move(reserved.error()));
  }
  return store;
}

}  // namespace tailor::parallel::gpu
