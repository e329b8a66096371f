#include "worker/replica_core.h"

#include <algorithm>
#include <string>
#include <utility>

#include "base/check.h"
#include "base/payload.h"

namespace tailor::worker {

FinishReason finish_reason(const SamplingParams& sampling, int64_t prompt_tokens, int64_t count,
                           TokenId last, const SequenceLimits& limits) {
  if (count > sampling.min_tokens) {
    const auto among = [last](const std::vector<TokenId>& ids) {
      return std::find(ids.begin(), ids.end(), last) != ids.end();
    };
    if (among(sampling.stop_token_ids)) return FinishReason::kStop;
    if (!sampling.ignore_eos && among(limits.eos_tokens)) return FinishReason::kStop;
  }
  if (count >= sampling.max_tokens) return FinishReason::kLength;
  if (prompt_tokens + count >= limits.max_context) return FinishReason::kLength;
  return FinishReason::kNone;
}

ReplicaCore::ReplicaCore(const ReplicaOptions& options)
    : options_(options), planner_(options.planner) {
  TAILOR_CHECK(options.depth == 1 || options.depth == 2, "one or two steps can be under way");
  const auto slots = static_cast<size_t>(options.planner.slots);
  for (Step& step : steps_) {
    step.chunks.reserve(slots);
    step.admitted.reserve(slots);
    step.draws.reserve(slots);
    step.taps.reserve(slots);
  }
  closed_slots_.reserve(slots);
}

// ---- commands ----

void ReplicaCore::apply(const ToReplica& command, DispatchPayload payload) {
  const Envelope& envelope = command.envelope;
  if (std::holds_alternative<Welcome>(command.command)) return welcome(envelope);
  if (envelope.epoch != epoch_) return;
  if (envelope.sequence != 0) {
    if (envelope.sequence <= applied_) return;
    take_into_account(envelope.sequence);
  }
  if (const auto* dispatch = std::get_if<Dispatch>(&command.command)) {
    start(*dispatch, std::move(payload));
  } else if (const auto* gone = std::get_if<CancelRequest>(&command.command)) {
    cancel(gone->request, &gone->attempt);
  } else if (std::holds_alternative<Drain>(command.command)) {
    draining_ = true;
  }
}

void ReplicaCore::welcome(const Envelope& envelope) {
  if (envelope.epoch == epoch_) {
    if (envelope.sequence > applied_) take_into_account(envelope.sequence);
    return;
  }
  for (size_t index = 0; index < sequences_.size(); ++index)
    if (sequences_[index].live) close(static_cast<SequenceIndex>(index));
  drop_draft();
  words_.clear();
  draining_ = drained_ = false;
  epoch_ = envelope.epoch;
  take_into_account(envelope.sequence);
  reported_ = 0;
}

/// Told with the next report, which somebody waits for though no step follows.
void ReplicaCore::take_into_account(uint64_t sequence) {
  applied_ = sequence;
  unreported_ = true;
}

/// Only what has been opened and closed is still told. An entry that goes told of an end; nothing
/// else closes its answer.
void ReplicaCore::drop_draft() {
  auto changes = std::move(draft_->changes);
  if (options_.token_ids)
    for (const SequenceProgress& entry : draft_->report.progress)
      changes.push_back({entry.sequence(), entry.attempt, nullptr, {}, {}});
  draft_->clear();
  draft_->changes = std::move(changes);
}

Result<void> ReplicaCore::check(const Dispatch& dispatch, const DispatchPayload& payload) const {
  if (draining_) return fail(ErrorCode::kUnavailable, "the replica is draining");
  if (!payload.request) return fail(ErrorCode::kInvalidArgument, "a dispatch without its request");
  const Request& request = *payload.request;
  TAILOR_TRY(validate(request.sampling, options_.vocab_size));
  const uint32_t prompt = dispatch.prompt_tokens;
  if (prompt == 0) return fail(ErrorCode::kInvalidArgument, "the prompt has no token");
  if (static_cast<int64_t>(prompt) >= options_.limits.max_context)
    return fail(ErrorCode::kLimitExceeded, "the prompt has " + std::to_string(prompt) +
                                               " tokens, this replica's context is " +
                                               std::to_string(options_.limits.max_context));
  if (!fits(dispatch, payload) || (options_.token_ids && prompt != request.prompt.size()))
    return fail(ErrorCode::kInvalidArgument, "the numbers of a dispatch are not its request's");
  if (!options_.token_ids) return {};
  const auto known = [vocab = options_.vocab_size](const std::vector<TokenId>& ids) {
    return std::all_of(ids.begin(), ids.end(),
                       [vocab](TokenId id) { return id >= 0 && id < vocab; });
  };
  if (!known(request.prompt) ||
      !std::all_of(payload.generated.begin(), payload.generated.end(), known))
    return fail(ErrorCode::kInvalidArgument,
                "a token id lies outside the vocabulary of " + std::to_string(options_.vocab_size));
  return {};
}

void ReplicaCore::start(const Dispatch& dispatch, DispatchPayload&& payload) {
  unreported_ = true;
  scratch_.clear();
  planner_.find(dispatch.request, scratch_);
  if (!scratch_.empty()) {
    if (at(scratch_.front()).attempt >= dispatch.attempt) return;  // a repeat
    cancel(dispatch.request, nullptr);
  }
  if (const auto checked = check(dispatch, payload); !checked) {
    const uint32_t told = std::clamp<uint32_t>(dispatch.samples, 1, kMaxSamples);  // unchecked yet
    for (uint32_t s = 0; s < told; ++s)
      tell_failure({dispatch.request, s}, dispatch.attempt, 0, checked.error());
    return;
  }
  payload.generated.resize(dispatch.samples);
  std::vector<int32_t> counts;
  for (const auto& ids : payload.generated) counts.push_back(static_cast<int32_t>(ids.size()));
  std::vector<SequenceIndex> indexes;
  planner_.add(dispatch.request, static_cast<int32_t>(dispatch.prompt_tokens), counts, indexes);
  for (uint32_t s = 0; s < indexes.size(); ++s) open(indexes[s], dispatch, payload, s);
}

void ReplicaCore::open(SequenceIndex index, const Dispatch& dispatch,
                       const DispatchPayload& payload, uint32_t sample) {
  if (static_cast<size_t>(index) >= sequences_.size()) sequences_.resize(index + 1);
  ReplicaSequence& s = at(index);
  const std::vector<TokenId>& generated = payload.generated[sample];
  s.request = payload.request;
  s.id = {dispatch.request, sample};
  s.attempt = dispatch.attempt;
  s.prompt_tokens = static_cast<int32_t>(dispatch.prompt_tokens);
  s.generated = static_cast<uint32_t>(generated.size());
  s.prefill_told = false;
  s.live = true;
  const FinishReason ended = generated.empty()
                                 ? FinishReason::kNone
                                 : finish_reason(s.request->sampling, s.prompt_tokens, s.generated,
                                                 generated.back(), options_.limits);
  if (options_.token_ids) {
    constexpr int64_t kUsualAnswer = 4096;  // longer ones grow
    const int64_t room = std::min<int64_t>(s.request->sampling.max_tokens,
                                           options_.limits.max_context - s.prompt_tokens);
    s.emitted.reserve(static_cast<size_t>(std::min<int64_t>(room, kUsualAnswer)));
    s.emitted.assign(generated.begin(), generated.end());
    draft_->changes.push_back({s.id, s.attempt, s.request, generated, ended});
  }
  if (ended == FinishReason::kNone) return;
  tell(s, 0, ended);
  end_sequence(index);
}

void ReplicaCore::cancel(RequestId request, const Attempt* attempt) {
  scratch_.clear();
  planner_.find(request, scratch_);
  for (const SequenceIndex index : scratch_)
    if (attempt == nullptr || at(index).attempt == *attempt) close(index);
}

void ReplicaCore::apply(const StopFound& stop) {
  scratch_.clear();
  planner_.find(stop.sequence.request, scratch_);
  for (const SequenceIndex index : scratch_)
    if (at(index).id == stop.sequence && at(index).attempt == stop.attempt) return close(index);
}

void ReplicaCore::order(const kv::BlockMove& move) { planner_.order(move); }

void ReplicaCore::apply(const kv::MoveEvent& event) {
  const auto* done = std::get_if<kv::MoveDone>(&event);
  const uint64_t over = done != nullptr ? done->through : std::get<kv::MoveFailed>(event).move;
  const uint64_t begun = moves_over_ + moving_.size();
  TAILOR_CHECK(over <= begun && (done != nullptr ? over > moves_over_ : over == moves_over_ + 1),
               "moves are agreed about out of order");
  for (; moves_over_ < over; ++moves_over_) {
    moved_.push_back({moving_.front(), done != nullptr});
    moving_.pop_front();
  }
}

/// Ends a sequence without a last token of ours.
void ReplicaCore::close(SequenceIndex index) {
  const ReplicaSequence& s = at(index);
  if (options_.token_ids) draft_->changes.push_back({s.id, s.attempt, nullptr, {}, {}});
  end_sequence(index);
  unreported_ = true;  // if no step follows: that blocks are free
}

void ReplicaCore::end_sequence(SequenceIndex index) {
  ReplicaSequence& s = at(index);
  s.live = false;
  if (s.under_way > 0) return planner_.retire(index);
  planner_.finish(index);
  free_sequence(index);
}

void ReplicaCore::free_sequence(SequenceIndex index) {
  ReplicaSequence& s = at(index);
  leave_slot(s);
  s.request.reset();
  s.emitted.clear();
  s.pending_row = -1;
  s.live = false;
}

void ReplicaCore::leave_slot(ReplicaSequence& s) {
  if (s.slot >= 0) closed_slots_.push_back(s.slot);
  s.slot = -1;
}

void ReplicaCore::take_closed_slots(std::vector<int32_t>& out) {
  out.insert(out.end(), closed_slots_.begin(), closed_slots_.end());
  closed_slots_.clear();
}

// ---- steps ----

const Step* ReplicaCore::begin() {
  if (under_way_ == options_.depth || stalled_ || !planner_.has_work()) return nullptr;
  const BatchPlan& plan = planner_.plan(under_way_ > 0);
  tell_plan(plan);
  if (plan.chunks.empty() && plan.moves.empty()) {
    stalled_ = under_way_ > 0;
    if (!plan.unfit.empty()) ++step_;
    return nullptr;
  }
  Step& step = steps_[++step_ % steps_.size()];
  ++under_way_;
  step.number = step_;
  lay_out(step, plan);
  return &step;
}

void ReplicaCore::tell_plan(const BatchPlan& plan) {
  for (const PreemptedSequence& victim : plan.preempted) {
    ReplicaSequence& s = at(victim.index);
    leave_slot(s);
    draft_->report.preempted.push_back(
        {s.id.request, s.id.sample, s.attempt, static_cast<uint32_t>(victim.tokens_lost)});
  }
  for (const PreemptedSequence& victim : plan.reclaimed) {
    const ReplicaSequence& s = at(victim.index);
    draft_->report.preempted.push_back(
        {s.id.request, s.id.sample, s.attempt, static_cast<uint32_t>(victim.tokens_lost)});
  }
  for (const UnfitSequence& unfit : plan.unfit) {
    const ReplicaSequence& s = at(unfit.index);
    tell_failure(s.id, s.attempt, s.generated,
                 {ErrorCode::kOutOfBlocks,
                  "the sequence needs " + std::to_string(unfit.blocks_needed) + " KV blocks of " +
                      std::to_string(planner_.blocks().block_tokens()) +
                      " tokens, the replica has " + std::to_string(planner_.blocks().capacity())});
    free_sequence(unfit.index);
  }
  for (const AdmittedSequence& admitted : plan.admitted) at(admitted.index).slot = admitted.slot;
}

void ReplicaCore::lay_out(Step& step, const BatchPlan& plan) {
  step.chunks.assign(plan.chunks.begin(), plan.chunks.end());
  step.moves.assign(plan.moves.begin(), plan.moves.end());
  moving_.insert(moving_.end(), plan.moves.begin(), plan.moves.end());
  step.admitted.assign(plan.admitted.begin(), plan.admitted.end());
  step.draws.clear();
  step.taps.clear();
  step.prefill_tokens = plan.prefill_tokens;
  step.decode_tokens = plan.decode_tokens;
  for (size_t i = 0; i < step.chunks.size(); ++i) {
    ReplicaSequence& s = at(step.chunks[i].index);
    ++s.under_way;
    if (step.chunks[i].wants_logits) add_draw(step, static_cast<int32_t>(i), s);
  }
}

void ReplicaCore::add_draw(Step& step, int32_t chunk, ReplicaSequence& s) {
  const bool pending = s.pending_row >= 0;
  TAILOR_CHECK(!pending || s.pending_step + 1 == step.number,
               "a token is awaited from a step that is not the one before");
  const SequenceIndex index = step.chunks[static_cast<size_t>(chunk)].index;
  const Step::Row row{index, chunk, s.generated + (pending ? 1 : 0), s.pending_row};
  s.pending_row = static_cast<int32_t>(step.draws.size());
  s.pending_step = step.number;
  step.draws.push_back(row);
  const bool wanted = row.generated == 0
                          ? options_.probe.prompt && s.id.sample == 0
                          : options_.probe.every > 0 && row.generated % options_.probe.every == 0;
  if (wanted) step.taps.push_back(row);
  // What is surely the last token needs no row of its own.
  const int64_t count = static_cast<int64_t>(row.generated) + 1;
  if (count < s.request->sampling.max_tokens &&
      s.prompt_tokens + count < options_.limits.max_context)
    planner_.token_drawn(index);
}

ReportDraft& ReplicaCore::end(const StepResult& result) {
  TAILOR_CHECK(under_way_ > 0, "no step is under way");
  const Step& step = oldest();
  const size_t draws = step.draws.size();
  TAILOR_CHECK(result.tokens.size() == draws, "a step draws one token per row");
  TAILOR_CHECK(result.logprobs.empty() || result.logprobs.size() == draws,
               "log-probabilities are of every row or of none");
  TAILOR_CHECK(result.laws.empty() || result.laws.size() == step.taps.size(),
               "laws are of every tap or of none");
  --under_way_;
  stalled_ = false;
  leave_step(step);
  tell_laws(step, result.laws);
  for (size_t i = 0; i < step.draws.size(); ++i)
    take_draw(step.draws[i], result.tokens[i],
              result.logprobs.empty() ? nullptr : &result.logprobs[i]);
  draft_->report.prefill_tokens = static_cast<uint32_t>(step.prefill_tokens);
  draft_->report.decode_tokens = static_cast<uint32_t>(step.decode_tokens);
  return report();
}

/// What ended while this step was under way, and is named by none any more, goes.
void ReplicaCore::leave_step(const Step& step) {
  for (const PlannedChunk& chunk : step.chunks) {
    ReplicaSequence& s = at(chunk.index);
    if (s.pending_step == step.number) s.pending_row = -1;
    if (--s.under_way > 0 || s.live) continue;
    planner_.release(chunk.index);
    free_sequence(chunk.index);
  }
}

void ReplicaCore::tell_laws(const Step& step, std::span<const LengthLaw> laws) {
  for (size_t i = 0; i < laws.size(); ++i) {
    const ReplicaSequence& s = at(step.taps[i].sequence);
    if (!s.live) continue;
    draft_->report.laws.push_back(
        {s.id.request, s.attempt, s.id.sample, step.taps[i].generated, laws[i]});
  }
}

void ReplicaCore::take_draw(const Step::Row& row, const Result<TokenId>& drawn,
                            LogprobEntry* logprobs) {
  ReplicaSequence& s = at(row.sequence);
  if (!s.live) return;  // beyond its end
  if (!s.prefill_told) tell_prefill(s);
  if (!drawn) {
    tell_failure(s.id, s.attempt, s.generated, drawn.error());
    return end_sequence(row.sequence);
  }
  const FinishReason finish =
      finish_reason(s.request->sampling, s.prompt_tokens, s.generated + 1, *drawn, options_.limits);
  tell(s, 1, finish);
  if (options_.token_ids) {
    draft_->payload.token_ids.push_back(*drawn);
    if (logprobs != nullptr && s.request->sampling.logprobs >= 0) {
      draft_->payload.texts.back().num_logprobs = 1;
      draft_->payload.logprobs.push_back(std::move(*logprobs));
    }
    s.emitted.push_back(*drawn);
  }
  ++s.generated;
  if (finish != FinishReason::kNone) end_sequence(row.sequence);
}

/// Once per request and attempt, with the first token any of its samples draws.
void ReplicaCore::tell_prefill(const ReplicaSequence& s) {
  draft_->report.prefills.push_back({s.id.request, s.attempt, 0});
  scratch_.clear();
  planner_.find(s.id.request, scratch_);
  for (const SequenceIndex sibling : scratch_) at(sibling).prefill_told = true;
}

void ReplicaCore::tell(const ReplicaSequence& s, uint32_t num_tokens, FinishReason finish) {
  draft_->report.progress.push_back(
      {s.id.request, s.id.sample, s.attempt, s.generated, num_tokens, finish});
  if (options_.token_ids) draft_->payload.texts.emplace_back();
}

void ReplicaCore::tell_failure(SequenceId id, Attempt attempt, uint32_t behind,
                               const Error& error) {
  const auto entry = static_cast<uint32_t>(draft_->report.progress.size());
  draft_->report.progress.push_back(
      {id.request, id.sample, attempt, behind, 0, FinishReason::kFailed});
  draft_->payload.ends.push_back({entry, {}, error});
  if (options_.token_ids) draft_->payload.texts.emplace_back();
  unreported_ = true;
}

// ---- reports ----

ReportDraft& ReplicaCore::report() {
  ReportDraft& told = *draft_;
  StepReport& r = told.report;
  r.step = step_ - static_cast<uint64_t>(under_way_);
  r.applied_seq = applied_;
  r.running_sequences = static_cast<uint32_t>(planner_.running_sequences());
  r.free_blocks = static_cast<uint32_t>(planner_.blocks().free_blocks());
  told.envelope = next_envelope();
  draft_ = draft_ == &drafts_[0] ? &drafts_[1] : &drafts_[0];
  draft_->clear();
  unreported_ = false;
  return told;
}

Envelope ReplicaCore::next_envelope() { return {options_.replica, epoch_, ++reported_}; }

std::vector<FromReplica> ReplicaCore::take_words() {
  const bool at_rest = planner_.empty() && !has_work() && !unreported_;
  if (draining_ && !drained_ && at_rest) {
    drained_ = true;
    words_.push_back(Drained{});
  }
  std::vector<FromReplica> told;
  for (WorkerReport& word : words_) told.push_back({next_envelope(), std::move(word)});
  words_.clear();
  return told;
}

Result<void> ReplicaCore::check_integrity() const {
  const auto wrong = [](const std::string& what) { return fail(ErrorCode::kInternal, what); };
  TAILOR_TRY(planner_.check_integrity());
  std::vector<int32_t> named(sequences_.size(), 0);
  for (int32_t i = 0; i < under_way_; ++i)
    for (const PlannedChunk& chunk : steps_[(step_ - static_cast<uint64_t>(i)) % 2].chunks)
      ++named[static_cast<size_t>(chunk.index)];
  int32_t live = 0, held = 0;
  for (size_t i = 0; i < sequences_.size(); ++i) {
    const ReplicaSequence& s = sequences_[i];
    live += s.live;
    held += !s.live && s.under_way > 0;
    if (s.under_way != named[i]) return wrong("steps under way are miscounted");
    if (!s.live && s.under_way == 0 && (s.request || s.slot >= 0))
      return wrong("an ended sequence holds something");
    if (!s.live) continue;
    if (s.slot != planner_.slot(static_cast<SequenceIndex>(i)))
      return wrong("a sequence is in another slot than planned");
    if (options_.token_ids && s.emitted.size() != s.generated) return wrong("a token is lost");
  }
  if (live !=
      planner_.running_sequences() + planner_.waiting_sequences() + planner_.paused_sequences())
    return wrong("a sequence lives that the planner does not know");
  if (held != planner_.retired_sequences()) return wrong("the planner holds something else");
  return {};
}

}  // namespace tailor::worker
