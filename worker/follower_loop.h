// FollowerLoop: the main thread of tensor-parallel ranks 1 and up. Sleeps in its inbox until the
// leader rings, then replays the leader's plans until it is told to sleep again or to leave. Never
// plans, samples or reports.
#pragma once

#include "base/time.h"
#include "comm/collective.h"
#include "comm/worker_io.h"
#include "kv/block_store.h"
#include "parallel/engine.h"
#include "worker/exit_codes.h"

namespace tailor::worker {

struct FollowerParts {
  parallel::Engine& engine;
  comm::Collective& control;  ///< with an engine of depth 2 another one than the engine's
  comm::WorkerIo& io;
  Progress& progress;               ///< written by this thread only
  kv::BlockStore* store = nullptr;  ///< the engine's; null: plans carry no moves
};

/// Returns when the replica is told to leave, the coordinator stayed silent while this rank slept,
/// or a step failed.
LoopExit run_follower(const FollowerParts& parts, Duration idle_wait = seconds(1));

}  // namespace tailor::worker
