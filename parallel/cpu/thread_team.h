// ThreadTeam: the math threads of one rank. The owner (the rank's main thread) opens a phase of
// numbered tasks and works on it too; helpers take tasks from the same counter. The owner goes on
// when every task is done, not when every helper has come by: a helper that the system has put
// aside between tasks holds nobody up. Whoever finds nothing to do spins for a bounded time, then
// sleeps, so that its core is free for whoever was put aside.
//
// Sharing cores: when other processes take cores away, a helper put aside in the middle of a task
// does hold the phase up. Where a step loses more than a third of its time like that, the helpers
// rest and the owner works alone, trying them again after a while.
//
// What a task computes may not depend on which thread runs it. Owner: the rank's main thread.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

#include "base/time.h"

namespace tailor::parallel::cpu {

struct ThreadTeamOptions {
  int threads = 1;  ///< with the owner
  Duration spin = microseconds(100);
  /// Pins the owner to the usable core of this number, and helper i to the i-th after it, around
  /// the end; negative = where the system puts them.
  int first_core = -1;
};

class ThreadTeam {
 public:
  explicit ThreadTeam(const ThreadTeamOptions& options);
  ~ThreadTeam();
  ThreadTeam(const ThreadTeam&) = delete;
  ThreadTeam& operator=(const ThreadTeam&) = delete;

  int threads() const { return static_cast<int>(helpers_.size()) + 1; }

  /// Calls task(index, thread) for every index in [0, num_tasks), each once, on any thread (0 <=
  /// thread < threads(), for scratch memory); returns when all are done. Takes them in order.
  template <class Task>
  void run(int32_t num_tasks, const Task& task) {
    if (num_tasks <= 1 || helpers_.empty() || resting_) {
      for (int32_t i = 0; i < num_tasks; ++i) task(i, 0);
      return;
    }
    run_phase(num_tasks, &task, [](const void* function, int32_t index, int thread) {
      (*static_cast<const Task*>(function))(index, thread);
    });
  }

  /// Around every step: what the step lost decides whether the helpers rest. `elsewhere`: time of
  /// the step that the owner spent waiting for others than the team.
  void begin_step();
  void end_step(Duration elsewhere);
  bool resting() const { return resting_; }

 private:
  using Call = void (*)(const void* function, int32_t index, int thread);

  void run_phase(int32_t num_tasks, const void* function, Call call);
  void help(int thread);
  /// Takes one task of the phase that is open; false when none is left to take.
  bool work_once(int thread);
  void wait_until_done();

  const ThreadTeamOptions options_;

  // Written by the owner before a phase opens; stable for whoever has taken a task of it, for the
  // phase cannot end before that task is done.
  const void* function_ = nullptr;
  Call call_ = nullptr;
  int32_t num_tasks_ = 0;

  alignas(64) std::atomic<uint64_t> ticket_{0};  ///< phase << 32 | tasks left to take
  alignas(64) std::atomic<uint32_t> undone_{0};  ///< tasks not done; top bit: the owner sleeps
  alignas(64) std::atomic<uint32_t> sleepers_{0}, wakes_{0};
  std::atomic<bool> stop_{false};

  // Owner only.
  uint32_t phase_ = 0;
  Time step_begin_{};
  Duration cpu_begin_{}, waited_{}, pause_{};
  double lost_share_ = 0;
  bool resting_ = false;
  Time rest_until_{};

  std::vector<std::thread> helpers_;  // last: joined before what they use goes
};

}  // namespace tailor::parallel::cpu
