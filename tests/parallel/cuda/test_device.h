// The device that a test's program is linked with: the fake one (test_device_fake.cc), or the first
// GPU (test_device_cuda.cc; without one the program says so in a sentence, and ctest that it is
// skipped).
// Tests of what the fake device alone can do (hang, count, be damaged) are in files of their own,
// *_fake_test.cc.
#pragma once

#include <cstdint>
#include <memory>

#include "parallel/cuda/device.h"

namespace tailor::parallel::gpu {

/// The fake one is late and out of step by `seed`.
std::unique_ptr<Device> open_test_device(uint64_t seed = 1);

/// Whether work is late on purpose.
bool device_is_late();

/// Checks, on a device that counts, how many bytes of it and of pinned memory are held.
void expect_held(Device& device, uint64_t device_bytes, uint64_t pinned_bytes);

}  // namespace tailor::parallel::gpu
