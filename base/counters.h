// Counters: named numbers that Status shows from day one. Each is owned by the thread that owns the
// struct it sits in, or is a relaxed atomic; a snapshot is a list of (name, value) in a fixed
// order.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace tailor {

/// A count that any thread may raise and any thread may read.
class Counter {
 public:
  void add(int64_t amount = 1) { value_.fetch_add(amount, std::memory_order_relaxed); }
  void set(int64_t value) { value_.store(value, std::memory_order_relaxed); }
  int64_t value() const { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<int64_t> value_{0};
};

using CounterSnapshot = std::vector<std::pair<std::string, double>>;

}  // namespace tailor
