// Every task once, whoever runs it; phases end; helpers sleep and wake.
#include "parallel/cpu/thread_team.h"

#include <gtest/gtest.h>
#include <sched.h>

#include <vector>

namespace tailor::parallel::cpu {
namespace {

TEST(ThreadTeam, EveryTaskRunsOnceInEveryPhase) {
  for (int threads : {1, 2, 5}) {
    ThreadTeam team({.threads = threads});
    for (int phase = 0; phase < 2000; ++phase) {
      std::vector<int> ran(static_cast<size_t>(phase % 23));
      team.run(static_cast<int32_t>(ran.size()), [&](int32_t index, int thread) {
        ASSERT_GE(thread, 0);
        ASSERT_LT(thread, threads);
        ++ran[static_cast<size_t>(index)];
      });
      for (int times : ran) ASSERT_EQ(times, 1);
    }
  }
}

TEST(ThreadTeam, WhatAPhaseWroteIsThereForTheNext) {
  ThreadTeam team({.threads = 3});
  std::vector<int64_t> values(64, 1), sums(64);
  for (int phase = 0; phase < 300; ++phase) {
    team.run(64, [&](int32_t i, int) {
      sums[static_cast<size_t>(i)] =
          values[static_cast<size_t>(i)] + values[static_cast<size_t>((i + 1) % 64)] % 3;
    });
    team.run(64, [&](int32_t i, int) {
      values[static_cast<size_t>(i)] = sums[static_cast<size_t>((i * 7) % 64)];
    });
  }
  std::vector<int64_t> alone(64, 1), alone_sums(64);
  for (int phase = 0; phase < 300; ++phase) {
    for (size_t i = 0; i < 64; ++i) alone_sums[i] = alone[i] + alone[(i + 1) % 64] % 3;
    for (size_t i = 0; i < 64; ++i) alone[i] = alone_sums[i * 7 % 64];
  }
  EXPECT_EQ(values, alone);
}

TEST(ThreadTeam, SleepingHelpersWakeForAPhase) {
  ThreadTeam team({.threads = 3, .spin = Duration{}});
  for (int phase = 0; phase < 500; ++phase) {
    std::atomic<int> done{0};
    team.run(8, [&](int32_t, int) { done.fetch_add(1); });
    ASSERT_EQ(done.load(), 8);
  }
}

TEST(ThreadTeam, PinnedThreadsStayOnTheirCores) {
  cpu_set_t before;
  ASSERT_EQ(sched_getaffinity(0, sizeof before, &before), 0);
  std::vector<int> usable;
  for (int core = 0; core < CPU_SETSIZE; ++core)
    if (CPU_ISSET(core, &before)) usable.push_back(core);
  {
    ThreadTeam team({.threads = 3, .first_core = 1});
    team.run(64, [&](int32_t, int thread) {
      EXPECT_EQ(sched_getcpu(), usable[static_cast<size_t>(1 + thread) % usable.size()]);
    });
  }
  sched_setaffinity(0, sizeof before, &before);
}

TEST(ThreadTeam, StepsThatLoseTheirTimeSendHelpersToRestForAWhile) {
  ThreadTeam team({.threads = 2});
  EXPECT_FALSE(team.resting());
  for (int step = 0; step < 64 && !team.resting(); ++step) {
    team.begin_step();
    // Both threads meet inside a phase, so the helper holds a task; it gives its core away many
    // times before it ends it, while the owner has nothing left to do.
    std::atomic<int> arrived{0};
    team.run(2, [&](int32_t, int thread) {
      arrived.fetch_add(1);
      while (arrived.load() < 2) std::this_thread::yield();
      if (thread != 0)
        for (int i = 0; i < 2000; ++i) std::this_thread::yield();
    });
    team.end_step(Duration{});
  }
  EXPECT_TRUE(team.resting());
  // Resting: the owner does all of it, and the tasks still all run.
  int ran = 0;
  team.run(10, [&](int32_t, int thread) {
    EXPECT_EQ(thread, 0);
    ++ran;
  });
  EXPECT_EQ(ran, 10);
}

}  // namespace
}  // namespace tailor::parallel::cpu
