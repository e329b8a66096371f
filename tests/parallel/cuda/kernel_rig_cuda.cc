#include <cstdio>
#include <cstdlib>

#include "tests/parallel/cuda/kernel_rig.h"

namespace tailor::parallel::gpu {
namespace {

/// Without a GPU nothing is tested, in one sentence and with the exit code that ctest calls
/// skipped: nobody shall take it for a success.
class NeedsDevice final : public testing::Environment {
  void SetUp() override {
    const auto opened = Device::open("cuda");
    if (!opened && opened.error().code == ErrorCode::kUnavailable) {
      std::printf("skipped: %s\n", opened.error().message.c_str());
      std::exit(77);
    }
    ASSERT_TRUE(opened) << to_string(opened.error());
  }
};
[[maybe_unused]] const auto* const needs_device =
    testing::AddGlobalTestEnvironment(new NeedsDevice);

}  // namespace

void shuffle_threads(uint64_t) {}

}  // namespace tailor::parallel::gpu
