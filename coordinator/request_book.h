// RequestBook: the live requests of the scheduler core, each at a place of its own: its slot, dense
// from 0, its own from Accept to Finish, then another's (the last that was free is given first).
// Accept, Emit and Finish carry it, so that the driver keeps what it knows of a request at the same
// place. A request is looked up by its id once per message that names it; everything behind that
// goes by slot.
//
// Two axes, not one state. The phase says what becomes of the request:
//
//   waiting ──bind──► prefilling ──PrefillDone or first token──► running
//      ▲                  │                                         │
//      └──────────────────┴──────────────── unbind ─────────────────┘
//
// The residency says, sequence by sequence, where its KV is: on which tier of which replica, and
// of how many tokens. A paused request will have residency without a replica that runs it; today
// KV is on devices only, and only of bound requests.
//
// Exactly once is decided here: an entry of a report counts when replica and attempt are the
// current ones (find) and its tokens join those seen (judge). Pure; owned by the core. Frugal:
// slots, samples and ids are reused. Cost: O(1) each, O(samples) where it says so.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "base/length_law.h"
#include "base/messages.h"
#include "coordinator/core_messages.h"
#include "coordinator/id_table.h"
#include "coordinator/slot_table.h"
#include "tie/law.h"

namespace tailor::coordinator {

enum class Phase : uint8_t {
  kWaiting,     ///< bound to no replica
  kPrefilling,  ///< bound; this attempt has not told a token yet
  kRunning,     ///< bound; tokens come
  kPaused,      ///< gave way, its KV kept: nothing enters it yet (preemption.h)
};

/// Where the KV of one sequence is, as far as reports tell.
struct Residency {
  ReplicaId replica;
  TierId tier = kDeviceTier;
  uint32_t tokens = 0;  ///< of prompt and answer; 0 = it is nowhere

  friend bool operator==(const Residency&, const Residency&) = default;
};

/// One sequence of a request.
struct LiveSample {
  uint32_t tokens = 0;                        ///< seen, over all attempts
  FinishReason finish = FinishReason::kNone;  ///< once it has ended
  Residency residency;
};

/// Whose word the law of a request is.
enum class LawSource : uint8_t { kPopulation, kPredictor, kProbe };

/// A law as it is kept for a request: its bins only where it has some. A slot keeps the room for
/// them when it is reused.
class KeptLaw {
 public:
  void keep(const LengthLaw& law) {
    kind_ = law.kind;
    mu_ = law.mu, sigma_ = law.sigma, nu_ = law.nu, low_ = law.low, high_ = law.high;
    if (kind_ != LengthLaw::Kind::kHistogram) return;
    if (!bins_) bins_ = std::make_unique<std::array<float, LengthLaw::kBins>>();
    *bins_ = law.bins;
  }
  LengthLaw law() const {
    LengthLaw law{kind_, mu_, sigma_, nu_, low_, high_, {}};
    if (kind_ == LengthLaw::Kind::kHistogram) law.bins = *bins_;
    return law;
  }
  LengthLaw::Kind kind() const { return kind_; }

 private:
  LengthLaw::Kind kind_ = LengthLaw::Kind::kNone;
  float mu_ = 0, sigma_ = 0, nu_ = 0, low_ = 0, high_ = 0;
  std::unique_ptr<std::array<float, LengthLaw::kBins>> bins_;
};

struct LiveRequest {
  // What a key is made of stands first and together: when beta moves, all that wait are read.
  tie::Moments moments;  ///< of the work left, when it last began to wait or a law came
  Time arrival;
  uint32_t prompt_tokens = 0, max_tokens = 0;
  uint32_t num_samples = 1;
  uint32_t generated = 0;      ///< by its longest sample
  uint32_t law_generated = 0;  ///< `law` is of the tokens behind so many
  uint32_t hint = 0, truth = 0;
  LawSource law_source = LawSource::kPopulation;
  uint8_t priority = 0;  ///< of PriorityClass, in range
  Phase phase = Phase::kWaiting;
  bool ahead = false;  ///< bound, but beyond its replica's slots

  // Then what an entry of a report is about.
  std::vector<LiveSample> samples;  ///< [num_samples]
  Attempt attempt;                  ///< of the current or last dispatch; 0 before the first
  ReplicaId replica;                ///< when bound
  uint32_t open_samples = 0;        ///< not ended
  /// Samples that had ended when this attempt began: the worker may run them again.
  uint32_t ended_before = 0;
  RequestId id;         ///< 0: the slot is free
  uint32_t losses = 0;  ///< attempts that a lost replica took along
  KeptLaw law;          ///< kind none: the population's

  bool live() const { return id.value != 0; }
  bool waiting() const { return live() && phase == Phase::kWaiting; }
  bool bound() const { return phase == Phase::kPrefilling || phase == Phase::kRunning; }
};

class RequestBook {
 public:
  static constexpr uint32_t kNone = IdTable::kNone;

  /// A request that waits. Cost: O(samples).
  uint32_t open(const Arrived& event);
  /// Its slot is free from now on. It must not be bound.
  void close(uint32_t slot);

  /// Its slot; kNone: it is not live.
  uint32_t find(RequestId id) const { return by_id_.find(id); }
  /// The same, for a replica's word: kNone too when it is not this attempt that runs there.
  uint32_t find(ReplicaId from, RequestId id, Attempt attempt) const {
    const uint32_t slot = by_id_.find(id);
    if (slot == kNone) return kNone;
    const LiveRequest& r = requests_[slot];
    return r.bound() && r.replica == from && r.attempt == attempt ? slot : kNone;
  }

  const LiveRequest& operator[](uint32_t slot) const { return requests_[slot]; }
  LiveRequest& operator[](uint32_t slot) { return requests_[slot]; }
  uint32_t live() const { return static_cast<uint32_t>(by_id_.size()); }
  /// Every slot's number is below: free ones too.
  uint32_t slots() const { return requests_.size(); }

  /// Waiting to prefilling: the next attempt begins on `replica`. Cost: O(samples).
  void bind(uint32_t slot, ReplicaId replica);
  /// Back to waiting: nothing of it is anywhere any more. Cost: O(samples).
  void unbind(uint32_t slot);

  // What reports say of a request that find(from, id, attempt) has found.

  /// What an entry of a report is worth.
  enum class Verdict : uint8_t {
    kCounts,
    kStale,  ///< its sample had ended in an earlier attempt and is run again
    kGap,    ///< its tokens do not join those seen, or are of no sample
  };
  Verdict judge(uint32_t slot, const SequenceProgress& progress) const;
  /// Counts an entry that counts. Returns how many of its first tokens had been seen before.
  uint32_t take(uint32_t slot, const SequenceProgress& progress);
  /// Prefilling to running.
  void take(uint32_t slot, const PrefillDone&) { requests_[slot].phase = Phase::kRunning; }
  /// KV that was given back.
  void take(uint32_t slot, const SequencePreempted& preempted);

  /// Aborts when any invariant is broken. Cost: O(everything).
  void check_integrity() const;

 private:
  SlotTable<LiveRequest> requests_;
  std::vector<uint32_t> free_;
  IdTable by_id_;
};

// Once per token of the cluster: inline.

inline RequestBook::Verdict RequestBook::judge(uint32_t slot,
                                               const SequenceProgress& progress) const {
  const LiveRequest& r = requests_[slot];
  if (progress.sample >= r.num_samples) return Verdict::kGap;
  const LiveSample& sample = r.samples[progress.sample];
  if (progress.first_index > sample.tokens) return Verdict::kGap;
  return sample.finish == FinishReason::kNone ? Verdict::kCounts : Verdict::kStale;
}

inline uint32_t RequestBook::take(uint32_t slot, const SequenceProgress& progress) {
  LiveRequest& r = requests_[slot];
  LiveSample& sample = r.samples[progress.sample];
  const uint32_t skip = std::min(sample.tokens - progress.first_index, progress.num_tokens);
  sample.tokens += progress.num_tokens - skip;
  r.generated = std::max(r.generated, sample.tokens);
  if (progress.num_tokens > 0) {
    r.phase = Phase::kRunning;
    // The token drawn last is computed with the next step.
    sample.residency = {r.replica, kDeviceTier, r.prompt_tokens + sample.tokens - 1};
  }
  if (progress.finish == FinishReason::kNone) return skip;
  sample.finish = progress.finish;
  sample.residency = {};
  --r.open_samples;
  return skip;
}

}  // namespace tailor::coordinator
