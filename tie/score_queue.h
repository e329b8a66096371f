// ScoreQueue: waiting requests ordered by the TIE score under one current beta (score.h). It keeps
// E and CVaR of each, so that the order always equals the formula evaluated anew for everybody, at
// every instant: a prediction re-keys its request, a moved beta level rebuilds the heap once, time
// changes nothing. Equal keys go by arrival, then by id. A static index other than TIE's (the mean,
// a median, H_kappa) goes in as `expected` with `cvar` 0.
//
// Frugal: after the largest size has been reached once, nothing allocates. Pure; owned by whoever
// holds it. Cost: push, predict, erase, pop O(log n); set_beta O(n) when the level moves.
#pragma once

#include <cstdint>
#include <vector>

#include "base/time.h"
#include "tie/priority_queue.h"
#include "tie/score.h"

namespace tailor::tie {

class ScoreQueue {
 public:
  using Handle = PriorityQueue::Handle;
  struct Request {
    double expected = 0;  ///< E[min(X, xmax)], tokens
    double cvar = 0;
    Duration arrival{};  ///< since any moment that all requests of this queue share
    uint64_t id = 0;
  };

  explicit ScoreQueue(double tau_seconds = kTieTauSeconds, double gamma = kDecayPerTau)
      : tau_seconds_(tau_seconds), gamma_(gamma) {}

  void reserve(size_t count) {
    heap_.reserve(count);
    requests_.reserve(count);
  }
  /// The handle stays valid until the request leaves (erase or pop); it is reused afterwards.
  Handle push(const Request& request) {
    const Handle handle =
        heap_.push({key(request), static_cast<int64_t>(request.arrival.count()), request.id});
    if (handle >= requests_.size()) requests_.resize(handle + 1);
    requests_[handle] = request;
    return handle;
  }
  /// The request's law became known, or better known.
  void predict(Handle handle, double expected, double cvar) {
    heap_.at(handle);  // aborts when it has left
    requests_[handle].expected = expected;
    requests_[handle].cvar = cvar;
    heap_.rekey(handle, key(requests_[handle]));
  }
  /// The level that BetaLevel says. Returns whether it moved.
  bool set_beta(double beta) {
    if (beta == beta_) return false;
    beta_ = beta;
    heap_.rekey_all([this](Handle handle, const auto&) { return key(requests_[handle]); });
    return true;
  }
  double beta() const { return beta_; }

  void erase(Handle handle) { heap_.erase(handle); }
  bool empty() const { return heap_.empty(); }
  size_t size() const { return heap_.size(); }
  const Request& top() const { return requests_[heap_.top_handle()]; }
  Handle top_handle() const { return heap_.top_handle(); }
  double top_key() const { return heap_.top().key; }
  Request pop() {
    const Request request = top();
    heap_.pop();
    return request;
  }
  const Request& at(Handle handle) const {
    heap_.at(handle);
    return requests_[handle];
  }
  double key_of(Handle handle) const { return heap_.at(handle).key; }
  /// Aborts when the order or a place is broken. Cost: O(n).
  void check_integrity() const { heap_.check_integrity(); }

 private:
  double key(const Request& request) const {
    return time_invariant_key(score({request.expected, 0, request.cvar}, beta_), request.arrival,
                              tau_seconds_, gamma_);
  }

  const double tau_seconds_, gamma_;
  double beta_ = 0.1;
  PriorityQueue heap_;
  std::vector<Request> requests_;  // by handle
};

}  // namespace tailor::tie
