#include "parallel/cuda/collective_staged.h"

#include <algorithm>
#include <span>

namespace tailor::parallel::gpu {
namespace {

class StagedCollective final : public comm::Collective {
 public:
  StagedCollective(Device& device, comm::Collective& host, Duration deadline)
      : device_(device), host_(host), deadline_(deadline) {}

  int rank() const override { return host_.rank(); }
  int size() const override { return host_.size(); }

  Result<void> broadcast(std::span<std::byte> data, int root) override {
    TAILOR_TRY(make_room(data.size(), 0));
    if (rank() == root) TAILOR_TRY(fetch(data));
    TAILOR_TRY(host_.broadcast(sent(data.size()), root));
    return rank() == root ? Result<void>() : deliver(sent_, data);
  }

  Result<void> all_gather(std::span<const std::byte> mine, std::span<std::byte> out) override {
    TAILOR_TRY(make_room(mine.size(), out.size()));
    TAILOR_TRY(fetch(mine));
    TAILOR_TRY(host_.all_gather(sent(mine.size()), {received_.data(), out.size()}));
    return deliver(received_, out);
  }

  Result<void> gather(std::span<const std::byte> mine, std::span<std::byte> out,
                      int root) override {
    const size_t wanted = rank() == root ? out.size() : 0;
    TAILOR_TRY(make_room(mine.size(), wanted));
    TAILOR_TRY(fetch(mine));
    TAILOR_TRY(host_.gather(sent(mine.size()), {received_.data(), wanted}, root));
    return deliver(received_, out.first(wanted));
  }

  Result<void> barrier() override { return host_.barrier(); }

 private:
  std::span<std::byte> sent(size_t bytes) const { return {sent_.data(), bytes}; }

  /// Grows to the largest call; the stream is behind the last one when it does.
  Result<void> make_room(size_t sent_bytes, size_t received_bytes) {
    if (event_.get() == nullptr) {
      TAILOR_ASSIGN(event_, device_.make_event());
    }
    TAILOR_TRY(device_.wait_until(event_.get(), deadline_, "bytes of a collective"));
    for (auto [memory, bytes] : {std::pair(&sent_, sent_bytes), {&received_, received_bytes}}) {
      if (memory->bytes() >= bytes) continue;
      TAILOR_ASSIGN(*memory, device_.allocate_pinned(std::max(bytes, memory->bytes() * 2)));
    }
    return {};
  }
  /// Behind all that the stream holds.
  Result<void> fetch(std::span<const std::byte> data) {
    TAILOR_TRY(device_.copy(device_.stream(), sent_.data(), data.data(), data.size()));
    TAILOR_TRY(device_.record(event_.get(), device_.stream()));
    return device_.wait_until(event_.get(), deadline_, "bytes for a collective");
  }
  Result<void> deliver(const Memory& from, std::span<std::byte> data) {
    TAILOR_TRY(device_.copy(device_.stream(), data.data(), from.data(), data.size()));
    return device_.record(event_.get(), device_.stream());
  }

  Device& device_;
  comm::Collective& host_;
  const Duration deadline_;
  Memory sent_, received_;
  OwnedEvent event_;  // behind the last copy from or to them
};

}  // namespace

std::unique_ptr<comm::Collective> make_staged_collective(Device& device, comm::Collective& host,
                                                         Duration deadline) {
  return std::make_unique<StagedCollective>(device, host, deadline);
}

}  // namespace tailor::parallel::gpu
