#include "coordinator/scheduler_core.h"

#include <algorithm>
#include <string>
#include <utility>

#include "tie/law_of_largest.h"

namespace tailor::coordinator {
namespace {

constexpr uint32_t kNoReplica = UINT32_MAX;
constexpr uint32_t kMaxReplicas = 4096;
constexpr auto kNoHandle = tie::PriorityQueue::kNone;

/// Advice never reaches a check: what can be no law is none, whatever door it came by.
bool says_nothing(const LengthLaw& law) {
  return law.kind == LengthLaw::Kind::kNone || !well_formed(law);
}

int64_t ns(Time time) { return time.time_since_epoch().count(); }

}  // namespace

SchedulerCore::SchedulerCore(const CoreOptions& options, PolicyTable table)
    : options_(options), policy_(row_of(options.policy, table)) {
  take_population(options.population);
}

void SchedulerCore::handle(Time now, const CoreEvent& event, std::vector<CoreCommand>& out) {
  TAILOR_CHECK(now >= now_, "time given to the scheduler core runs forward");
  now_ = now;
  out_ = &out;
  std::visit([this](const auto& e) { on(e); }, event);
  expire_deadlines();
  follow_beta();
  dispatch_waiting();
  out_ = nullptr;
}

Time SchedulerCore::next_deadline() const {
  return deadlines_.empty() ? Time::max() : Time(Duration(deadlines_.top().arrival));
}

// ---- events
// -----------------------------------------------------------------------------------------

void SchedulerCore::on(const Arrived& event) {
  TAILOR_CHECK(event.id > last_id_, "request ids grow with acceptance");
  TAILOR_CHECK(event.samples >= 1, "a request has at least one sample");
  last_id_ = event.id;
  const auto refuse = [&](ErrorCode code, std::string message, Duration retry) {
    ++counters_.rejected;
    say(Reject{event.id, Error{code, std::move(message)}, retry});
  };
  if (stopping_) return refuse(ErrorCode::kUnavailable, "the coordinator is stopping", Duration{});
  if (waiting() >= options_.queue_limit)
    return refuse(
        ErrorCode::kQueueFull,
        "the queue holds its limit of " + std::to_string(options_.queue_limit) + " requests",
        retry_after());

  uint32_t slot;
  if (free_entries_.empty()) {
    slot = static_cast<uint32_t>(entries_.size());
    entries_.emplace_back();
    free_entries_.reserve(entries_.capacity());
  } else {
    slot = free_entries_.back();
    free_entries_.pop_back();
  }
  Entry& entry = entries_[slot];
  entry.id = event.id;
  entry.priority = std::min<uint8_t>(static_cast<uint8_t>(event.priority), kNumPriorityClasses - 1);
  entry.attempt = {};
  entry.losses = 0;
  entry.ended_before = 0;
  entry.open_samples = event.samples;
  entry.samples.assign(event.samples, Sample{});
  entry.num_samples = event.samples;
  entry.prompt_tokens = event.prompt_tokens;
  entry.max_tokens = event.max_tokens;
  entry.law = {};
  entry.law_generated = 0;
  entry.law_probed = false;
  entry.arrival = event.arrival;
  entry.deadline_handle = kNoHandle;
  if (event.deadline < Time::max() - event.arrival)
    entry.deadline_handle = deadlines_.push({0.0, ns(event.arrival + event.deadline), slot});
  by_id_.insert(event.id, slot);
  enqueue(slot);
  ++counters_.accepted;
  say(Accept{event.id, slot});
}

void SchedulerCore::on(const Abandoned& event) {
  const uint32_t slot = by_id_.find(event.id);
  if (slot == IdTable::kNone) return;
  if (entries_[slot].state == State::kBound) cancel_on_replica(entries_[slot]);
  finish(slot, event.reason, Error{event.code, {}});
}

void SchedulerCore::on(const FromReplica& event) {
  std::visit([&](const auto& report) { on(event.envelope, report); }, event.report);
}

void SchedulerCore::on(const Envelope& from, const Hello& hello) {
  const uint32_t r = from.replica.value;
  TAILOR_CHECK(r < kMaxReplicas && hello.info.slots > 0,
               "the driver admits only sensible replicas");
  if (r >= replicas_.size()) replicas_.resize(r + 1);
  Replica& replica = replicas_[r];
  if (replica.joined) leave(r, true);
  if (!replica.known) replica.epoch.value = options_.epoch_base;
  replica.known = replica.joined = true;
  replica.draining = false;
  ++replica.epoch.value;
  replica.commands = replica.applied = 0;
  replica.slots = hello.info.slots;
  replica.num_blocks = replica.free_blocks = hello.info.num_blocks;
  replica.running = 0;
  replica.ahead.reserve(options_.ahead_requests + 1);
  say_to(r, Welcome{});
  if (stopping_) {
    say_to(r, Shutdown{.cluster_stops = true});
    replica.draining = true;
  }
}

void SchedulerCore::on(const ReplicaLost& event) {
  if (current(event.replica, event.epoch)) leave(event.replica.value, true);
}

void SchedulerCore::on(const Envelope& from, const Drained&) {
  if (current(from.replica, from.epoch)) leave(from.replica.value, false);
}

void SchedulerCore::on(const DrainReplica& event) {
  if (event.replica.value >= replicas_.size()) return;
  Replica& replica = replicas_[event.replica.value];
  if (!replica.usable()) return;
  replica.draining = true;
  say_to(event.replica.value, Drain{});
  // What it has not begun is taken back; should it have begun after all, its reports carry an old
  // attempt.
  while (!replica.ahead.empty()) {
    const uint32_t slot = replica.ahead.back();
    cancel_on_replica(entries_[slot]);
    unbind(slot);
    requeue(slot, false);
  }
}

void SchedulerCore::on(const Stop&) {
  stopping_ = true;
  for (uint32_t slot = 0; slot < entries_.size(); ++slot)
    if (entries_[slot].state != State::kFree)
      finish(slot, FinishReason::kFailed,
             Error{ErrorCode::kShutdown, "the coordinator is stopping"});
  for (uint32_t r = 0; r < replicas_.size(); ++r)
    if (replicas_[r].joined) {
      replicas_[r].draining = true;
      say_to(r, Shutdown{.cluster_stops = true});
    }
}

void SchedulerCore::on(const Envelope& from, const StepReport& report) {
  Replica* replica = current(from.replica, from.epoch);
  if (!replica) {
    counters_.stale_entries += report.progress.size();
    return;
  }
  replica->running = report.running_sequences;
  replica->free_blocks = std::min(report.free_blocks, replica->num_blocks);
  replica->applied = std::min(std::max(report.applied_seq, replica->applied), replica->commands);
  counters_.preemptions += report.preempted.size();
  for (uint32_t i = 0; i < report.progress.size(); ++i)
    on_progress(*replica, from.replica, report, i);
  for (const LawProbed& probed : report.laws) on_probed(from.replica, probed);
}

void SchedulerCore::on_progress(Replica& replica, ReplicaId id, const StepReport& report,
                                uint32_t index) {
  const SequenceProgress& progress = report.progress[index];
  const uint32_t slot = by_id_.find(progress.request);
  if (slot == IdTable::kNone) {
    ++counters_.stale_entries;
    return;
  }
  Entry& entry = entries_[slot];
  if (entry.state != State::kBound || entry.replica != id || entry.attempt != progress.attempt) {
    ++counters_.stale_entries;
    return;
  }
  if (progress.sample >= entry.samples.size() ||
      progress.first_index > entry.samples[progress.sample].tokens) {
    ++counters_.gap_failures;
    cancel_on_replica(entry);
    finish(slot, FinishReason::kFailed,
           Error{ErrorCode::kProtocol, "replica " + std::to_string(id.value) +
                                           " reported tokens that do not join those seen"});
    return;
  }
  Sample& sample = entry.samples[progress.sample];
  if (sample.finish != FinishReason::kNone) {  // had ended in an earlier attempt and is run again
    ++counters_.stale_entries;
    return;
  }
  if (entry.ahead) {  // it runs, so it has its slots
    std::erase(replica.ahead, slot);
    place(replica, slot);
  }
  const uint32_t skip = std::min(sample.tokens - progress.first_index, progress.num_tokens);
  sample.tokens += progress.num_tokens - skip;
  counters_.tokens += progress.num_tokens - skip;
  say(Emit{index, skip, slot});
  if (progress.finish == FinishReason::kNone) return;

  sample.finish = progress.finish;
  --entry.open_samples;
  --replica.in_use;
  if (entry.open_samples == 0) {
    if (entry.ended_before > 0) cancel_on_replica(entry);
    note_completion();
    finish(slot, FinishReason::kNone, Error{ErrorCode::kOk, {}});
  }
  promote_ahead(replica);
}

// ---- laws
// -----------------------------------------------------------------------------------------

void SchedulerCore::on(const Predicted& event) {
  if (says_nothing(event.law)) return;
  const uint32_t slot = by_id_.find(event.request);
  const bool in_time = slot != IdTable::kNone && entries_[slot].state != State::kBound;
  ++(in_time ? counters_.predicted : counters_.predicted_late);
  if (slot == IdTable::kNone || entries_[slot].law_probed) return;
  learn(slot, event.law, 0);
}

void SchedulerCore::on_probed(ReplicaId replica, const LawProbed& event) {
  if (says_nothing(event.law)) return;
  const uint32_t slot = by_id_.find(event.request);
  if (slot == IdTable::kNone) return;
  Entry& entry = entries_[slot];
  if (entry.state != State::kBound || entry.replica != replica || entry.attempt != event.attempt ||
      event.sample >= entry.num_samples)
    return;
  // Of several samples one's remaining length says little about the longest.
  if (event.generated > 0 && entry.num_samples > 1) return;
  ++counters_.probed;
  entry.law_probed = true;
  learn(slot, event.law, event.generated);
}

void SchedulerCore::take_population(const LengthLaw& said) {
  if (!policy_.needs.law) return;
  const LengthLaw law = says_nothing(said) ? tie::default_population() : said;
  if (!math_) {
    math_.emplace(law.kind == LengthLaw::Kind::kLogT ? static_cast<double>(law.nu) : 3.5);
  } else if (law == population_) {
    return;  // a predictor that came back
  } else if (law.kind == LengthLaw::Kind::kLogT && static_cast<double>(law.nu) != math_->nu()) {
    math_.emplace(static_cast<double>(law.nu));
  }
  population_ = law;
  for (Entry& entry : entries_)
    if (entry.state == State::kWaiting) entry.moments = work_left(entry);
  rekey_all();
}

void SchedulerCore::learn(uint32_t slot, const LengthLaw& law, uint32_t generated) {
  Entry& entry = entries_[slot];
  entry.law = law;
  entry.law_generated = generated;
  if (entry.state != State::kWaiting || !policy_.needs.law) return;
  entry.moments = work_left(entry);
  waiting_[entry.priority].rekey(entry.queue_handle, key_of(entry, entry.moments));
}

/// In tokens, at most up to the request's own limit; of one sample, given what it has generated.
tie::Moments SchedulerCore::work_left(const Entry& entry) const {
  if (!math_) return {};
  const LengthLaw& law = entry.law.kind == LengthLaw::Kind::kNone ? population_ : entry.law;
  if (entry.num_samples > 1)
    return tie::moments_of_largest(*math_, law, entry.num_samples, entry.max_tokens);
  const uint32_t known = std::min(entry.law_generated, entry.max_tokens);
  const uint32_t since = std::max(entry.samples[0].tokens, known) - known;
  return math_->moments(law, entry.max_tokens - known, since);
}

double SchedulerCore::key_of(const Entry& entry, const tie::Moments& work_left) const {
  WorkView work;
  if (math_) {
    work.moments = work_left;
    work.law = entry.law.kind == LengthLaw::Kind::kNone ? &population_ : &entry.law;
    work.law_from = entry.law_generated;
    work.math = &*math_;
  }
  work.beta = beta_.value();
  work.prompt_tokens = entry.prompt_tokens;
  work.max_tokens = entry.max_tokens;
  work.samples = entry.num_samples;
  for (const Sample& sample : entry.samples)
    work.generated = std::max(work.generated, sample.tokens);
  work.arrival = entry.arrival;
  work.priority = static_cast<PriorityClass>(entry.priority);
  return policy_.waiting_key(work, options_.policy.parameters);
}

void SchedulerCore::follow_beta() {
  if (!policy_.needs.beta) return;
  const double before = beta_.value();
  if (beta_.update(now_, waiting(), usable_slots()) != before) rekey_all();
}

void SchedulerCore::rekey_all() {
  if (waiting() == 0) return;
  ++counters_.rekeyed_all;
  for (auto& queue : waiting_)
    queue.rekey_all([this](tie::PriorityQueue::Handle, const tie::PriorityQueue::Entry& node) {
      const Entry& entry = entries_[by_id_.find(RequestId{node.id})];
      return key_of(entry, entry.moments);
    });
}

SchedulerCore::Standing SchedulerCore::standing(RequestId id) const {
  Standing out;
  const uint32_t slot = by_id_.find(id);
  if (slot == IdTable::kNone) return out;
  const Entry& entry = entries_[slot];
  out.live = true;
  out.law = entry.law;
  out.probed = entry.law_probed;
  out.waiting = entry.state == State::kWaiting;
  out.moments = out.waiting ? entry.moments : work_left(entry);
  out.key = key_of(entry, out.moments);
  return out;
}

uint32_t SchedulerCore::place(RequestId id) const {
  const uint32_t slot = by_id_.find(id);
  if (slot == IdTable::kNone || entries_[slot].state != State::kWaiting) return 0;
  const Entry& entry = entries_[slot];
  const auto& own = waiting_[entry.priority].at(entry.queue_handle);
  uint32_t place = 1;
  for (const Entry& other : entries_)
    if (other.state == State::kWaiting && (other.priority < entry.priority ||
                                           (other.priority == entry.priority &&
                                            waiting_[other.priority].at(other.queue_handle) < own)))
      ++place;
  return place;
}

void SchedulerCore::expire_deadlines() {
  while (!deadlines_.empty() && deadlines_.top().arrival <= ns(now_)) {
    const auto slot = static_cast<uint32_t>(deadlines_.top().id);
    if (entries_[slot].state == State::kBound) cancel_on_replica(entries_[slot]);
    finish(slot, FinishReason::kFailed,
           Error{ErrorCode::kDeadlineExceeded,
                 "the deadline passed after " +
                     std::to_string(to_us(now_ - entries_[slot].arrival) / 1000) + " ms"});
  }
}

// ---- waiting and binding
// -----------------------------------------------------------------------------------

void SchedulerCore::enqueue(uint32_t slot) {
  Entry& entry = entries_[slot];
  entry.state = State::kWaiting;
  entry.moments = work_left(entry);
  entry.queue_handle = waiting_[entry.priority].push(
      {key_of(entry, entry.moments), ns(entry.arrival), entry.id.value});
}

void SchedulerCore::dispatch_waiting() {
  if (stopping_) return;
  for (auto& queue : waiting_) {
    while (!queue.empty()) {
      const uint32_t slot = by_id_.find(RequestId{queue.top().id});
      const uint32_t replica = choose_replica(entries_[slot].num_samples);
      if (replica == kNoReplica) return;  // classes are strict: nobody overtakes
      queue.pop();
      entries_[slot].queue_handle = kNoHandle;
      dispatch(slot, replica);
    }
  }
}

uint32_t SchedulerCore::choose_replica(uint32_t samples) const {
  uint32_t best = kNoReplica;
  int64_t best_free = 0;
  const auto count = static_cast<uint32_t>(replicas_.size());
  for (uint32_t i = 0; i < count; ++i) {
    const uint32_t r = (turn_ + i) % count;
    const Replica& replica = replicas_[r];
    if (!replica.usable()) continue;
    const bool starts_now = replica.ahead.empty() && replica.has_room(samples);
    if (!starts_now && replica.ahead.size() >= options_.ahead_requests) continue;
    int64_t free = static_cast<int64_t>(replica.slots) - replica.in_use;
    for (uint32_t slot : replica.ahead) free -= entries_[slot].open_samples;
    if (best == kNoReplica || free > best_free ||
        (free == best_free && replica.kv_use() < replicas_[best].kv_use())) {
      best = r;
      best_free = free;
    }
  }
  return best;
}

void SchedulerCore::dispatch(uint32_t slot, uint32_t r) {
  Entry& entry = entries_[slot];
  Replica& replica = replicas_[r];
  ++entry.attempt.value;
  entry.state = State::kBound;
  entry.replica = ReplicaId{r};
  entry.ended_before = entry.num_samples - entry.open_samples;
  ++replica.requests;
  if (replica.ahead.empty() && replica.has_room(entry.open_samples)) {
    place(replica, slot);
  } else {
    entry.ahead = true;
    replica.ahead.push_back(slot);
  }
  turn_ = (r + 1) % static_cast<uint32_t>(replicas_.size());
  ++counters_.dispatches;
  say_to(r, Dispatch{entry.id, entry.attempt, entry.num_samples, entry.prompt_tokens,
                     entry.max_tokens});
}

void SchedulerCore::place(Replica& replica, uint32_t slot) {
  entries_[slot].ahead = false;
  replica.in_use += entries_[slot].open_samples;
}

void SchedulerCore::promote_ahead(Replica& replica) {
  while (!replica.ahead.empty()) {
    const uint32_t slot = replica.ahead.front();
    if (!replica.has_room(entries_[slot].open_samples)) return;
    replica.ahead.erase(replica.ahead.begin());
    place(replica, slot);
  }
}

/// Takes a bound entry off its replica's books.
void SchedulerCore::unbind(uint32_t slot) {
  Entry& entry = entries_[slot];
  Replica& replica = replicas_[entry.replica.value];
  --replica.requests;
  if (entry.ahead) {
    std::erase(replica.ahead, slot);
    entry.ahead = false;
  } else {
    replica.in_use -= entry.open_samples;
  }
  promote_ahead(replica);
}

void SchedulerCore::leave(uint32_t r, bool lost) {
  Replica& replica = replicas_[r];
  replica.joined = false;
  replica.draining = false;
  replica.running = 0;
  for (uint32_t slot = 0; slot < entries_.size(); ++slot) {
    if (entries_[slot].state != State::kBound || entries_[slot].replica.value != r) continue;
    unbind(slot);
    requeue(slot, lost);
  }
}

void SchedulerCore::requeue(uint32_t slot, bool lost) {
  Entry& entry = entries_[slot];
  enqueue(slot);
  ++counters_.requeues;
  if (lost && ++entry.losses >= options_.max_losses)
    finish(slot, FinishReason::kFailed,
           Error{ErrorCode::kReplicaLost,
                 std::to_string(entry.losses) + " replicas were lost while they ran this request"});
}

void SchedulerCore::cancel_on_replica(const Entry& entry) {
  say_to(entry.replica.value, CancelRequest{entry.id, entry.attempt});
}

// ---- the end of a request
// ----------------------------------------------------------------------------------

void SchedulerCore::finish(uint32_t slot, FinishReason reason, Error error) {
  Entry& entry = entries_[slot];
  switch (entry.state) {
    case State::kWaiting:
      waiting_[entry.priority].erase(entry.queue_handle);
      break;
    case State::kBound:
      unbind(slot);
      break;
    case State::kFree:
      TAILOR_CHECK(false, "a request finishes once");
  }
  if (entry.deadline_handle != kNoHandle) deadlines_.erase(entry.deadline_handle);
  entry.queue_handle = entry.deadline_handle = kNoHandle;
  entry.state = State::kFree;
  by_id_.erase(entry.id);
  free_entries_.push_back(slot);
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
  say(Finish{entry.id, slot, reason, std::move(error)});
}

// ---- numbers
// -----------------------------------------------------------------------------------------

void SchedulerCore::note_completion() {
  // Only while others wait does the time between completions say how fast the cluster can be.
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

uint32_t SchedulerCore::waiting() const {
  size_t count = 0;
  for (const auto& queue : waiting_) count += queue.size();
  return static_cast<uint32_t>(count);
}

uint32_t SchedulerCore::usable_slots() const {
  uint32_t slots = 0;
  for (const Replica& replica : replicas_) slots += replica.usable() ? replica.slots : 0;
  return slots;
}

uint32_t SchedulerCore::joined_replicas() const {
  return static_cast<uint32_t>(
      std::count_if(replicas_.begin(), replicas_.end(), [](const Replica& r) { return r.joined; }));
}

void SchedulerCore::say_to(uint32_t r, WorkerCommand command) {
  Replica& replica = replicas_[r];
  say(ToReplica{{ReplicaId{r}, replica.epoch, ++replica.commands}, std::move(command)});
}

SchedulerCore::Replica* SchedulerCore::current(ReplicaId id, Epoch epoch) {
  if (id.value >= replicas_.size()) return nullptr;
  Replica& replica = replicas_[id.value];
  return replica.joined && replica.epoch == epoch ? &replica : nullptr;
}

SchedulerCore::ReplicaView SchedulerCore::replica(ReplicaId id) const {
  ReplicaView view;
  if (id.value >= replicas_.size()) return view;
  const Replica& r = replicas_[id.value];
  view.joined = r.joined;
  view.draining = r.draining;
  view.epoch = r.epoch;
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

void SchedulerCore::check_integrity() const {
  for (const auto& queue : waiting_) queue.check_integrity();
  deadlines_.check_integrity();
  std::vector<uint32_t> in_use(replicas_.size()), requests(replicas_.size()),
      ahead(replicas_.size());
  size_t live = 0, waiting_entries = 0, with_deadline = 0;
  for (uint32_t slot = 0; slot < entries_.size(); ++slot) {
    const Entry& entry = entries_[slot];
    if (entry.state == State::kFree) continue;
    ++live;
    TAILOR_CHECK(by_id_.find(entry.id) == slot, "a live request is found by its id");
    const auto open =
        std::count_if(entry.samples.begin(), entry.samples.end(),
                      [](const Sample& s) { return s.finish == FinishReason::kNone; });
    TAILOR_CHECK(open == entry.open_samples && open > 0,
                 "a live request has open samples, and they are counted");
    with_deadline += entry.deadline_handle != kNoHandle;
    if (entry.deadline_handle != kNoHandle)
      TAILOR_CHECK(deadlines_.at(entry.deadline_handle).id == slot,
                   "a deadline belongs to its request");
    if (entry.state == State::kWaiting) {
      ++waiting_entries;
      const auto& node = waiting_[entry.priority].at(entry.queue_handle);
      TAILOR_CHECK(node.id == entry.id.value, "a waiting request is in its queue");
      TAILOR_CHECK(node.key == key_of(entry, entry.moments),
                   "a waiting request's key is that of its law and beta");
    } else {
      const uint32_t r = entry.replica.value;
      TAILOR_CHECK(r < replicas_.size() && replicas_[r].joined,
                   "a bound request's replica is there");
      ++requests[r];
      if (entry.ahead) {
        ++ahead[r];
        TAILOR_CHECK(std::count(replicas_[r].ahead.begin(), replicas_[r].ahead.end(), slot) == 1,
                     "ahead is listed once");
      } else {
        in_use[r] += entry.open_samples;
      }
    }
  }
  TAILOR_CHECK(live == by_id_.size() && live + free_entries_.size() == entries_.size(),
               "every entry is live or free");
  TAILOR_CHECK(waiting_entries == waiting(), "the queues hold the waiting requests and no others");
  TAILOR_CHECK(with_deadline == deadlines_.size(), "every deadline belongs to a live request");
  TAILOR_CHECK(
      counters_.accepted == live + counters_.finished + counters_.cancelled + counters_.failed,
      "every accepted request is live or has ended once");
  for (size_t r = 0; r < replicas_.size(); ++r) {
    TAILOR_CHECK(replicas_[r].in_use == in_use[r] && replicas_[r].requests == requests[r],
                 "slots in use are counted");
    TAILOR_CHECK(replicas_[r].ahead.size() == ahead[r] && ahead[r] <= options_.ahead_requests,
                 "at most so many ahead");
    if (!stopping_ && replicas_[r].usable() && waiting_entries > 0) {
      // Work conserving: the head of the strict order waits only because nobody has room for it.
      for (const auto& queue : waiting_) {
        if (queue.empty()) continue;
        const Entry& head = entries_[by_id_.find(RequestId{queue.top().id})];
        TAILOR_CHECK(choose_replica(head.num_samples) == kNoReplica,
                     "no request waits while a replica has room");
        break;
      }
    }
  }
}

}  // namespace tailor::coordinator
