// LeaderLoop: the main thread of tensor-parallel rank 0. Takes commands from its inbox, asks the
// planner for a step, broadcasts it, submits it to the engine, and hands the drawn tokens to the
// text thread, which reports them. Owns: the device, the planner, every sequence's ids. Works
// at its own pace: drains the inbox, then takes one step.
//
// Idle: the followers are told to sleep, and this thread waits in its inbox; before the next step
// it rings. It starts no step while more than `max_backlog` reports wait to leave (a coordinator
// that does not read).
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "base/messages.h"
#include "comm/collective.h"
#include "comm/worker_io.h"
#include "parallel/engine.h"
#include "text/tokenizer.h"
#include "worker/batch_planner.h"
#include "worker/exit_codes.h"
#include "worker/hidden_rows.h"
#include "worker/length_probe.h"
#include "worker/plan_channel.h"
#include "worker/sequence_state.h"
#include "worker/text_thread.h"

namespace tailor::worker {

struct LeaderOptions {
  ReplicaId replica;  ///< as configured by the launcher
  Hello hello;
  PlannerOptions planner;
  SequenceLimits limits;
  size_t max_backlog = 64;  ///< reports, in the text thread and in the io thread together
  Duration idle_wait = seconds(1);
  LengthProbe probe;  ///< off without heads for this model
};

struct LeaderParts {
  parallel::Engine& engine;
  comm::Collective* control;  ///< null at tensor-parallel size 1
  comm::WorkerIo& io;
  Progress& progress;                                ///< written by this thread only
  std::shared_ptr<const text::Tokenizer> tokenizer;  ///< null: token ids only
  Progress* text_progress = nullptr;                 ///< written by the text thread
};

class LeaderLoop {
 public:
  LeaderLoop(const LeaderParts& parts, const LeaderOptions& options);

  /// Says Hello, then serves until Shutdown, LinkDown or a failed step.
  LoopExit run();

 private:
  void apply(const comm::CommandFrame& command);
  void start_request(const Dispatch& dispatch, const DispatchPayload& payload);
  Result<void> check_request(const DispatchPayload& payload) const;
  void refuse_request(const Dispatch& dispatch, const DispatchPayload& payload, const Error& error);
  void cancel_request(RequestId request, std::optional<Attempt> attempt);
  void cancel_all();
  void end_stopped_sequences();
  void end_sequence(SequenceIndex index);
  void leave_slot(SequenceState& state);

  bool backlogged() const { return text_.backlog() + parts_.io.backlog() > options_.max_backlog; }
  Result<void> step(Time started);
  Result<void> compute(const BatchPlan& plan);
  void build_input(const BatchPlan& plan);
  void report_laws();
  void take_tokens(const BatchPlan& plan, const parallel::StepOutcome& drawn);
  void take_token(SequenceIndex index, const Result<TokenId>& token, LogprobEntry& logprobs);
  void report_prefill(SequenceIndex index);
  void send_report(Time started);
  Envelope envelope() { return {options_.replica, epoch_.value_or(Epoch{}), ++reports_}; }
  Result<void> wake_followers_and_send(const Plan& plan);
  void put_followers_to_sleep();

  const LeaderParts parts_;
  const LeaderOptions options_;
  BatchPlanner planner_;
  PlanChannel channel_;
  std::vector<SequenceState> states_;  // by SequenceIndex
  std::vector<SequenceIndex> scratch_;

  parallel::StepInput input_;
  std::vector<parallel::SlotId> drawing_;  // whose tokens the step draws
  LengthProbe probe_;
  HiddenRows hidden_;
  StepOutput output_;  // of the step under way
  uint64_t step_ = 0;
  uint64_t applied_seq_ = 0;
  uint64_t reports_ = 0;     // of this epoch
  bool unreported_ = false;  // a command changed something, or an answer ended without a step
  bool awake_ = false;       // the followers are in replay
  std::optional<Epoch> epoch_;
  bool draining_ = false, drained_ = false;
  std::optional<LoopExit> exit_;

  TextThread text_;  // last: joins before what it reports to goes
};

}  // namespace tailor::worker
