#include <gtest/gtest.h>

#include "parallel/cuda/device_fake.h"
#include "tests/parallel/cuda/test_device.h"

namespace tailor::parallel::gpu {

std::unique_ptr<Device> open_test_device(uint64_t seed) { return open_fake_device({.seed = seed}); }

bool device_is_late() { return true; }

void expect_held(Device& device, uint64_t device_bytes, uint64_t pinned_bytes) {
  EXPECT_EQ(fake_device_use(device).device_bytes, device_bytes);
  EXPECT_EQ(fake_device_use(device).pinned_bytes, pinned_bytes);
}

}  // namespace tailor::parallel::gpu
