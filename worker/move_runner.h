// MoveRunner: the block moves of the plans on one rank: begins them, and agrees with the other
// ranks on how they went. Every rank makes the same calls at the same plans, so all know when there
// is something to agree about. Owner: the rank's main thread.
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "base/result.h"
#include "comm/collective.h"
#include "kv/block_moves.h"
#include "kv/block_store.h"

namespace tailor::worker {

class MoveRunner {
 public:
  /// `store` null: no plan may carry moves. `collective` null: a replica of one rank.
  MoveRunner(kv::BlockStore* store, comm::Collective* collective)
      : store_(store), collective_(collective) {}

  /// With each plan, before its rows are computed: where moves of earlier plans are open, agrees
  /// about them; then begins this plan's. Waits for no copy but BlockStore::begin()'s. Errors:
  /// those of the collective and of BlockStore::begin(): the rank must leave.
  Result<void> begin(std::span<const kv::BlockMove> moves);

  /// Moves are begun that the ranks have not agreed about: plans must go on.
  bool open() const { return begun_ > agreed_; }
  /// What they have agreed about since the last call, in order; the same on every rank.
  std::vector<kv::MoveEvent> take() { return std::exchange(events_, {}); }

 private:
  Result<void> agree_about_open();

  kv::BlockStore* const store_;
  comm::Collective* const collective_;
  uint64_t begun_ = 0, agreed_ = 0;
  std::vector<kv::MoveStatus> ranks_;
  std::vector<kv::MoveEvent> events_;
};

}  // namespace tailor::worker
