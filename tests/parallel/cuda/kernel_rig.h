// Memory and a stream for tests of kernels, on whichever device is linked. All memory is full of
// NaNs first, ends exactly where its values end (under ASan what is behind may not be touched), and
// begins at an odd place where `offset` says so.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <deque>
#include <memory>
#include <vector>

#include "tests/parallel/cuda/test_device.h"

namespace tailor::parallel::gpu {

/// The order in which the fake device's threads run from here on; nothing on a card.
void shuffle_threads(uint64_t seed);

/// One for all tests of a program: the fake device's threads and their fibers are made once.
class KernelRig {
 public:
  static KernelRig& shared() {
    static KernelRig rig;
    rig.clear();
    return rig;
  }
  Stream stream() { return device_->stream(); }

  /// Room for n values, `offset` values behind the beginning of its memory.
  template <class T>
  T* room(size_t n, size_t offset = 0) {
    Memory& memory = held_.emplace_back(device_->allocate((n + offset) * sizeof(T)).value());
    EXPECT_TRUE(device_->fill(stream(), memory.data(), 0xFF, memory.bytes()));
    return memory.as<T>() + offset;
  }
  template <class T>
  T* put(const std::vector<T>& values, size_t offset = 0) {
    T* to = room<T>(values.size(), offset);
    const size_t bytes = values.size() * sizeof(T);
    if (bytes == 0) return to;
    Memory& staged = held_.emplace_back(device_->allocate_pinned(bytes).value());
    std::memcpy(staged.data(), values.data(), bytes);
    EXPECT_TRUE(device_->copy(stream(), to, staged.data(), bytes));
    return to;
  }
  /// Waits for the stream.
  template <class T>
  std::vector<T> get(const T* from, size_t n) {
    std::vector<T> values(n);
    const Memory staged = device_->allocate_pinned(n * sizeof(T) + 1).value();
    EXPECT_TRUE(device_->copy(stream(), staged.data(), from, n * sizeof(T)));
    wait();
    std::memcpy(values.data(), staged.data(), n * sizeof(T));
    return values;
  }
  void wait() {
    const OwnedEvent event = device_->make_event().value();
    EXPECT_TRUE(device_->record(event.get(), stream()));
    EXPECT_TRUE(device_->wait_until(event.get(), seconds(60), "a kernel"));
  }
  /// Gives back what room() and put() gave.
  void clear() {
    wait();
    held_.clear();
  }

 private:
  KernelRig() : device_(open_test_device()) {}

  std::unique_ptr<Device> device_;
  std::deque<Memory> held_;
};

}  // namespace tailor::parallel::gpu
