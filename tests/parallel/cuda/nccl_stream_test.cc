// NCCL of one rank on the stream that the engine works in, as launch/stream_collective.h makes it:
// no call waits, what is in the stream before and behind it is in order.
#include <gtest/gtest.h>

#include "comm/collective_inprocess.h"
#include "comm/collective_nccl.h"
#include "tests/parallel/cuda/test_device.h"

namespace tailor::parallel::gpu {
namespace {

TEST(NcclOnTheDevicesStream, IsInTheOrderOfWhatElseIsThere) {
  const auto device = open_test_device();
  const Stream stream = device->stream();
  comm::InProcessGroup hosts(1, seconds(60));
  const auto host = hosts.join(0);
  auto made = comm::make_nccl_collective(*host, {.device = device->properties().index,
                                                 .stream = stream,
                                                 .deadline = seconds(60),
                                                 .wait_for_data = false});
  ASSERT_TRUE(made) << to_string(made.error());
  comm::Collective& nccl = **made;
  EXPECT_EQ(nccl.size(), 1);

  constexpr int kRounds = 100;
  constexpr size_t kBytes = 1 << 20;
  auto mine = device->allocate(kBytes), all = device->allocate(kBytes);
  auto seen = device->allocate_pinned(3 * kRounds);
  ASSERT_TRUE(mine && all && seen);
  const auto look = [&](int place) {  // the last byte: the whole of it has arrived
    ASSERT_TRUE(device->copy(stream, seen->data() + place, all->data() + kBytes - 1, 1));
  };
  for (int round = 0; round < kRounds; ++round) {
    const auto value = static_cast<uint8_t>(1 + 2 * round);
    ASSERT_TRUE(device->fill(stream, mine->data(), value, kBytes));
    ASSERT_TRUE(nccl.all_gather({mine->data(), kBytes}, {all->data(), kBytes}));
    look(3 * round);
    ASSERT_TRUE(device->fill(stream, mine->data(), static_cast<uint8_t>(value + 1), kBytes));
    ASSERT_TRUE(nccl.gather({mine->data(), kBytes}, {all->data(), kBytes}, 0));
    look(3 * round + 1);
    ASSERT_TRUE(nccl.broadcast({all->data(), kBytes}, 0));
    look(3 * round + 2);
  }
  auto over = device->make_event();
  ASSERT_TRUE(over && device->record(over->get(), stream));
  const auto waited = device->wait_until(over->get(), seconds(60), "the test");
  ASSERT_TRUE(waited) << to_string(waited.error());
  for (int round = 0; round < kRounds; ++round)
    for (int i = 0; i < 3; ++i)
      ASSERT_EQ(seen->as<uint8_t>()[3 * round + i],
                static_cast<uint8_t>(1 + 2 * round + (i > 0 ? 1 : 0)))
          << "round " << round << ", exchange " << i;
}

}  // namespace
}  // namespace tailor::parallel::gpu
