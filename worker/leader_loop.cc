#include "worker/leader_loop.h"

#include <algorithm>
#include <string>
#include <utility>

#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"

namespace tailor::worker {

LeaderLoop::LeaderLoop(const LeaderParts& parts, const LeaderOptions& options)
    : parts_(parts),
      options_(options),
      planner_(options.planner),
      channel_(parts.control),
      probe_(options.probe),
      hidden_(probe_.layers(), options.planner.slots, parts.engine.info().hidden_size),
      text_(
          parts.tokenizer,
          [io = &parts.io](comm::ReportFrame report) { io->report(std::move(report)); },
          parts.text_progress) {}

LoopExit LeaderLoop::run() {
  parts_.io.report({{{options_.replica}, options_.hello}, {}});
  while (!exit_) {
    ++parts_.progress.counter;
    const bool idle = !planner_.has_work();
    const bool wait = idle || backlogged();
    if (wait) put_followers_to_sleep();
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
    if (exit_) break;
    end_stopped_sequences();
    if (planner_.has_work() && !backlogged()) {
      auto done = step(started);
      if (!done) {
        LOG_ERROR("step {} failed: {}", step_, to_string(done.error()));
        exit_ = LoopExit{kExitDevice, false};
      }
    }
    if (unreported_ && !exit_) send_report(started);
    if (draining_ && !drained_ && !planner_.has_work()) {
      drained_ = true;
      text_.send(comm::ReportFrame{{envelope(), Drained{}}, {}});
    }
  }
  if (exit_->together) {
    auto told = wake_followers_and_send({PlanKind::kShutdown, exit_->code});
    if (!told) exit_->together = false;
  }
  return *exit_;
}

// ---- commands -----------------------------------------------------------------------------------

void LeaderLoop::apply(const comm::CommandFrame& frame) {
  const Envelope& envelope = frame.to.envelope;
  const WorkerCommand& command = frame.to.command;
  applied_seq_ = std::max(applied_seq_, envelope.sequence);
  if (std::holds_alternative<Welcome>(command)) {
    if (epoch_ && *epoch_ != envelope.epoch) {
      LOG_WARN("joined anew as epoch {} (it was {}): what ran before is dropped",
               envelope.epoch.value, epoch_->value);
      cancel_all();
      draining_ = drained_ = false;
    }
    if (!epoch_ || *epoch_ != envelope.epoch) {
      applied_seq_ = envelope.sequence;
      reports_ = 0;
    }
    epoch_ = envelope.epoch;
  } else if (auto* dispatch = std::get_if<Dispatch>(&command)) {
    start_request(*dispatch, frame.payload);
  } else if (auto* cancel = std::get_if<CancelRequest>(&command)) {
    cancel_request(cancel->request, cancel->attempt);
  } else if (std::holds_alternative<Drain>(command)) {
    draining_ = true;
  } else if (auto* shutdown = std::get_if<Shutdown>(&command)) {
    if (!shutdown->cluster_stops)
      LOG_WARN("the coordinator does without this replica: leaving, to be started again");
    exit_ = LoopExit{shutdown->cluster_stops ? kExitOk : kExitUnavailable, true};
  }
}

Result<void> LeaderLoop::check_request(const DispatchPayload& payload) const {
  const Request& request = *payload.request;
  const int64_t vocab = parts_.engine.info().vocab_size;
  if (draining_) return fail(ErrorCode::kUnavailable, "the replica is draining");
  TAILOR_TRY(validate(request.sampling, vocab));
  if (request.prompt.empty()) return fail(ErrorCode::kInvalidArgument, "the prompt has no token");
  if (static_cast<int64_t>(request.prompt.size()) >= options_.limits.max_context) {
    return fail(ErrorCode::kLimitExceeded, "the prompt has " +
                                               std::to_string(request.prompt.size()) +
                                               " tokens, this replica's context is " +
                                               std::to_string(options_.limits.max_context));
  }
  if (payload.generated.size() > static_cast<size_t>(request.sampling.n))
    return fail(ErrorCode::kInvalidArgument, "more samples were generated than the request has");
  auto known = [vocab](const std::vector<TokenId>& ids) {
    return std::all_of(ids.begin(), ids.end(),
                       [vocab](TokenId id) { return id >= 0 && id < vocab; });
  };
  if (!known(request.prompt) ||
      !std::all_of(payload.generated.begin(), payload.generated.end(), known))
    return fail(ErrorCode::kInvalidArgument,
                "a token id lies outside the vocabulary of " + std::to_string(vocab));
  return {};
}

void LeaderLoop::refuse_request(const Dispatch& dispatch, const DispatchPayload& payload,
                                const Error& error) {
  LOG_WARN("request {} refused: {}", dispatch.request.value, to_string(error));
  const auto& request = payload.request;
  for (int32_t sample = 0; sample < std::max(1, request->sampling.n); ++sample) {
    text_.send(OpenAnswer{.sequence = {request->id, static_cast<uint32_t>(sample)},
                          .attempt = dispatch.attempt,
                          .request = request,
                          .ended = FinishReason::kFailed,
                          .error = error});
  }
}

void LeaderLoop::start_request(const Dispatch& dispatch, const DispatchPayload& payload) {
  unreported_ = true;
  scratch_.clear();
  planner_.find(dispatch.request, scratch_);
  if (!scratch_.empty()) {
    if (states_[scratch_[0]].attempt >= dispatch.attempt) return;  // a repeat
    cancel_request(dispatch.request, std::nullopt);
  }
  if (auto checked = check_request(payload); !checked)
    return refuse_request(dispatch, payload, checked.error());

  const auto& request = payload.request;
  std::vector<std::vector<TokenId>> generated = payload.generated;
  generated.resize(request->sampling.n);
  std::vector<int32_t> counts;
  for (const auto& ids : generated) counts.push_back(static_cast<int32_t>(ids.size()));
  std::vector<SequenceIndex> indexes;
  planner_.add(request->id, static_cast<int32_t>(request->prompt.size()), counts, indexes);

  for (size_t sample = 0; sample < indexes.size(); ++sample) {
    const SequenceIndex index = indexes[sample];
    if (static_cast<size_t>(index) >= states_.size()) states_.resize(index + 1);
    const FinishReason ended = generated[sample].empty()
                                   ? FinishReason::kNone
                                   : finish_reason(*request, generated[sample], options_.limits);
    text_.send(OpenAnswer{.sequence = {request->id, static_cast<uint32_t>(sample)},
                          .attempt = dispatch.attempt,
                          .request = request,
                          .generated = generated[sample],
                          .ended = ended});
    if (ended != FinishReason::kNone) {
      planner_.finish(index);
      continue;
    }
    states_[index] = SequenceState{.request = request,
                                   .attempt = dispatch.attempt,
                                   .sample = static_cast<uint32_t>(sample),
                                   .emitted = std::move(generated[sample])};
  }
}

void LeaderLoop::cancel_request(RequestId request, std::optional<Attempt> attempt) {
  std::vector<SequenceIndex> indexes;
  planner_.find(request, indexes);
  for (SequenceIndex index : indexes) {
    if (attempt && states_[index].attempt != *attempt) continue;
    text_.send(CloseAnswer{states_[index].id(), states_[index].attempt});
    end_sequence(index);
    unreported_ = true;
  }
}

void LeaderLoop::cancel_all() {
  for (size_t index = 0; index < states_.size(); ++index) {
    if (!states_[index].request) continue;
    text_.send(CloseAnswer{states_[index].id(), states_[index].attempt});
    end_sequence(static_cast<SequenceIndex>(index));
    unreported_ = true;
  }
}

void LeaderLoop::end_stopped_sequences() {
  for (const StopFound& stop : text_.stops().drain()) {
    scratch_.clear();
    planner_.find(stop.sequence.request, scratch_);
    for (SequenceIndex index : scratch_) {
      if (states_[index].id() != stop.sequence || states_[index].attempt != stop.attempt) continue;
      text_.send(CloseAnswer{stop.sequence, stop.attempt});
      end_sequence(index);
      unreported_ = true;  // if no step follows: that blocks are free
      break;
    }
  }
}

void LeaderLoop::end_sequence(SequenceIndex index) {
  planner_.finish(index);
  leave_slot(states_[index]);
  states_[index] = SequenceState{};
}

void LeaderLoop::leave_slot(SequenceState& state) {
  if (state.slot >= 0) parts_.engine.close_slot(state.slot);
  state.slot = -1;
}

// ---- one step -----------------------------------------------------------------------------------

Result<void> LeaderLoop::step(Time started) {
  const BatchPlan& plan = planner_.plan();
  ++step_;
  output_.report.prefill_tokens = static_cast<uint32_t>(plan.prefill_tokens);
  output_.report.decode_tokens = static_cast<uint32_t>(plan.decode_tokens);
  for (const PreemptedSequence& victim : plan.preempted) {
    SequenceState& state = states_[victim.index];
    leave_slot(state);
    output_.report.preempted.push_back({state.request->id, state.sample, state.attempt,
                                        static_cast<uint32_t>(victim.tokens_lost)});
    LOG_INFO("request {} sample {} gives back its blocks ({} tokens to recompute)",
             state.request->id.value, state.sample, victim.tokens_lost);
  }
  for (const UnfitSequence& unfit : plan.unfit) {
    SequenceState& state = states_[unfit.index];
    std::string message = "the sequence needs " + std::to_string(unfit.blocks_needed) +
                          " KV blocks of " + std::to_string(planner_.blocks().block_tokens()) +
                          " tokens, the replica has " +
                          std::to_string(planner_.blocks().capacity());
    output_.tokens.push_back({.sequence = state.id(),
                              .attempt = state.attempt,
                              .index = static_cast<uint32_t>(state.emitted.size()),
                              .finish = FinishReason::kFailed,
                              .error = {ErrorCode::kOutOfBlocks, std::move(message)}});
    leave_slot(state);
    state = SequenceState{};
  }
  for (const AdmittedSequence& admitted : plan.admitted) {
    SequenceState& state = states_[admitted.index];
    state.slot = admitted.slot;
    parts_.engine.open_slot({state.slot, state.request, state.sample, state.emitted});
  }
  if (!plan.chunks.empty()) TAILOR_TRY(compute(plan));
  send_report(started);
  return {};
}

Result<void> LeaderLoop::compute(const BatchPlan& plan) {
  build_input(plan);
  TAILOR_TRY(wake_followers_and_send({PlanKind::kStep}));
  TAILOR_TRY(parts_.engine.submit(input_, {.slots = drawing_, .taps = hidden_.taps()}));
  TAILOR_ASSIGN(const parallel::StepOutcome drawn, parts_.engine.collect());
  report_laws();
  take_tokens(plan, drawn);
  output_.report.forward_time = drawn.forward_time;
  output_.report.sample_time = drawn.sample_time;
  return {};
}

void LeaderLoop::build_input(const BatchPlan& plan) {
  input_.clear();
  hidden_.clear();
  drawing_.clear();
  input_.step = step_;
  for (const PlannedChunk& c : plan.chunks) {
    const SequenceState& state = states_[c.index];
    if (c.wants_logits && probe_.on() && probe_.wants(state))
      hidden_.add(input_.num_rows() + c.num_tokens - 1, c.index);
    if (c.wants_logits) drawing_.push_back(state.slot);
    append_chunk(c, planner_.block_table(c.index), planner_.blocks().block_tokens(), state, input_);
  }
}

/// What the hidden states of this step say, before its tokens are taken.
void LeaderLoop::report_laws() {
  for (size_t i = 0; i < hidden_.size(); ++i) {
    const SequenceState& state = states_[hidden_.index(i)];
    const auto generated = static_cast<uint32_t>(state.emitted.size());
    output_.report.laws.push_back({state.request->id, state.attempt, state.sample, generated,
                                   probe_.law(generated, hidden_.values(i))});
  }
}

void LeaderLoop::take_tokens(const BatchPlan& plan, const parallel::StepOutcome& drawn) {
  size_t row = 0;
  for (const PlannedChunk& c : plan.chunks) {
    if (!c.wants_logits) continue;
    take_token(c.index, drawn.tokens[row], drawn.logprobs[row]);
    ++row;
  }
}

void LeaderLoop::take_token(SequenceIndex index, const Result<TokenId>& token,
                            LogprobEntry& logprobs) {
  SequenceState& state = states_[index];
  if (!state.prefill_reported) report_prefill(index);
  AnswerToken answer{.sequence = state.id(),
                     .attempt = state.attempt,
                     .index = static_cast<uint32_t>(state.emitted.size())};
  if (token) {
    answer.token = *token;
    answer.has_logprobs = state.request->sampling.logprobs >= 0;
    if (answer.has_logprobs) answer.logprobs = std::move(logprobs);
    state.emitted.push_back(*token);
    answer.finish = finish_reason(*state.request, state.emitted, options_.limits);
  } else {
    LOG_ERROR("request {} sample {}: {}", state.request->id.value, state.sample,
              to_string(token.error()));
    answer.finish = FinishReason::kFailed;
    answer.error = token.error();
  }
  if (answer.finish == FinishReason::kNone) {
    planner_.token_drawn(index);
  } else {
    end_sequence(index);
  }
  output_.tokens.push_back(std::move(answer));
}

/// Once per request and attempt, with the first token any of its samples draws.
void LeaderLoop::report_prefill(SequenceIndex index) {
  const SequenceState& state = states_[index];
  output_.report.prefills.push_back({state.request->id, state.attempt, 0});
  scratch_.clear();
  planner_.find(state.request->id, scratch_);
  for (SequenceIndex sibling : scratch_) states_[sibling].prefill_reported = true;
}

void LeaderLoop::send_report(Time started) {
  StepReport& report = output_.report;
  report.step = step_;
  report.applied_seq = applied_seq_;
  report.running_sequences = static_cast<uint32_t>(planner_.running_sequences());
  report.free_blocks = static_cast<uint32_t>(planner_.blocks().free_blocks());
  report.step_time = now() - started;
  text_.send(ToReport{envelope(), std::exchange(output_, {})});
  unreported_ = false;
}

Result<void> LeaderLoop::wake_followers_and_send(const Plan& plan) {
  if (!channel_.has_followers()) return {};
  if (!awake_) parts_.io.ring();
  awake_ = true;
  return channel_.send(plan, input_);
}

void LeaderLoop::put_followers_to_sleep() {
  if (!awake_) return;
  awake_ = false;
  if (auto told = channel_.send({PlanKind::kSleep}, input_); !told) {
    LOG_ERROR("the followers cannot be told to sleep: {}", to_string(told.error()));
    exit_ = LoopExit{kExitDevice, false};
  }
}

}  // namespace tailor::worker
