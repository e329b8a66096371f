// WaitingQueue: the requests that wait, in the order in which they run: classes are strict, inside
// a class the policy's key orders (ranking.h), then arrival, then id. One heap per class whose
// entries name the request's slot.
//
// Laws. Where the policy needs one, the key comes from the law of the request's length: the one
// that the request carries, else the population's. A new law re-keys its request at once; when
// beta's level or the population moves, all keys are made anew in one O(n) pass. Nothing here ever
// ages (tie/score.h).
//
// Every function that reads or changes a request is given it: the book is the core's. Pure; owned
// by the core. Cost: push, erase, rekey O(log waiting); O(waiting) where it says so.
#pragma once

#include <array>
#include <cstdint>
#include <optional>

#include "coordinator/ranking.h"
#include "coordinator/request_book.h"
#include "tie/law.h"
#include "tie/priority_queue.h"
#include "tie/score.h"

namespace tailor::coordinator {

/// Advice never reaches a check: what can be no law is none, whatever door it came by.
bool says_nothing(const LengthLaw& law);

class WaitingQueue {
 public:
  static constexpr uint32_t kNone = RequestBook::kNone;

  /// `table` outlives the queue.
  WaitingQueue(const Policy& policy, PolicyTable table);

  const PolicyRow& policy() const { return row_; }
  double beta() const { return beta_.value(); }
  uint32_t size() const;
  /// The slot of the request that is next; kNone: nobody waits.
  uint32_t next() const;

  /// Makes its moments and its key.
  void push(uint32_t slot, LiveRequest& request);
  void erase(uint32_t slot, const LiveRequest& request);
  /// Its law has changed while it waited.
  void rekey(uint32_t slot, LiveRequest& request);
  /// From now on this law stands in; kind none: the default. True: all keys are new. Cost:
  /// O(waiting).
  bool take_population(const LengthLaw& law, RequestBook& requests);
  /// Moves beta's level if it is time. True: all keys are new. Cost: O(1), then O(waiting).
  bool follow_beta(Time now, uint32_t usable_slots, const RequestBook& requests);

  /// Of the work that a request has left, in tokens, at most up to its own limit; of one sample,
  /// given what it has generated. All 0 when the policy needs no law.
  tie::Moments work_left(const LiveRequest& request) const;
  double key(const LiveRequest& request, const tie::Moments& work_left) const;
  /// Its place: 1 = next. Cost: O(requests).
  uint32_t place(uint32_t slot, const RequestBook& requests) const;

  /// Aborts when any invariant is broken. Cost: O(everything).
  void check_integrity(const RequestBook& requests) const;

 private:
  bool rekey_all(const RequestBook& requests);

  const PolicyRow& row_;
  const PolicyParameters parameters_;
  std::optional<tie::LawMath> math_;  // when the policy needs laws
  LengthLaw population_;              // never of kind none then
  tie::BetaLevel beta_;
  std::array<tie::PriorityQueue, kNumPriorityClasses> classes_;
};

}  // namespace tailor::coordinator
