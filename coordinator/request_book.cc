#include "coordinator/request_book.h"

#include <algorithm>

#include "base/check.h"

namespace tailor::coordinator {

uint32_t RequestBook::open(const Arrived& event) {
  uint32_t slot;
  if (free_.empty()) {
    slot = requests_.grow();
    if (free_.capacity() < slots()) free_.reserve(2 * slots());
  } else {
    slot = free_.back();
    free_.pop_back();
  }
  LiveRequest& r = requests_[slot];
  std::vector<LiveSample> samples = std::move(r.samples);  // keeps its capacity
  samples.assign(event.samples, LiveSample{});
  KeptLaw law = std::move(r.law);  // likewise
  law.keep({});
  r = LiveRequest{};
  r.law = std::move(law);
  r.arrival = event.arrival;
  r.prompt_tokens = event.prompt_tokens;
  r.max_tokens = event.max_tokens;
  r.num_samples = r.open_samples = event.samples;
  r.hint = event.hint;
  r.truth = event.truth;
  r.priority = std::min<uint8_t>(static_cast<uint8_t>(event.priority), kNumPriorityClasses - 1);
  r.id = event.id;
  r.samples = std::move(samples);
  by_id_.insert(event.id, slot);
  return slot;
}

void RequestBook::close(uint32_t slot) {
  LiveRequest& r = requests_[slot];
  TAILOR_CHECK(r.live(), "a request finishes once");
  TAILOR_CHECK(!r.bound(), "a request is off its replica before it is forgotten");
  by_id_.erase(r.id);
  r.id = {};
  free_.push_back(slot);
}

void RequestBook::bind(uint32_t slot, ReplicaId replica) {
  LiveRequest& r = requests_[slot];
  TAILOR_CHECK(r.waiting(), "a request is bound once");
  ++r.attempt.value;
  r.phase = Phase::kPrefilling;
  r.replica = replica;
  r.ended_before = r.num_samples - r.open_samples;
}

void RequestBook::unbind(uint32_t slot) {
  LiveRequest& r = requests_[slot];
  TAILOR_CHECK(r.bound(), "what waits is bound to nobody");
  r.phase = Phase::kWaiting;
  r.ahead = false;
  for (LiveSample& sample : r.samples) sample.residency = {};
}

void RequestBook::take(uint32_t slot, const SequencePreempted& preempted) {
  if (preempted.sample >= requests_[slot].num_samples) return;
  Residency& held = requests_[slot].samples[preempted.sample].residency;
  held.tokens -= std::min(held.tokens, preempted.tokens_lost);
  if (held.tokens == 0) held = {};
}

void RequestBook::check_integrity() const {
  size_t live = 0;
  for (uint32_t slot = 0; slot < requests_.size(); ++slot) {
    const LiveRequest& r = requests_[slot];
    if (!r.live()) {
      TAILOR_CHECK(!r.bound(), "nothing runs in a free slot");
      continue;
    }
    ++live;
    TAILOR_CHECK(by_id_.find(r.id) == slot, "a live request is found by its id");
    uint32_t open = 0, longest = 0;
    for (const LiveSample& sample : r.samples) {
      open += sample.finish == FinishReason::kNone;
      longest = std::max(longest, sample.tokens);
      const Residency& held = sample.residency;
      TAILOR_CHECK(held.tokens > 0 || held == Residency{}, "what is nowhere has no place");
      TAILOR_CHECK(
          held.tokens == 0 || (r.bound() && held.replica == r.replica && held.tier == kDeviceTier &&
                               sample.finish == FinishReason::kNone),
          "KV is on the replica that runs the sequence");
    }
    TAILOR_CHECK(r.samples.size() == r.num_samples, "every sample is counted");
    TAILOR_CHECK(open == r.open_samples && open > 0,
                 "a live request has open samples, and they are counted");
    TAILOR_CHECK(longest == r.generated, "the longest sample is known");
    TAILOR_CHECK(r.phase != Phase::kPaused, "nothing pauses a request yet");
    TAILOR_CHECK(r.bound() || !r.ahead, "only what is bound is ahead");
    TAILOR_CHECK(
        (r.law.kind() == LengthLaw::Kind::kNone) == (r.law_source == LawSource::kPopulation),
        "a law is somebody's word");
  }
  TAILOR_CHECK(live == by_id_.size() && live + free_.size() == requests_.size(),
               "every slot is live or free");
}

}  // namespace tailor::coordinator
