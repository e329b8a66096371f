#include "base/watchdog.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <future>

#include "base/clock.h"
#include "base/log.h"

namespace tailor {
namespace {

/// Soon enough for a test that waits for it; a thread that moves has this long on a busy machine.
const WatchdogOptions kSoon{.stuck_after = milliseconds(1000)};

/// For ever: the death tests end by the watchdog, or by ctest's deadline.
void stand_still() { std::promise<void>().get_future().wait(); }

TEST(WatchdogDeathTest, AThreadThatIsStuckEndsItsProcessAndIsNamed) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(
      {
        init_logging("test", "info");
        Progress idle;
        Progress stuck;
        stuck.busy = true;
        stuck.counter = 7;
        Watchdog watchdog({{"main", &idle}, {"text", &stuck}}, kSoon);
        watchdog.started();
        stand_still();
      },
      testing::ExitedWithCode(kStuckExitCode), "the text thread has been stuck at progress 7 for");
}

TEST(WatchdogDeathTest, AStandstillBeforeTheStartHasItsOwnLimit) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(
      {
        init_logging("test", "info");
        Progress stuck;
        stuck.busy = true;
        Watchdog watchdog({{"main", &stuck}}, {.stuck_after = milliseconds(300),
                                               .stuck_at_start_after = milliseconds(400)});
        stand_still();
      },
      testing::ExitedWithCode(kStuckExitCode), "the main thread has been stuck");
}

TEST(Watchdog, AStandstillBeforeTheStartIsForgivenByIt) {
  Progress main;
  main.busy = true;
  Watchdog watchdog({{"main", &main}}, kSoon);
  Mailbox<int> never(1);
  never.drain_wait(milliseconds(1500));  // a load that shows no progress
  watchdog.started();
  never.drain_wait(milliseconds(400));
  main.busy = false;
}

TEST(WatchdogDeathTest, APipeThatTakesNoLastWordsDoesNotKeepIt) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(
      {
        int ends[2];
        if (pipe(ends) != 0) _exit(1);
        dup2(ends[1], STDERR_FILENO);
        init_logging("test", "info");
        Progress stuck;
        stuck.busy = true;
        Watchdog watchdog({{"main", &stuck}}, kSoon);
        watchdog.started();
        for (;;) LOG_INFO("the main thread stands in this line when the pipe is full");
      },
      testing::KilledBySignal(SIGALRM), "");
}

TEST(Watchdog, LeavesThreadsAloneThatMoveOrWait) {
  Progress moving, waiting;
  moving.busy = true;
  Watchdog watchdog({{"main", &moving}, {"text", &waiting}}, kSoon);
  watchdog.started();
  Mailbox<int> never(1);
  for (const Time until = now() + milliseconds(1800); now() < until; ++moving.counter)
    never.drain_wait(milliseconds(20));
}

}  // namespace
}  // namespace tailor
