#include "parallel/cpu/thread_team.h"

#include <sched.h>

#include <algorithm>

#include "base/check.h"
#include "base/clock.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace tailor::parallel::cpu {
namespace {

constexpr uint32_t kOwnerSleeps = 1u << 31;
constexpr Duration kOwnerSpin = microseconds(50);
constexpr double kTooMuchLost = 1.0 / 3;
constexpr double kSmoothing = 1.0 / 8;  // of lost_share_: about so many steps are looked back at
constexpr Duration kFirstPause = milliseconds(500), kLongestPause = seconds(4);

inline void relax() {
#if defined(__x86_64__)
  _mm_pause();
#endif
}

cpu_set_t usable_cores() {
  cpu_set_t cores;
  CPU_ZERO(&cores);
  sched_getaffinity(0, sizeof cores, &cores);
  return cores;
}

/// The calling thread to the `number`-th of `usable`; where that is refused it stays where it is.
void pin_to(const cpu_set_t& usable, int number) {
  const int count = CPU_COUNT(&usable);
  if (count == 0) return;
  int left = number % count;
  for (int core = 0; core < CPU_SETSIZE; ++core) {
    if (!CPU_ISSET(core, &usable) || left-- > 0) continue;
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(core, &one);
    sched_setaffinity(0, sizeof one, &one);
    return;
  }
}

uint32_t left(uint64_t ticket) { return static_cast<uint32_t>(ticket); }

}  // namespace

ThreadTeam::ThreadTeam(const ThreadTeamOptions& options) : options_(options) {
  TAILOR_CHECK(options.threads >= 1, "a team has at least its owner");
  const cpu_set_t usable = usable_cores();
  if (options.first_core >= 0) pin_to(usable, options.first_core);
  for (int thread = 1; thread < options.threads; ++thread)
    helpers_.emplace_back([this, thread, usable] {
      if (options_.first_core >= 0) pin_to(usable, options_.first_core + thread);
      help(thread);
    });
}

ThreadTeam::~ThreadTeam() {
  stop_.store(true);
  wakes_.fetch_add(1);
  wakes_.notify_all();
  for (std::thread& helper : helpers_) helper.join();
}

void ThreadTeam::run_phase(int32_t num_tasks, const void* function, Call call) {
  function_ = function;
  call_ = call;
  num_tasks_ = num_tasks;
  undone_.store(static_cast<uint32_t>(num_tasks), std::memory_order_relaxed);
  ticket_.store(static_cast<uint64_t>(++phase_) << 32 | static_cast<uint32_t>(num_tasks));
  if (sleepers_.load() > 0) {
    wakes_.fetch_add(1);
    wakes_.notify_all();
  }
  while (work_once(0)) {
  }
  wait_until_done();
}

bool ThreadTeam::work_once(int thread) {
  uint64_t ticket = ticket_.load(std::memory_order_acquire);
  do {
    if (left(ticket) == 0) return false;
  } while (!ticket_.compare_exchange_weak(ticket, ticket - 1, std::memory_order_acq_rel,
                                          std::memory_order_acquire));
  call_(function_, num_tasks_ - static_cast<int32_t>(left(ticket)), thread);
  if (undone_.fetch_sub(1, std::memory_order_acq_rel) == (kOwnerSleeps | 1)) undone_.notify_one();
  return true;
}

void ThreadTeam::wait_until_done() {
  if (undone_.load(std::memory_order_acquire) == 0) return;
  const Time begin = now();
  for (int i = 1; undone_.load(std::memory_order_acquire) != 0; ++i) {
    relax();
    if (i % 64 != 0 || now() - begin < kOwnerSpin) continue;
    // Somebody was put aside inside a task: our core may be what it waits for.
    uint32_t undone = undone_.fetch_or(kOwnerSleeps, std::memory_order_acq_rel) | kOwnerSleeps;
    while (undone != kOwnerSleeps) {
      undone_.wait(undone, std::memory_order_acquire);
      undone = undone_.load(std::memory_order_acquire);
    }
    undone_.store(0, std::memory_order_relaxed);
  }
  waited_ += now() - begin;
}

void ThreadTeam::help(int thread) {
  while (!stop_.load(std::memory_order_relaxed)) {
    if (work_once(thread)) continue;
    const Time begin = now();
    bool found = false;
    for (int i = 1; !found && (i % 64 != 0 || now() - begin < options_.spin); ++i) {
      relax();
      found = left(ticket_.load(std::memory_order_relaxed)) != 0;
    }
    if (found) continue;
    const uint32_t wakes = wakes_.load();
    sleepers_.fetch_add(1);
    if (left(ticket_.load()) == 0 && !stop_.load()) wakes_.wait(wakes);
    sleepers_.fetch_sub(1);
  }
}

void ThreadTeam::begin_step() {
  if (helpers_.empty()) return;
  step_begin_ = now();
  cpu_begin_ = thread_cpu_time();
  waited_ = Duration{};
  if (resting_ && step_begin_ >= rest_until_) {
    resting_ = false;
    lost_share_ = kTooMuchLost / 2;  // a few bad steps are enough to rest again
  }
}

void ThreadTeam::end_step(Duration elsewhere) {
  if (helpers_.empty() || resting_) return;
  const Time end = now();
  const Duration wall = end - step_begin_ - elsewhere, used = thread_cpu_time() - cpu_begin_;
  // Waiting is partly spinning, which counts as used.
  const Duration lost = std::max(wall - used, waited_);
  const double share = wall > Duration{} ? to_seconds(lost) / to_seconds(wall) : 0;
  lost_share_ += (share - lost_share_) * kSmoothing;
  if (lost_share_ > kTooMuchLost) {
    resting_ = true;
    pause_ = std::clamp(pause_ * 2, kFirstPause, kLongestPause);
    rest_until_ = end + pause_;
  } else if (lost_share_ < kTooMuchLost / 4) {
    pause_ = Duration{};
  }
}

}  // namespace tailor::parallel::cpu
