#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <utility>

#include "tests/parallel/cuda/test_device.h"

namespace tailor::parallel::gpu {
namespace {

/// As CMake's SKIP_RETURN_CODE has it (tests/CMakeLists.txt).
constexpr int kSkipped = 77;

/// Without a GPU nothing is tested, and nothing counts as passed.
class NeedsDevice final : public testing::Environment {
  void SetUp() override {
    const auto opened = Device::open("cuda");
    if (!opened && opened.error().code == ErrorCode::kUnavailable) {
      std::printf("skipped: %s\n", opened.error().message.c_str());
      std::fflush(stdout);
      std::_Exit(kSkipped);
    }
    ASSERT_TRUE(opened) << to_string(opened.error());
  }
};
[[maybe_unused]] const auto* const needs_device =
    testing::AddGlobalTestEnvironment(new NeedsDevice);

}  // namespace

std::unique_ptr<Device> open_test_device(uint64_t) {
  return std::move(Device::open("cuda")).value();
}

bool device_is_late() { return false; }

void expect_held(Device&, uint64_t, uint64_t) {}

}  // namespace tailor::parallel::gpu
