// Mailbox<T>: the only way a value crosses threads. Bounded, many producers, one consumer; values
// are moved, never shared. A full mailbox refuses (`push` = false): the producer that reads a
// socket then stops reading it. `push_always` is for what may never be dropped (reports, control,
// end of input): it ignores the bound, and its producers are bounded by other means, which each
// call site names.
//
// The consumer waits on the mailbox (`pop_wait`), or, where it polls sockets too, on `fd()`.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstddef>
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
  explicit Mailbox(size_t capacity) : capacity_(capacity) {}

  /// False when full or closed; `value` is then untouched. Any thread.
  bool push(T&& value) {
    {
      std::lock_guard lock(mutex_);
      if (closed_ || items_.size() >= capacity_) return false;
      items_.push_back(std::move(value));
      if (items_.size() == 1) wake_.signal();
    }
    ready_.notify_one();
    return true;
  }

  /// Never refuses, unless closed (then the value is dropped). Any thread.
  void push_always(T&& value) {
    {
      std::lock_guard lock(mutex_);
      if (closed_) return;
      items_.push_back(std::move(value));
      if (items_.size() == 1) wake_.signal();
    }
    ready_.notify_one();
  }

  bool has_room() const {
    std::lock_guard lock(mutex_);
    return items_.size() < capacity_;
  }
  size_t size() const {
    std::lock_guard lock(mutex_);
    return items_.size();
  }

  /// Everything that has arrived, in order; empty when nothing has. Consumer only.
  std::deque<T> drain() {
    std::lock_guard lock(mutex_);
    clear_wake();
    return std::exchange(items_, {});
  }

  /// Waits until something arrives, the mailbox is closed, or `timeout` has passed. Consumer only.
  std::deque<T> drain_wait(Duration timeout) {
    std::unique_lock lock(mutex_);
    ready_.wait_for(lock, timeout, [&] { return !items_.empty() || closed_; });
    clear_wake();
    return std::exchange(items_, {});
  }

  /// One item; blocks at most `timeout`. For pools where several threads share the work.
  std::optional<T> pop_wait(Duration timeout) {
    std::unique_lock lock(mutex_);
    ready_.wait_for(lock, timeout, [&] { return !items_.empty() || closed_; });
    if (items_.empty()) return std::nullopt;
    std::optional<T> item(std::move(items_.front()));
    items_.pop_front();
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
  /// A close that comes between a consumer's closed() and its drain() must not be forgotten.
  void clear_wake() {
    if (!closed_) wake_.clear();
  }

  const size_t capacity_;
  mutable std::mutex mutex_;
  std::condition_variable ready_;
  std::deque<T> items_;  // guarded by mutex_
  bool closed_ = false;  // guarded by mutex_
  WakeFd wake_;
};

}  // namespace tailor
