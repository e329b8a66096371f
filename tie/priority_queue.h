// PriorityQueue: an indexed 4-ary heap. The smallest (key, arrival, id) is on top, so equal keys
// come out by arrival and then by id: the order is total and the same on every machine. Keys may
// change while inside (`rekey`), and any entry can leave (`erase`); both by the handle under which
// it was pushed. Handles are the owner's own: small dense numbers (the slots of a table), so that
// whoever gets an entry back has the place of what it stands for, without a look-up.
//
// Scheduling keys are time-invariant (a waiting decay that is the same factor for everybody cancels
// out of the order), so nothing here ever ages: one rekey when a request's own law changes is all
// it takes; `rekey_all` is for the rare moment when the formula itself changes. Frugal: after the
// largest size and the largest handle have been reached once, nothing allocates. Pure; owned by
// whoever holds it. Cost: push, rekey, erase, pop O(log n); top O(1); 4 bytes per handle.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "base/check.h"

namespace tailor::tie {

class PriorityQueue {
 public:
  using Handle = uint32_t;
  static constexpr uint32_t kNone = UINT32_MAX;

  struct Entry {
    double key = 0;       ///< smaller runs first; never NaN
    int64_t arrival = 0;  ///< orders equal keys; any unit
    uint64_t id = 0;      ///< orders equal arrivals
    friend bool operator<(const Entry& a, const Entry& b) {
      if (a.key != b.key) return a.key < b.key;
      if (a.arrival != b.arrival) return a.arrival < b.arrival;
      return a.id < b.id;
    }
  };

  /// `handle` names the entry until it leaves (erase or pop); no two inside have the same.
  void push(Handle handle, const Entry& entry) {
    TAILOR_CHECK(!std::isnan(entry.key), "a scheduling key must be a number");
    TAILOR_CHECK(!contains(handle), "a handle names one entry");
    if (handle >= place_.size()) place_.resize(size_t{handle} + 1, kNone);
    heap_.push_back({entry, handle});
    place_[handle] = static_cast<uint32_t>(heap_.size() - 1);
    sift_up(heap_.size() - 1);
  }
  bool contains(Handle handle) const { return handle < place_.size() && place_[handle] != kNone; }

  void rekey(Handle handle, double key) {
    TAILOR_CHECK(!std::isnan(key), "a scheduling key must be a number");
    const size_t at = place_of(handle);
    heap_[at].entry.key = key;
    if (!sift_up(at)) sift_down(at);
  }

  /// Gives every entry the key `key_of(handle, entry)` and restores the order. Cost: O(n).
  template <class KeyOf>
  void rekey_all(const KeyOf& key_of) {
    for (Node& node : heap_) {
      node.entry.key = key_of(node.handle, std::as_const(node.entry));
      TAILOR_CHECK(!std::isnan(node.entry.key), "a scheduling key must be a number");
    }
    if (heap_.size() < 2) return;
    for (size_t at = (heap_.size() - 2) / kArity + 1; at-- > 0;) sift_down(at);
  }

  void erase(Handle handle) {
    const size_t at = place_of(handle);
    place_[handle] = kNone;
    const Node last = heap_.back();
    heap_.pop_back();
    if (at == heap_.size()) return;
    put(at, last);
    if (!sift_up(at)) sift_down(at);
  }

  bool empty() const { return heap_.empty(); }
  size_t size() const { return heap_.size(); }
  const Entry& top() const {
    TAILOR_CHECK(!heap_.empty(), "top of an empty queue");
    return heap_.front().entry;
  }
  Handle top_handle() const {
    TAILOR_CHECK(!heap_.empty(), "top of an empty queue");
    return heap_.front().handle;
  }
  Entry pop() {
    const Entry entry = top();
    erase(heap_.front().handle);
    return entry;
  }
  const Entry& at(Handle handle) const { return heap_[place_of(handle)].entry; }

  /// Aborts when the heap's order or a handle's place is broken. Cost: O(n).
  void check_integrity() const {
    for (size_t i = 0; i < heap_.size(); ++i) {
      TAILOR_CHECK(place_[heap_[i].handle] == i, "a handle knows its place");
      TAILOR_CHECK(i == 0 || !(heap_[i].entry < heap_[(i - 1) / kArity].entry),
                   "a parent is not after its child");
    }
    const auto used =
        std::count_if(place_.begin(), place_.end(), [](uint32_t p) { return p != kNone; });
    TAILOR_CHECK(static_cast<size_t>(used) == heap_.size(), "every handle is in use or free");
  }

 private:
  static constexpr size_t kArity = 4;
  struct Node {
    Entry entry;
    Handle handle;
  };

  size_t place_of(Handle handle) const {
    TAILOR_CHECK(contains(handle), "a handle of an entry that is inside");
    return place_[handle];
  }
  void put(size_t at, const Node& node) {
    heap_[at] = node;
    place_[node.handle] = static_cast<uint32_t>(at);
  }
  bool sift_up(size_t at) {
    const Node node = heap_[at];
    const size_t start = at;
    while (at > 0) {
      const size_t parent = (at - 1) / kArity;
      if (!(node.entry < heap_[parent].entry)) break;
      put(at, heap_[parent]);
      at = parent;
    }
    if (at == start) return false;
    put(at, node);
    return true;
  }
  void sift_down(size_t at) {
    const Node node = heap_[at];
    for (;;) {
      const size_t first = at * kArity + 1;
      if (first >= heap_.size()) break;
      size_t best = first;
      for (size_t child = first + 1; child < first + kArity && child < heap_.size(); ++child)
        if (heap_[child].entry < heap_[best].entry) best = child;
      if (!(heap_[best].entry < node.entry)) break;
      put(at, heap_[best]);
      at = best;
    }
    put(at, node);
  }

  std::vector<Node> heap_;
  std::vector<uint32_t> place_;  // handle -> index in heap_, kNone when free
};

}  // namespace tailor::tie
