// The fake device keeps the promises of parallel/cuda/device.h, and no others: order within a
// stream and by events, and nothing besides.
#include "parallel/cuda/device_fake.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <numeric>
#include <vector>

#include "parallel/cuda/gemm.h"
#include "parallel/cuda/stream_fake.h"

namespace tailor::parallel::gpu {
namespace {

constexpr Duration kSoon = seconds(30);

/// Until all that is in the stream is over.
void finish(Device& device, Stream stream) {
  auto event = device.make_event();
  ASSERT_TRUE(event.has_value());
  ASSERT_TRUE(device.record(event->get(), stream).has_value());
  ASSERT_TRUE(device.wait_until(event->get(), kSoon, "finish").has_value());
}

TEST(FakeDevice, AStreamKeepsItsOrderAndStreamsOnlyThatOfEvents) {
  int ahead = 0;
  for (uint64_t seed = 1; seed <= 40; ++seed) {
    const auto device = open_fake_device({.seed = seed});
    auto other = device->make_stream();
    auto event = device->make_event();
    auto host = device->allocate_pinned(sizeof(int) * 3);
    auto there = device->allocate(sizeof(int));
    ASSERT_TRUE(other && event && host && there);
    int* values = host->as<int>();
    values[0] = 7, values[1] = values[2] = 0;
    // The second stream reads what the first has written, once behind its event and once not.
    ASSERT_TRUE(device->fill(device->stream(), there->data(), 0, sizeof(int)));
    for (int i = 0; i < 8; ++i)
      ASSERT_TRUE(device->copy(device->stream(), there->data(), values, sizeof(int)));
    ASSERT_TRUE(device->record(event->get(), device->stream()));
    ASSERT_TRUE(device->copy(other->get(), values + 1, there->data(), sizeof(int)));
    ASSERT_TRUE(device->wait(other->get(), event->get()));
    ASSERT_TRUE(device->copy(other->get(), values + 2, there->data(), sizeof(int)));
    finish(*device, other->get());
    EXPECT_TRUE(*device->passed(event->get()));
    EXPECT_EQ(values[2], 7) << "seed " << seed;
    ahead += values[1] != 7;
  }
  EXPECT_GT(ahead, 0);  // a missing event shows
}

TEST(FakeDevice, FreshMemoryIsNaNsAndIsCounted) {
  const auto device = open_fake_device({.memory_bytes = 1 << 20});
  EXPECT_EQ(device->memory()->free_bytes, 1u << 20);
  {
    auto memory = device->allocate(1000);
    auto host = device->allocate_pinned(1000);
    ASSERT_TRUE(memory && host);
    EXPECT_EQ(device->memory()->free_bytes, (1u << 20) - 1000);
    EXPECT_EQ(fake_device_use(*device).pinned_bytes, 1000u);
    ASSERT_TRUE(device->copy(device->stream(), host->data(), memory->data(), 1000));
    finish(*device, device->stream());
    EXPECT_TRUE(std::isnan(*host->as<float>(996)));
    const auto refused = device->allocate(1 << 20);
    ASSERT_FALSE(refused.has_value());
    EXPECT_EQ(refused.error().code, ErrorCode::kLimitExceeded);
  }
  EXPECT_EQ(fake_device_use(*device).device_bytes, 0u);
  EXPECT_EQ(fake_device_use(*device).pinned_bytes, 0u);
}

TEST(FakeDevice, AnErrorInAStreamStaysAndAHangEndsAtTheDeadline) {
  const auto device = open_fake_device({});
  auto event = device->make_event();
  ASSERT_TRUE(run_on(device->stream(), [] { return fail(ErrorCode::kDeviceFailure, "burnt"); }));
  if (device->record(event->get(), device->stream()).has_value()) {
    const auto waited = device->wait_until(event->get(), kSoon, "a step");
    ASSERT_FALSE(waited.has_value());
    EXPECT_EQ(waited.error().message, "burnt");
  }
  EXPECT_FALSE(device->passed(event->get()).has_value());

  const auto stuck = open_fake_device({.hangs_after = 2});
  auto last = stuck->make_event();
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(stuck->record(last->get(), stuck->stream()));
  const auto late = stuck->wait_until(last->get(), milliseconds(20), "a step");
  ASSERT_FALSE(late.has_value());
  EXPECT_EQ(late.error().code, ErrorCode::kTimeout);
  EXPECT_EQ(late.error().message.rfind("a step: ", 0), 0u) << late.error().message;
}

TEST(FakeDevice, IsNamedAsACudaDeviceIs) {
  for (const char* name : {"cuda", "cuda:0", "cuda:12"})
    EXPECT_TRUE(Device::open(name).has_value()) << name;
  for (const char* name : {"cpu", "cuda:", "cuda:x", "cuda0", "cuda:-1"})
    EXPECT_FALSE(Device::open(name).has_value()) << name;
  EXPECT_EQ((*Device::open("cuda:3"))->properties().index, 3);
}

TEST(FakeGemm, MultipliesBothTypes) {
  const auto device = open_fake_device({});
  auto gemm = Gemm::make(*device, device->stream());
  ASSERT_TRUE(gemm.has_value());
  constexpr int64_t kM = 3, kN = 5, kK = 19;
  const auto value = [](int64_t i) { return static_cast<float>(i * 7 % 11 - 5); };
  for (const bool half : {false, true}) {
    const kv::ValueType type = half ? kv::ValueType::kBF16 : kv::ValueType::kF32;
    const size_t width = half ? 2 : 4;
    auto x = device->allocate(kM * kK * width), w = device->allocate(kN * kK * width);
    auto y = device->allocate(kM * kN * 4);
    ASSERT_TRUE(x && w && y);
    // Small integers are exact in either. The device is idle: its memory is ours.
    for (const auto& [memory, count] : {std::pair(&*x, kM * kK), std::pair(&*w, kN * kK)})
      for (int64_t i = 0; i < count; ++i) {
        const float v = value(i);
        uint32_t bits;
        std::memcpy(&bits, &v, 4);
        if (half)
          memory->as<uint16_t>()[i] = static_cast<uint16_t>(bits >> 16);
        else
          memory->as<float>()[i] = v;
      }
    auto shape = (*gemm)->prepare({kN, kK, type, kv::ValueType::kF32, kM});
    ASSERT_TRUE(shape.has_value());
    ASSERT_TRUE((*gemm)->run(*shape, {x->data(), w->data(), y->data(), kM}));
    finish(*device, device->stream());
    for (int64_t m = 0; m < kM; ++m)
      for (int64_t n = 0; n < kN; ++n) {
        float wanted = 0;
        for (int64_t k = 0; k < kK; ++k) wanted += value(m * kK + k) * value(n * kK + k);
        EXPECT_EQ(y->as<float>()[m * kN + n], wanted);
      }
  }
  EXPECT_FALSE((*gemm)->prepare({0, kK, kv::ValueType::kF32, kv::ValueType::kF32, 1}).has_value());
  EXPECT_FALSE((*gemm)->prepare({1, 1, kv::ValueType::kF16, kv::ValueType::kF32, 1}).has_value());
}

}  // namespace
}  // namespace tailor::parallel::gpu
