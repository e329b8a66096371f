// Mailbox<T>: the only way a value crosses threads. Bounded, many producers, one consumer; values
// are moved, never shared. A full mailbox refuses (`push` = false): the producer that reads a
// socket then stops reading it. Full means `capacity` values, or, where values differ in size,
// `capacity_bytes` of them as `weigh` counts (one value more may be let in above it, so that any
// value passes). `push_always` is for what may never be dropped (reports, control, end of input):
// it ignores the bound, and its producers are bounded by other means, which each call site names.
//
// The consumer waits on the mailbox (`pop_wait`), or, where it polls sockets too, on `fd()`.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "base/time.h"

namespace tailor {

/// An eventfd: readable while signalled. Closed on destruction.
class WakeFd {
 public:
  WakeFd();
  ~WakeFd();
  WakeFd(const WakeFd&) = delete;
  WakeFd& operator=(const WakeFd&) = delete;
  int fd() const { return fd_; }
  void signal();
  void clear();

 private:
  int fd_;
};

template <class T>
class Mailbox {
 public:
  /// The bytes that a value holds.
  using Weigh = size_t (*)(const T&);

  explicit Mailbox(size_t capacity, size_t capacity_bytes = SIZE_MAX, Weigh weigh = nullptr)
      : capacity_(capacity), capacity_bytes_(capacity_bytes), weigh_(weigh) {}

  /// False when full or closed; `value` is then untouched. Any thread.
  bool push(T&& value) {
    const size_t bytes = bytes_of(value);
    {
      std::lock_guard lock(mutex_);
      if (closed_ || !room()) return false;
      put(std::move(value), bytes);
    }
    ready_.notify_one();
    return true;
  }

  /// Never refuses, unless closed (then the value is dropped). Any thread.
  void push_always(T&& value) {
    const size_t bytes = bytes_of(value);
    {
      std::lock_guard lock(mutex_);
      if (closed_) return;
      put(std::move(value), bytes);
    }
    ready_.notify_one();
  }

  bool has_room() const {
    std::lock_guard lock(mutex_);
    return room();
  }
  size_t size() const {
    std::lock_guard lock(mutex_);
    return items_.size();
  }
  /// As `weigh` counts; 0 without one.
  size_t bytes() const {
    std::lock_guard lock(mutex_);
    return bytes_;
  }

  /// Everything that has arrived, in order; empty when nothing has. Consumer only.
  std::deque<T> drain() {
    std::lock_guard lock(mutex_);
    return take_all();
  }

  /// Waits until something arrives, the mailbox is closed, or `timeout` has passed. Consumer only.
  std::deque<T> drain_wait(Duration timeout) {
    std::unique_lock lock(mutex_);
    ready_.wait_for(lock, timeout, [&] { return !items_.empty() || closed_; });
    return take_all();
  }

  /// One item; blocks at most `timeout`. For pools where several threads share the work.
  std::optional<T> pop_wait(Duration timeout) {
    std::unique_lock lock(mutex_);
    ready_.wait_for(lock, timeout, [&] { return !items_.empty() || closed_; });
    if (items_.empty()) return std::nullopt;
    std::optional<T> item(std::move(items_.front()));
    items_.pop_front();
    bytes_ -= bytes_of(*item);
    if (items_.empty()) clear_wake();
    return item;
  }

  /// Refuses from now on and wakes the consumer, which still gets what is inside.
  void close() {
    {
      std::lock_guard lock(mutex_);
      closed_ = true;
      wake_.signal();
    }
    ready_.notify_all();
  }
  bool closed() const {
    std::lock_guard lock(mutex_);
    return closed_;
  }

  /// Readable while something is inside, and for good once closed: for the consumer's poll.
  int fd() const { return wake_.fd(); }

 private:
  size_t bytes_of(const T& value) const { return weigh_ == nullptr ? 0 : weigh_(value); }
  // The mutex is held in these.
  bool room() const { return items_.size() < capacity_ && bytes_ < capacity_bytes_; }
  void put(T&& value, size_t bytes) {
    items_.push_back(std::move(value));
    bytes_ += bytes;
    if (items_.size() == 1) wake_.signal();
  }
  std::deque<T> take_all() {
    clear_wake();
    bytes_ = 0;
    return std::exchange(items_, {});
  }
  /// A close that comes between a consumer's closed() and its drain() must not be forgotten.
  void clear_wake() {
    if (!closed_) wake_.clear();
  }

  const size_t capacity_, capacity_bytes_;
  const Weigh weigh_;
  mutable std::mutex mutex_;
  std::condition_variable ready_;
  std::deque<T> items_;  // guarded by mutex_
  size_t bytes_ = 0;     // guarded by mutex_
  bool closed_ = false;  // guarded by mutex_
  WakeFd wake_;
};

}  // namespace tailor
