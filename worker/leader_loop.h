// LeaderLoop: the main thread of tensor-parallel rank 0, and the threads, engine and collective
// around a ReplicaCore (worker/replica_core.h), which knows the sequences. Takes commands from its
// inbox, broadcasts and computes the steps the core begins, and hands the drafts of its reports to
// the text thread. Works at its own pace: drains the inbox, then takes one step (with an engine of
// depth 2 the next one is begun before that is collected).
//
// Idle: the followers are told to sleep, and this thread waits in its inbox; before the next step
// it rings. It starts no step while more than `max_backlog` reports wait to leave (a coordinator
// that does not read).
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "base/mailbox.h"
#include "base/messages.h"
#include "comm/collective.h"
#include "comm/worker_io.h"
#include "kv/block_store.h"
#include "parallel/engine.h"
#include "text/tokenizer.h"
#include "worker/engine_step.h"
#include "worker/exit_codes.h"
#include "worker/length_probe.h"
#include "worker/move_runner.h"
#include "worker/plan_channel.h"
#include "worker/replica_core.h"
#include "worker/text_thread.h"

namespace tailor::worker {

struct LeaderOptions {
  ReplicaId replica;  ///< as the launcher configured it
  Hello hello;
  PlannerOptions planner;
  SequenceLimits limits;
  size_t max_backlog = 64;  ///< reports, in the text thread and in the io thread together
  Duration idle_wait = seconds(1);
  /// A drained replica leaves when it is told to; false: it stays, idle, until the cluster stops
  /// (its mpirun runs more than it, and would take all of them down).
  bool leaves_when_drained = true;
  LengthProbe probe;  ///< off without heads for this model
};

/// Block moves that somebody wants of a replica, and what became of each, in their order. An idle
/// leader looks here when its inbox wakes it, at the latest after `idle_wait`.
struct MoveDesk {
  /// Of blocks that every rank's store has: what is not there ends the rank.
  Mailbox<kv::BlockMove> wanted{1024};
  /// Never refused: at most as many as were wanted.
  Mailbox<MoveOutcome> over{1024};
};

struct LeaderParts {
  parallel::Engine& engine;
  comm::Collective* control;  ///< null at tensor-parallel size 1
  comm::WorkerIo& io;
  Progress& progress;                                ///< written by this thread only
  std::shared_ptr<const text::Tokenizer> tokenizer;  ///< null: token ids only
  Progress* text_progress = nullptr;                 ///< written by the text thread
  kv::BlockStore* store = nullptr;                   ///< the engine's; null: nothing is moved
  MoveDesk* moves = nullptr;                         ///< null: nobody wants any
};

class LeaderLoop {
 public:
  LeaderLoop(const LeaderParts& parts, const LeaderOptions& options);

  /// Says Hello, then serves until Shutdown, LinkDown or a failed step.
  LoopExit run();

 private:
  /// A step that the engine computes.
  struct UnderWay {
    EngineStep layout;
    const Step* step = nullptr;
  };

  Time take_inputs();
  void apply(comm::CommandFrame& frame);
  bool backlogged() const { return text_.backlog() + parts_.io.backlog() > options_.max_backlog; }
  Result<void> take_step(Time started);
  Result<void> begin_step(const Step& step);
  Result<void> begin_moves(std::span<const kv::BlockMove> moves);
  Result<void> end_step(Time started);
  std::span<const LengthLaw> laws_of(const UnderWay& ended);
  void send_report(ReportDraft& draft);
  Result<void> wake_followers_and_send(const Plan& plan, const parallel::StepInput& input);
  void put_followers_to_sleep();

  const LeaderParts parts_;
  const LeaderOptions options_;
  ReplicaCore core_;
  PlanChannel channel_;
  MoveRunner moves_;
  LengthProbe probe_;
  std::vector<UnderWay> steps_;  // [engine's depth], step n at n % depth
  std::vector<parallel::SlotId> scratch_;
  std::vector<LengthLaw> laws_;
  bool awake_ = false;       // the followers are in replay
  bool only_moves_ = false;  // the last turn had nothing to compute, but moves to hear of
  bool drained_ = false;     // and it has said so
  std::optional<LoopExit> exit_;

  TextThread text_;  // last: joins before what it reports to goes
};

}  // namespace tailor::worker
