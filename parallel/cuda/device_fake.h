// The fake device: the face of parallel/cuda/device.h over host memory, for tests and for machines
// without a GPU. As hard to work with as a real one: every stream is a queue with a thread of its
// own, which starts late and stops now and then, by a seed, so that streams run out of step and a
// missing event shows; what a copy reads or writes is read and written late; fresh memory is full
// of NaNs, and what lies behind its end is poisoned under ASan.
//
// Device::open opens one with options that follow from the name alone.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "base/time.h"
#include "parallel/cuda/device.h"

namespace tailor::parallel::gpu {

struct FakeDeviceOptions {
  uint64_t seed = 1;
  uint64_t memory_bytes = uint64_t{2} << 30;
  /// The longest of the pauses before a piece of work; most have none. 0: never late.
  Duration late_by = microseconds(200);
  /// Pieces of work after which every stream hangs for ever; negative: never.
  int64_t hangs_after = -1;
};

std::unique_ptr<Device> open_fake_device(const FakeDeviceOptions& options);

/// Bytes of device memory and of pinned memory that are held.
struct FakeDeviceUse {
  uint64_t device_bytes = 0, pinned_bytes = 0;
};
FakeDeviceUse fake_device_use(Device& device);

/// The pinned memory of just that size; empty if there is none. For tests that damage it.
std::span<std::byte> pinned_memory(Device& device, size_t bytes);

}  // namespace tailor::parallel::gpu
