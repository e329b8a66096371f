#include "base/watchdog.h"

#include <unistd.h>

#include <algorithm>
#include <utility>

#include "base/clock.h"
#include "base/log.h"

namespace tailor {
namespace {

constexpr Duration kLongestTick = milliseconds(250);
constexpr int kTicksPerLimit = 8;
constexpr Duration kOwnDelay = milliseconds(500);  // woken so late: the machine stood still
constexpr unsigned kLastWordsSeconds = 2;

/// The log may be what the stuck thread stands in (a full pipe, a lock it holds): then the alarm
/// ends us.
[[noreturn]] void leave(const std::string& thread, uint64_t count, Duration standstill) {
  alarm(kLastWordsSeconds);
  LOG_ERROR("the {} thread has been stuck at progress {} for {:.1f} s; this process leaves", thread,
            count, to_seconds(standstill));
  flush_log();
  _exit(kStuckExitCode);
}

}  // namespace

Watchdog::Watchdog(std::vector<Watched> watched, const WatchdogOptions& options)
    : watched_(std::move(watched)), options_(options), thread_([this] { run(); }) {}

Watchdog::~Watchdog() {
  end_.close();
  thread_.join();
}

void Watchdog::run() {
  struct Seen {
    uint64_t count = 0;
    Time at{};
  };
  const Duration tick = std::min(kLongestTick, options_.stuck_after / kTicksPerLimit);
  Time last = now();
  std::vector<Seen> seen(watched_.size(), Seen{0, last});
  Duration cpu{};
  bool was_started = false;
  while (!end_.closed()) {
    end_.drain_wait(tick);
    const Time at = now();
    const Duration late = at - last - tick;
    last = at;
    const bool started = started_;
    // The end of the load is progress: what stood before it must not be held to the shorter limit.
    bool worked = std::exchange(was_started, started) != started;
    if (!started && process_cpu_time() - cpu >= seconds(1)) {
      cpu = process_cpu_time();
      worked = true;
    }
    const Duration limit = started ? options_.stuck_after : options_.stuck_at_start_after;
    for (size_t i = 0; i < watched_.size(); ++i) {
      const Progress& progress = *watched_[i].progress;
      const uint64_t count = progress.counter.load(std::memory_order_relaxed);
      if (!progress.busy.load(std::memory_order_relaxed) || count != seen[i].count || worked) {
        seen[i] = {count, at};
      } else if (late > kOwnDelay) {
        seen[i].at += late;  // the watched did not run either
      }
      if (at - seen[i].at >= limit) leave(watched_[i].thread, count, at - seen[i].at);
    }
  }
}

}  // namespace tailor
