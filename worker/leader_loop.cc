#include "worker/leader_loop.h"

#include <string>
#include <utility>

#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"

namespace tailor::worker {
namespace {

void log_changes(const StepReport& report, const StepPayload& payload) {
  for (const SequencePreempted& victim : report.preempted)
    LOG_INFO("request {} sample {} gives back its blocks ({} tokens to recompute)",
             victim.request.value, victim.sample, victim.tokens_lost);
  for (const SequenceEnd& end : payload.ends) {
    const SequenceProgress& entry = report.progress[end.entry];
    LOG_WARN("request {} sample {} failed: {}", entry.request.value, entry.sample,
             to_string(end.error));
  }
}

}  // namespace

LeaderLoop::LeaderLoop(const LeaderParts& parts, const LeaderOptions& options)
    : parts_(parts),
      options_(options),
      core_({.replica = options.replica,
             .planner = options.planner,
             .limits = options.limits,
             .vocab_size = parts.engine.info().vocab_size,
             .probe = options.probe.marks(),
             .depth = parts.engine.depth()}),
      channel_(parts.control, parts.engine.depth() > 1),
      moves_(parts.store, parts.control),
      probe_(options.probe),
      text_(
          parts.tokenizer,
          [io = &parts.io](comm::ReportFrame report) { io->report(std::move(report)); },
          parts.text_progress) {
  TAILOR_CHECK(parts.engine.info().block_tokens == options.planner.block_tokens,
               "the planner counts blocks of another size than the engine's");
  for (int i = 0; i < parts.engine.depth(); ++i)
    steps_.push_back(
        {EngineStep(probe_.layers(), options.planner.slots, parts.engine.info().hidden_size)});
}

LoopExit LeaderLoop::run() {
  parts_.io.report({{{options_.replica}, options_.hello}, {}});
  while (!exit_) {
    ++parts_.progress.counter;
    const Time started = take_inputs();
    if (exit_) break;
    for (const StopFound& stop : text_.stops().drain()) core_.apply(stop);
    if (parts_.moves != nullptr)
      for (const kv::BlockMove& move : parts_.moves->wanted.drain()) core_.order(move);
    if (auto done = take_step(started); !done) {
      LOG_ERROR("a step failed: {}", to_string(done.error()));
      exit_ = LoopExit{kExitDevice, false};
    }
    for (FromReplica& word : core_.take_words()) {
      drained_ = drained_ || std::holds_alternative<Drained>(word.report);
      text_.send(std::move(word));
    }
  }
  if (exit_->together) {
    auto told = wake_followers_and_send({PlanKind::kShutdown, exit_->code}, {});
    if (!told) exit_->together = false;
  }
  return *exit_;
}

/// Waits for a command where there is nothing else to do. Returns when the turn's work began.
Time LeaderLoop::take_inputs() {
  const bool idle = !core_.has_work();
  const bool wait = core_.steps_under_way() == 0 && (idle || backlogged() || only_moves_);
  if (wait && !core_.moves_open()) put_followers_to_sleep();
  Time started = now();
  parts_.progress.busy = !wait;
  auto inputs =
      !wait ? parts_.io.inbox().drain()
            : parts_.io.inbox().drain_wait(idle ? options_.idle_wait : Duration(milliseconds(2)));
  parts_.progress.busy = true;
  if (wait) started = now();
  for (comm::WorkerInput& input : inputs) {
    if (auto* command = std::get_if<comm::CommandFrame>(&input)) {
      apply(*command);
    } else if (std::holds_alternative<comm::LinkDown>(input)) {
      LOG_ERROR("the coordinator is silent: leaving");
      exit_ = LoopExit{kExitCoordinatorLost, true};
    }
    if (exit_) break;
  }
  return started;
}

void LeaderLoop::apply(comm::CommandFrame& frame) {
  if (const auto* shutdown = std::get_if<Shutdown>(&frame.to.command)) {
    if (shutdown->cluster_stops) {
      exit_ = LoopExit{kExitOk, true};
    } else if (!drained_) {
      LOG_WARN("the coordinator does without this replica: leaving, to be started again");
      exit_ = LoopExit{kExitUnavailable, true};
    } else if (options_.leaves_when_drained) {
      LOG_INFO("drained: leaving for good");
      exit_ = LoopExit{kExitDrained, true};
    }
    return;
  }
  const Epoch before = core_.epoch();
  core_.apply(frame.to, std::move(frame.payload));
  if (core_.epoch() == before) return;
  drained_ = false;
  if (before != Epoch{0})
    LOG_WARN("joined anew as epoch {} (it was {}): what ran before is dropped", core_.epoch().value,
             before.value);
}

// ---- one step ----

Result<void> LeaderLoop::take_step(Time started) {
  while (!backlogged()) {
    const Step* step = core_.begin();
    if (step == nullptr) break;
    TAILOR_TRY(begin_step(*step));
  }
  only_moves_ = core_.steps_under_way() == 0 && core_.moves_open();
  if (only_moves_) {
    TAILOR_TRY(wake_followers_and_send({PlanKind::kAgree}, {}));
    TAILOR_TRY(begin_moves({}));
  }
  if (core_.steps_under_way() > 0) return end_step(started);
  move_slots(core_, nullptr, parts_.engine, scratch_);
  if (!core_.unreported()) return {};
  send_report(core_.report());
  return {};
}

Result<void> LeaderLoop::begin_step(const Step& step) {
  UnderWay& under_way = steps_[step.number % steps_.size()];
  under_way.step = &step;
  under_way.layout.lay_out(core_, step);
  TAILOR_TRY(wake_followers_and_send({PlanKind::kStep}, under_way.layout.input()));
  TAILOR_TRY(begin_moves(under_way.layout.input().moves));
  move_slots(core_, &step, parts_.engine, scratch_);
  return parts_.engine.submit(under_way.layout.input(), under_way.layout.rows());
}

Result<void> LeaderLoop::begin_moves(std::span<const kv::BlockMove> moves) {
  TAILOR_TRY(moves_.begin(moves));
  for (const kv::MoveEvent& event : moves_.take()) core_.apply(event);
  for (MoveOutcome& outcome : core_.take_moved())
    parts_.moves->over.push_always(std::move(outcome));
  return {};
}

Result<void> LeaderLoop::end_step(Time started) {
  if (core_.steps_under_way() < parts_.engine.depth())
    TAILOR_TRY(wake_followers_and_send({PlanKind::kCollect}, {}));
  TAILOR_ASSIGN(const parallel::StepOutcome drawn, parts_.engine.collect());
  const UnderWay& ended = steps_[core_.oldest().number % steps_.size()];
  ReportDraft& draft =
      core_.end({.tokens = drawn.tokens, .logprobs = drawn.logprobs, .laws = laws_of(ended)});
  move_slots(core_, nullptr, parts_.engine, scratch_);
  draft.report.forward_time = drawn.forward_time;
  draft.report.sample_time = drawn.sample_time;
  draft.report.step_time = now() - started;
  send_report(draft);
  return {};
}

/// What the hidden states of this step say.
std::span<const LengthLaw> LeaderLoop::laws_of(const UnderWay& ended) {
  laws_.clear();
  for (size_t i = 0; i < ended.step->taps.size(); ++i)
    laws_.push_back(probe_.law(ended.step->taps[i].generated, ended.layout.hidden(i)));
  return laws_;
}

void LeaderLoop::send_report(ReportDraft& draft) {
  log_changes(draft.report, draft.payload);
  text_.send(std::move(draft));
}

// ---- followers ----

Result<void> LeaderLoop::wake_followers_and_send(const Plan& plan,
                                                 const parallel::StepInput& input) {
  if (!channel_.has_followers()) return {};
  if (!awake_) parts_.io.ring();
  awake_ = true;
  return channel_.send(plan, input);
}

void LeaderLoop::put_followers_to_sleep() {
  if (!awake_) return;
  awake_ = false;
  if (auto told = channel_.send({PlanKind::kSleep}, {}); !told) {
    LOG_ERROR("the followers cannot be told to sleep: {}", to_string(told.error()));
    exit_ = LoopExit{kExitDevice, false};
  }
}

}  // namespace tailor::worker
