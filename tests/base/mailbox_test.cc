#include "base/mailbox.h"

#include <gtest/gtest.h>
#include <poll.h>

#include <memory>
#include <string>
#include <thread>

namespace tailor {
namespace {

bool readable(int fd) {
  pollfd p{fd, POLLIN, 0};
  return poll(&p, 1, 0) == 1;
}

TEST(Mailbox, RefusesWhenFullAndLeavesTheValueWithItsOwner) {
  Mailbox<std::unique_ptr<int>> box(1);
  EXPECT_TRUE(box.push(std::make_unique<int>(1)));
  auto second = std::make_unique<int>(2);
  EXPECT_FALSE(box.push(std::move(second)));
  ASSERT_NE(second, nullptr);
  EXPECT_EQ(*second, 2);
  EXPECT_FALSE(box.has_room());
}

TEST(Mailbox, ReportsAndControlAreNeverRefused) {
  Mailbox<int> box(1);
  for (int i = 0; i < 5; ++i) box.push_always(int(i));
  EXPECT_EQ(box.drain().size(), 5u);
}

TEST(Mailbox, IsFullByTheBytesItHoldsToo) {
  Mailbox<std::string> box(100, 10, [](const std::string& text) { return text.size(); });
  EXPECT_TRUE(box.push("123456"));
  EXPECT_TRUE(box.has_room());
  EXPECT_TRUE(box.push("1234567890"));  // one value may pass the bound, so any value passes
  EXPECT_FALSE(box.has_room());
  EXPECT_FALSE(box.push("1"));
  box.push_always("12");
  EXPECT_EQ(box.bytes(), 18u);
  EXPECT_EQ(box.pop_wait(seconds(0)), "123456");
  EXPECT_EQ(box.bytes(), 12u);
  EXPECT_FALSE(box.push("1"));
  EXPECT_EQ(box.drain().size(), 2u);
  EXPECT_EQ(box.bytes(), 0u);
  EXPECT_TRUE(box.push("1"));
}

TEST(Mailbox, FdIsReadableExactlyWhileSomethingIsInside) {
  Mailbox<int> box(4);
  EXPECT_FALSE(readable(box.fd()));
  ASSERT_TRUE(box.push(1));
  ASSERT_TRUE(box.push(2));
  EXPECT_TRUE(readable(box.fd()));
  EXPECT_EQ(box.pop_wait(seconds(0)), 1);
  EXPECT_TRUE(readable(box.fd()));
  EXPECT_EQ(box.pop_wait(seconds(0)), 2);
  EXPECT_FALSE(readable(box.fd()));
  ASSERT_TRUE(box.push(3));
  EXPECT_EQ(box.drain().size(), 1u);
  EXPECT_FALSE(readable(box.fd()));
}

TEST(Mailbox, WaitEndsAtItsDeadlineWithNothing) {
  Mailbox<int> box(4);
  EXPECT_TRUE(box.drain_wait(milliseconds(1)).empty());
  EXPECT_EQ(box.pop_wait(milliseconds(1)), std::nullopt);
}

TEST(Mailbox, CloseRefusesNewWakesTheConsumerAndKeepsWhatIsInside) {
  Mailbox<int> box(4);
  ASSERT_TRUE(box.push(7));
  box.close();
  EXPECT_FALSE(box.push(8));
  box.push_always(9);
  EXPECT_TRUE(box.closed());
  EXPECT_EQ(box.drain_wait(seconds(60)).size(), 1u);
  EXPECT_TRUE(box.drain_wait(seconds(60)).empty());  // returns at once: closed
}

TEST(Mailbox, FdStaysReadableOnceClosedSoThatNoPollMissesTheEnd) {
  Mailbox<int> box(4);
  ASSERT_TRUE(box.push(1));
  box.close();
  EXPECT_EQ(box.drain().size(), 1u);
  EXPECT_TRUE(readable(box.fd()));
  EXPECT_EQ(box.pop_wait(seconds(0)), std::nullopt);
  EXPECT_TRUE(readable(box.fd()));
}

TEST(Mailbox, ManyProducersLoseAndDoubleNothing) {
  constexpr int kProducers = 4, kEach = 5000;
  Mailbox<int> box(64);
  std::vector<std::thread> producers;
  for (int p = 0; p < kProducers; ++p) {
    producers.emplace_back([&box, p] {
      for (int i = 0; i < kEach; ++i) {
        while (!box.push(p * kEach + i)) std::this_thread::yield();
      }
    });
  }
  std::vector<int> last(kProducers, -1), count(kProducers, 0);
  for (int got = 0; got < kProducers * kEach;) {
    for (int value : box.drain_wait(seconds(10))) {
      const int p = value / kEach;
      EXPECT_GT(value % kEach, last[p]);  // each producer's order is kept
      last[p] = value % kEach;
      ++count[p];
      ++got;
    }
  }
  for (auto& t : producers) t.join();
  for (int c : count) EXPECT_EQ(c, kEach);
}

}  // namespace
}  // namespace tailor
