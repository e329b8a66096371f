#include "coordinator/scheduler_core.h"

#include <algorithm>
#include <string>
#include <utility>

#include "base/check.h"
#include "coordinator/placement.h"

namespace tailor::coordinator {
namespace {

constexpr const char* kNobodyComes =
    "not ready: every replica drains or has drained, and none is expected back";

int64_t ns(Time time) { return time.time_since_epoch().count(); }

}  // namespace

SchedulerCore::SchedulerCore(const CoreOptions& options, PolicyTable table)
    : options_(options),
      waiting_(options.policy, table),
      replicas_(options.ahead_requests, options.epoch_base) {
  waiting_.take_population(options.population, requests_);
  look_who_comes();
}

void SchedulerCore::handle(Time now, const CoreEvent& event, std::vector<CoreCommand>& out) {
  TAILOR_CHECK(now >= now_, "time given to the scheduler core runs forward");
  now_ = now;
  out_ = &out;
  std::visit([this](const auto& e) { on(e); }, event);
  expire_deadlines();
  if (nobody_comes_) end_waiting();
  counters_.rekeyed_all += waiting_.follow_beta(now_, replicas_.usable_slots(), requests_);
  dispatch_waiting();
  if (waiting() == 0) completion_seen_ = false;
  out_ = nullptr;
}

Time SchedulerCore::next_deadline() const {
  return deadlines_.empty() ? Time::max() : Time(Duration(deadlines_.top().arrival));
}

// ---- clients ----

void SchedulerCore::on(const Arrived& event) {
  TAILOR_CHECK(event.id > last_id_, "request ids grow with acceptance");
  TAILOR_CHECK(event.samples >= 1, "a request has at least one sample");
  last_id_ = event.id;
  const auto refuse = [&](ErrorCode code, std::string message, Duration retry) {
    ++counters_.rejected;
    say(Reject{event.id, Error{code, std::move(message)}, retry});
  };
  if (stopping_) return refuse(ErrorCode::kUnavailable, "the coordinator is stopping", Duration{});
  if (nobody_comes_) return refuse(ErrorCode::kUnavailable, kNobodyComes, Duration{});
  if (waiting() >= options_.queue_limit)
    return refuse(
        ErrorCode::kQueueFull,
        "the queue holds its limit of " + std::to_string(options_.queue_limit) + " requests",
        retry_after());

  const uint32_t slot = requests_.open(event);
  if (event.deadline < Time::max() - event.arrival)
    deadlines_.push(slot, {0.0, ns(event.arrival + event.deadline), slot});
  waiting_.push(slot, requests_[slot]);
  ++counters_.accepted;
  say(Accept{event.id, slot});
}

void SchedulerCore::on(const Abandoned& event) {
  const uint32_t slot = requests_.find(event.id);
  if (slot != RequestBook::kNone) abort(slot, event.reason, Error{event.code, {}});
}

void SchedulerCore::expire_deadlines() {
  while (!deadlines_.empty() && deadlines_.top().arrival <= ns(now_)) {
    const uint32_t slot = deadlines_.top_handle();
    abort(slot, FinishReason::kFailed,
          Error{ErrorCode::kDeadlineExceeded,
                "the deadline passed after " +
                    std::to_string(to_us(now_ - requests_[slot].arrival) / 1000) + " ms"});
  }
}

void SchedulerCore::on(const Stop&) {
  stopping_ = true;
  for (uint32_t slot = 0; slot < requests_.slots(); ++slot)
    if (requests_[slot].live())
      finish(slot, FinishReason::kFailed,
             Error{ErrorCode::kShutdown, "the coordinator is stopping"});
  for (uint32_t r = 0; r < replicas_.all().size(); ++r) {
    if (!replicas_[ReplicaId{r}].joined) continue;
    replicas_.drain(ReplicaId{r});
    say_to(ReplicaId{r}, Shutdown{.cluster_stops = true});
  }
}

// ---- replicas ----

void SchedulerCore::on(const FromReplica& event) {
  std::visit([&](const auto& report) { on(event.envelope, report); }, event.report);
}

void SchedulerCore::on(const Envelope& from, const Hello& hello) {
  const ReplicaId id = from.replica;
  if (replicas_.knows(id) && replicas_[id].joined) leave(id, true);
  replicas_.join(id, hello.info);
  look_who_comes();
  say_to(id, Welcome{});
  if (stopping_) {
    say_to(id, Shutdown{.cluster_stops = true});
    replicas_.drain(id);
  }
}

void SchedulerCore::on(const ReplicaLost& event) {
  if (replicas_.is_current(event.replica, event.epoch)) leave(event.replica, true);
}

void SchedulerCore::on(const Envelope& from, const Drained&) {
  // One that leaves though nobody asked is like one that ends by itself: started again.
  if (replicas_.is_current(from.replica, from.epoch))
    leave(from.replica, !replicas_[from.replica].draining);
}

void SchedulerCore::on(const DrainReplica& event) {
  const ReplicaId id = event.replica;
  if (!replicas_.knows(id) || !replicas_[id].usable()) return;
  if (event.spare_last && replicas_.is_last(id)) return;
  replicas_.drain(id);
  look_who_comes();
  say_to(id, Drain{});
  // What it has not begun is taken back; should it have begun after all, its reports carry an old
  // attempt.
  while (!replicas_[id].ahead.empty()) {
    const uint32_t slot = replicas_[id].ahead.back().slot;
    cancel_on_replica(slot);
    unbind(slot);
    requeue(slot, false);
  }
}

void SchedulerCore::on(const Envelope& from, const StepReport& report) {
  if (!replicas_.is_current(from.replica, from.epoch)) {
    counters_.stale_entries += report.progress.size();
    return;
  }
  replicas_.take(from.replica, report);
  for (uint32_t i = 0; i < report.progress.size(); ++i)
    on_progress(from.replica, report.progress[i], i);
  const auto take_all = [&](const auto& messages) {
    uint64_t current = 0;
    for (const auto& message : messages) {
      const uint32_t slot = requests_.find(from.replica, message.request, message.attempt);
      if (slot == RequestBook::kNone) continue;
      requests_.take(slot, message);
      ++current;
    }
    return current;
  };
  take_all(report.prefills);
  counters_.preemptions += take_all(report.preempted);
  for (const LawProbed& probed : report.laws) on_probed(from.replica, probed);
}

void SchedulerCore::on_progress(ReplicaId from, const SequenceProgress& progress, uint32_t entry) {
  using Verdict = RequestBook::Verdict;
  const uint32_t slot = requests_.find(from, progress.request, progress.attempt);
  const Verdict verdict =
      slot == RequestBook::kNone ? Verdict::kStale : requests_.judge(slot, progress);
  if (verdict == Verdict::kStale) {
    ++counters_.stale_entries;
    return;
  }
  if (verdict == Verdict::kGap) {
    ++counters_.gap_failures;
    abort(slot, FinishReason::kFailed,
          Error{ErrorCode::kProtocol, "replica " + std::to_string(from.value) +
                                          " reported tokens that do not join those seen"});
    return;
  }
  LiveRequest& request = requests_[slot];
  if (request.ahead) {  // it runs, so it has its slots
    replicas_.start(from, slot, request.open_samples);
    request.ahead = false;
  }
  const uint32_t skip = requests_.take(slot, progress);
  counters_.tokens += progress.num_tokens - skip;
  say(Emit{entry, skip, slot});
  if (progress.finish == FinishReason::kNone) return;
  replicas_.sample_ended(from);
  if (request.open_samples == 0) {
    if (request.ended_before > 0) cancel_on_replica(slot);
    note_completion();
    finish(slot, FinishReason::kNone, Error{ErrorCode::kOk, {}});
  }
  promote_ahead(from);
}

void SchedulerCore::leave(ReplicaId id, bool lost) {
  replicas_.leave(id, lost);
  look_who_comes();
  for (uint32_t slot = 0; slot < requests_.slots(); ++slot) {
    if (!requests_[slot].bound() || requests_[slot].replica != id) continue;
    unbind(slot);
    requeue(slot, lost);
  }
}

void SchedulerCore::look_who_comes() {
  nobody_comes_ = !stopping_ && replicas_.nobody_comes(options_.expected_replicas);
}

void SchedulerCore::end_waiting() {
  for (uint32_t slot = 0; waiting() > 0 && slot < requests_.slots(); ++slot)
    if (requests_[slot].waiting())
      finish(slot, FinishReason::kFailed, Error{ErrorCode::kUnavailable, kNobodyComes});
}

// ---- laws ----

void SchedulerCore::on(const PredictorHello& event) {
  counters_.rekeyed_all += waiting_.take_population(event.population, requests_);
}

void SchedulerCore::on(const Predicted& event) {
  if (says_nothing(event.law)) return;
  const uint32_t slot = requests_.find(event.request);
  const bool live = slot != RequestBook::kNone;
  ++(live && !requests_[slot].bound() ? counters_.predicted : counters_.predicted_late);
  if (live && requests_[slot].law_source != LawSource::kProbe)
    learn(slot, LawSource::kPredictor, event.law, 0);
}

void SchedulerCore::on_probed(ReplicaId from, const LawProbed& event) {
  if (says_nothing(event.law)) return;
  const uint32_t slot = requests_.find(from, event.request, event.attempt);
  if (slot == RequestBook::kNone || event.sample >= requests_[slot].num_samples) return;
  // Of several samples one's remaining length says little about the longest.
  if (event.generated > 0 && requests_[slot].num_samples > 1) return;
  ++counters_.probed;
  learn(slot, LawSource::kProbe, event.law, event.generated);
}

void SchedulerCore::learn(uint32_t slot, LawSource source, const LengthLaw& law,
                          uint32_t generated) {
  LiveRequest& request = requests_[slot];
  request.law_source = source;
  request.law.keep(law);
  request.law_generated = generated;
  if (request.waiting()) waiting_.rekey(slot, request);
}

// ---- waiting and binding ----

void SchedulerCore::dispatch_waiting() {
  if (stopping_) return;
  for (uint32_t slot; (slot = waiting_.next()) != WaitingQueue::kNone;) {
    const std::optional<ReplicaId> replica = choose_replica(replicas_, requests_[slot]);
    if (!replica) return;  // classes are strict: nobody overtakes
    waiting_.erase(slot, requests_[slot]);
    dispatch(slot, *replica);
  }
}

void SchedulerCore::dispatch(uint32_t slot, ReplicaId replica) {
  requests_.bind(slot, replica);
  LiveRequest& request = requests_[slot];
  request.ahead = replicas_.bind(replica, slot, request.open_samples);
  ++counters_.dispatches;
  say_to(replica, Dispatch{request.id, request.attempt, request.num_samples, request.prompt_tokens,
                           request.max_tokens});
}

void SchedulerCore::promote_ahead(ReplicaId replica) {
  while (const std::optional<uint32_t> slot = replicas_.promote(replica))
    requests_[*slot].ahead = false;
}

/// Takes a bound request off its replica's books.
void SchedulerCore::unbind(uint32_t slot) {
  const LiveRequest& request = requests_[slot];
  replicas_.unbind(request.replica, slot, request.open_samples, request.ahead);
  requests_.unbind(slot);
  promote_ahead(request.replica);
}

void SchedulerCore::requeue(uint32_t slot, bool lost) {
  LiveRequest& request = requests_[slot];
  waiting_.push(slot, request);
  ++counters_.requeues;
  if (lost && ++request.losses >= options_.max_losses)
    finish(slot, FinishReason::kFailed,
           Error{ErrorCode::kReplicaLost, std::to_string(request.losses) +
                                              " replicas were lost while they ran this request"});
}

void SchedulerCore::cancel_on_replica(uint32_t slot) {
  const LiveRequest& request = requests_[slot];
  say_to(request.replica, CancelRequest{request.id, request.attempt});
}

// ---- the end of a request ----

/// Ends it from outside, on its replica too.
void SchedulerCore::abort(uint32_t slot, FinishReason reason, Error error) {
  if (requests_[slot].bound()) cancel_on_replica(slot);
  finish(slot, reason, std::move(error));
}

void SchedulerCore::finish(uint32_t slot, FinishReason reason, Error error) {
  const LiveRequest& request = requests_[slot];
  const RequestId id = request.id;
  if (request.waiting())
    waiting_.erase(slot, request);
  else
    unbind(slot);
  if (deadlines_.contains(slot)) deadlines_.erase(slot);
  requests_.close(slot);
  switch (reason) {
    case FinishReason::kCancelled:
      ++counters_.cancelled;
      break;
    case FinishReason::kFailed:
      ++counters_.failed;
      break;
    default:
      ++counters_.finished;
  }
  say(Finish{id, slot, reason, std::move(error)});
}

void SchedulerCore::note_completion() {
  // Only while others wait, all the time from one to the next, do completions say how fast the
  // cluster can be.
  if (completion_seen_ && waiting() > 0) {
    const Duration interval = now_ - last_completion_;
    completion_interval_ =
        completion_interval_ == Duration{} ? interval : (completion_interval_ * 7 + interval) / 8;
  }
  completion_seen_ = true;
  last_completion_ = now_;
}

/// About the time in which a quarter of the queue is worked off.
Duration SchedulerCore::retry_after() const {
  if (completion_interval_ == Duration{})
    return std::clamp<Duration>(seconds(1), options_.retry_after_min, options_.retry_after_max);
  const auto steps = std::max<int64_t>(1, waiting() / 4);
  const Duration longest = options_.retry_after_max / steps;
  return std::max(options_.retry_after_min, std::min(completion_interval_, longest) * steps);
}

void SchedulerCore::say_to(ReplicaId replica, WorkerCommand command) {
  say(ToReplica{replicas_.address(replica), std::move(command)});
}

// ---- what people and tests see ----

SchedulerCore::ReplicaView SchedulerCore::replica(ReplicaId id) const {
  ReplicaView view;
  if (!replicas_.knows(id)) return view;
  const Replica& r = replicas_[id];
  view.joined = r.joined;
  view.draining = r.draining;
  view.epoch = r.epoch;
  view.drained = r.drained;
  view.slots = r.slots;
  view.slots_in_use = r.in_use;
  view.requests = r.requests;
  view.ahead = static_cast<uint32_t>(r.ahead.size());
  view.commands_in_flight = r.commands - r.applied;
  view.free_blocks = r.free_blocks;
  view.num_blocks = r.num_blocks;
  view.running_sequences = r.running;
  return view;
}

SchedulerCore::Standing SchedulerCore::standing(RequestId id) const {
  Standing out;
  const uint32_t slot = requests_.find(id);
  if (slot == RequestBook::kNone) return out;
  const LiveRequest& request = requests_[slot];
  out.live = true;
  out.slot = slot;
  out.waiting = request.waiting();
  out.probed = request.law_source == LawSource::kProbe;
  out.law = request.law.law();
  out.moments = out.waiting ? request.moments : waiting_.work_left(request);
  out.key = waiting_.key(request, out.moments);
  return out;
}

uint32_t SchedulerCore::place(RequestId id) const {
  const uint32_t slot = requests_.find(id);
  const bool waits = slot != RequestBook::kNone && requests_[slot].waiting();
  return waits ? waiting_.place(slot, requests_) : 0;
}

void SchedulerCore::check_integrity() const {
  requests_.check_integrity();
  replicas_.check_integrity(requests_);
  waiting_.check_integrity(requests_);
  deadlines_.check_integrity();
  size_t with_deadline = 0;
  for (uint32_t slot = 0; slot < requests_.slots(); ++slot) {
    if (!requests_[slot].live() || !deadlines_.contains(slot)) continue;
    ++with_deadline;
    TAILOR_CHECK(deadlines_.at(slot).id == slot, "a deadline belongs to its request");
  }
  TAILOR_CHECK(with_deadline == deadlines_.size(), "every deadline belongs to a live request");
  TAILOR_CHECK(
      counters_.accepted == live() + counters_.finished + counters_.cancelled + counters_.failed,
      "every accepted request is live or has ended once");
  TAILOR_CHECK(!nobody_comes_ || waiting() == 0, "nothing waits where nobody comes");
  if (!stopping_ && waiting() > 0) {
    // Work conserving: the head of the strict order waits only because nobody has room for it.
    TAILOR_CHECK(!choose_replica(replicas_, requests_[waiting_.next()]),
                 "no request waits while a replica has room");
  }
}

}  // namespace tailor::coordinator
