#include "coordinator/replica_book.h"

#include <algorithm>

#include "base/check.h"
#include "coordinator/request_book.h"

namespace tailor::coordinator {

int64_t Replica::free_slots() const {
  int64_t free = static_cast<int64_t>(slots) - in_use;
  for (const Ahead& next : ahead) free -= next.samples;
  return free;
}

bool ReplicaBook::knows(ReplicaId id) const {
  return id.value < replicas_.size() && replicas_[id.value].known;
}

bool ReplicaBook::is_current(ReplicaId id, Epoch epoch) const {
  return knows(id) && replicas_[id.value].joined && replicas_[id.value].epoch == epoch;
}

uint32_t ReplicaBook::joined() const {
  return static_cast<uint32_t>(
      std::count_if(replicas_.begin(), replicas_.end(), [](const Replica& r) { return r.joined; }));
}

uint32_t ReplicaBook::usable_slots() const {
  uint32_t slots = 0;
  for (const Replica& r : replicas_) slots += r.usable() ? r.slots : 0;
  return slots;
}

uint32_t ReplicaBook::leaving() const {
  return static_cast<uint32_t>(std::count_if(
      replicas_.begin(), replicas_.end(), [](const Replica& r) { return r.draining || r.left; }));
}

bool ReplicaBook::nobody_comes(uint32_t expected) const {
  const bool served = std::any_of(replicas_.begin(), replicas_.end(),
                                  [](const Replica& r) { return r.usable() || r.lost(); });
  return !served && leaving() >= expected;
}

bool ReplicaBook::is_last(ReplicaId id) const {
  for (uint32_t other = 0; other < replicas_.size(); ++other)
    if (other != id.value && replicas_[other].usable()) return false;
  return true;
}

void ReplicaBook::join(ReplicaId id, const ReplicaInfo& info) {
  TAILOR_CHECK(id.value < kMaxReplicas && info.slots > 0 && info.slots <= kMaxSlots,
               "the driver admits only sensible replicas");
  if (id.value >= replicas_.size()) replicas_.resize(id.value + 1);
  Replica& r = at(id);
  TAILOR_CHECK(!r.joined && r.requests == 0, "a replica's life ends before the next begins");
  if (!r.known) r.epoch.value = epoch_base_;
  r.known = r.joined = true;
  r.draining = r.left = false;
  ++r.epoch.value;
  r.commands = r.applied = 0;
  r.slots = info.slots;
  r.num_blocks = r.free_blocks = info.num_blocks;
  r.running = 0;
  r.ahead.reserve(ahead_limit_ + 1);
}

void ReplicaBook::leave(ReplicaId id, bool lost) {
  Replica& r = at(id);
  r.joined = r.draining = false;
  r.left = !lost;
  if (!lost) r.drained = r.epoch;
  r.running = 0;
}

Envelope ReplicaBook::address(ReplicaId id) {
  Replica& r = at(id);
  return {id, r.epoch, ++r.commands};
}

void ReplicaBook::take(ReplicaId id, const StepReport& report) {
  Replica& r = at(id);
  r.running = std::min(report.running_sequences, r.slots);
  r.free_blocks = std::min(report.free_blocks, r.num_blocks);
  r.applied = std::min(std::max(report.applied_seq, r.applied), r.commands);
}

bool ReplicaBook::bind(ReplicaId id, uint32_t slot, uint32_t samples) {
  Replica& r = at(id);
  ++r.requests;
  turn_ = (id.value + 1) % static_cast<uint32_t>(replicas_.size());
  const bool starts = r.starts(samples);
  if (starts)
    r.in_use += samples;
  else
    r.ahead.push_back({slot, samples});
  return !starts;
}

void ReplicaBook::start(ReplicaId id, uint32_t slot, uint32_t samples) {
  Replica& r = at(id);
  std::erase_if(r.ahead, [slot](const Replica::Ahead& next) { return next.slot == slot; });
  r.in_use += samples;
}

std::optional<uint32_t> ReplicaBook::promote(ReplicaId id) {
  Replica& r = at(id);
  if (r.ahead.empty() || !r.has_room(r.ahead.front().samples)) return std::nullopt;
  const Replica::Ahead next = r.ahead.front();
  r.ahead.erase(r.ahead.begin());
  r.in_use += next.samples;
  return next.slot;
}

void ReplicaBook::unbind(ReplicaId id, uint32_t slot, uint32_t samples, bool ahead) {
  Replica& r = at(id);
  --r.requests;
  if (ahead)
    std::erase_if(r.ahead, [slot](const Replica::Ahead& next) { return next.slot == slot; });
  else
    r.in_use -= samples;
}

void ReplicaBook::check_integrity(const RequestBook& requests) const {
  std::vector<uint32_t> in_use(replicas_.size()), bound(replicas_.size()), ahead(replicas_.size());
  for (uint32_t slot = 0; slot < requests.slots(); ++slot) {
    const LiveRequest& request = requests[slot];
    if (!request.bound()) continue;
    const uint32_t id = request.replica.value;
    TAILOR_CHECK(id < replicas_.size() && replicas_[id].joined,
                 "a bound request's replica is there");
    ++bound[id];
    if (!request.ahead) {
      in_use[id] += request.open_samples;
      continue;
    }
    ++ahead[id];
    const auto& list = replicas_[id].ahead;
    TAILOR_CHECK(std::count_if(list.begin(), list.end(),
                               [&](const Replica::Ahead& next) {
                                 return next.slot == slot && next.samples == request.open_samples;
                               }) == 1,
                 "ahead is listed once");
  }
  for (size_t id = 0; id < replicas_.size(); ++id) {
    const Replica& r = replicas_[id];
    TAILOR_CHECK(r.in_use == in_use[id] && r.requests == bound[id], "slots in use are counted");
    TAILOR_CHECK(r.ahead.size() == ahead[id] && ahead[id] <= ahead_limit_, "at most so many ahead");
    TAILOR_CHECK(r.applied <= r.commands, "what was applied was said");
  }
}

}  // namespace tailor::coordinator
