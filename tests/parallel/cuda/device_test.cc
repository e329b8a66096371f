// The promises of parallel/cuda/device.h that hold on every device: order within a stream and by
// events, copies of any size from and to any place, what is refused.
#include "parallel/cuda/device.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "tests/parallel/cuda/test_device.h"

namespace tailor::parallel::gpu {
namespace {

constexpr Duration kSoon = seconds(30);

/// Until all that is in the stream is over.
void finish(Device& device, Stream stream) {
  auto event = device.make_event();
  ASSERT_TRUE(event && device.record(event->get(), stream));
  const auto over = device.wait_until(event->get(), kSoon, "finish");
  ASSERT_TRUE(over) << to_string(over.error());
}

TEST(GpuDevice, StreamsKeepTheirOrderAndThatOfEvents) {
  for (uint64_t seed = 1; seed <= 10; ++seed) {
    const auto device = open_test_device(seed);
    constexpr size_t kBytes = 8 << 20;
    auto other = device->make_stream();
    auto event = device->make_event(), back = device->make_event();
    auto host = device->allocate_pinned(4);
    auto there = device->allocate(kBytes), copied = device->allocate(kBytes);
    ASSERT_TRUE(other && event && back && host && there && copied);
    // Two streams take turns with the same memory, by events alone.
    for (uint8_t turn = 1; turn <= 4; ++turn) {
      ASSERT_TRUE(device->wait(device->stream(), back->get()));
      ASSERT_TRUE(device->fill(device->stream(), there->data(), turn, kBytes));
      ASSERT_TRUE(device->record(event->get(), device->stream()));
      ASSERT_TRUE(device->wait(other->get(), event->get()));
      ASSERT_TRUE(device->copy(other->get(), copied->data(), there->data(), kBytes));
      ASSERT_TRUE(
          device->copy(other->get(), host->data() + turn - 1, copied->data() + kBytes - 1, 1));
      ASSERT_TRUE(device->record(back->get(), other->get()));
    }
    finish(*device, other->get());
    EXPECT_TRUE(*device->passed(event->get()));
    for (uint8_t turn = 1; turn <= 4; ++turn)
      EXPECT_EQ(std::to_integer<int>(host->data()[turn - 1]), turn) << "seed " << seed;
  }
}

TEST(GpuDevice, CopiesAnySizeFromAndToAnyPlace) {
  const auto device = open_test_device();
  for (const size_t bytes : {size_t{1}, size_t{3}, size_t{255}, size_t{4096}, size_t{1} << 20})
    for (const size_t offset : {size_t{0}, size_t{1}, size_t{6}}) {
      auto from = device->allocate_pinned(bytes), to = device->allocate_pinned(bytes);
      auto there = device->allocate(bytes + offset), beside = device->allocate(bytes);
      ASSERT_TRUE(from && to && there && beside);
      for (size_t i = 0; i < bytes; ++i)
        from->as<uint8_t>()[i] = static_cast<uint8_t>(i * 7 + i / 256);
      const Stream stream = device->stream();
      ASSERT_TRUE(device->copy(stream, there->data() + offset, from->data(), bytes));
      ASSERT_TRUE(device->copy(stream, beside->data(), there->data() + offset, bytes));
      ASSERT_TRUE(device->copy(stream, to->data(), beside->data(), bytes));
      ASSERT_TRUE(device->copy(stream, to->data(), beside->data(), 0));
      finish(*device, stream);
      EXPECT_TRUE(std::equal(to->data(), to->data() + bytes, from->data())) << bytes << " bytes";
    }
}

TEST(GpuDevice, MemoryIsAlignedAndWhatDoesNotFitIsRefused) {
  const auto device = open_test_device();
  for (const size_t bytes : {1, 1000, 100000}) {
    auto memory = device->allocate(bytes);
    ASSERT_TRUE(memory);
    EXPECT_EQ(memory->bytes(), bytes);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(memory->data()) % 256, 0u);
  }
  const auto info = device->memory();
  ASSERT_TRUE(info);
  EXPECT_LE(info->free_bytes, info->total_bytes);
  const auto refused = device->allocate(info->total_bytes + (size_t{1} << 30));
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().code, ErrorCode::kLimitExceeded) << refused.error().message;
  EXPECT_TRUE(device->allocate(1000)) << "a refusal leaves the device as it was";
}

TEST(GpuDevice, EventsThatNobodyRecordedArePassedAndTimedOnesMeasure) {
  const auto device = open_test_device();
  auto begin = device->make_event(true), end = device->make_event(true);
  auto memory = device->allocate(1 << 20);
  ASSERT_TRUE(begin && end && memory);
  EXPECT_TRUE(*device->passed(begin->get()));
  ASSERT_TRUE(device->record(begin->get(), device->stream()));
  for (int i = 0; i < 20; ++i)
    ASSERT_TRUE(device->fill(device->stream(), memory->data(), 1, memory->bytes()));
  ASSERT_TRUE(device->record(end->get(), device->stream()));
  ASSERT_TRUE(device->wait_until(end->get(), kSoon, "the test"));
  const auto elapsed = device->elapsed(begin->get(), end->get());
  ASSERT_TRUE(elapsed);
  EXPECT_GT(*elapsed, Duration(0));
  EXPECT_LT(*elapsed, kSoon);
}

TEST(GpuDevice, IsNamedAsACudaDeviceIs) {
  for (const char* name : {"cuda", "cuda:0"}) {
    const auto device = Device::open(name);
    ASSERT_TRUE(device.has_value()) << name;
    EXPECT_EQ((*device)->properties().index, 0);
    EXPECT_FALSE((*device)->properties().name.empty());
  }
  for (const char* name : {"cpu", "cuda:", "cuda:x", "cuda0", "cuda:-1"})
    EXPECT_EQ(Device::open(name).error().code, ErrorCode::kInvalidArgument) << name;
}

}  // namespace
}  // namespace tailor::parallel::gpu
