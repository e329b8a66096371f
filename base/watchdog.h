// The watchdog over a process's own threads: a thread that is at work and makes no progress for too
// long is stuck for good (a deadlock, a device or a peer that does not answer), and the process
// leaves with code 70, so that whoever started it starts it again. It says which thread it was. A
// pause of the whole process (SIGSTOP, a sleeping machine) is nobody's standstill.
//
// Every process that serves has one from its start. The supervisor has none: a cluster whose
// supervisor stands still goes on serving, without one it ends.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <thread>
#include <vector>

#include "base/mailbox.h"
#include "base/time.h"

namespace tailor {

/// A thread's sign of life; written by that thread only.
struct Progress {
  std::atomic<uint64_t> counter{0};
  std::atomic<bool> busy{false};  ///< at work; not while it waits for something to do
};

inline constexpr int kStuckExitCode = 70;

struct WatchdogOptions {
  Duration stuck_after = seconds(30);
  /// Until started(): reading a large model may show no progress for long. Then a second of CPU
  /// time of the process counts as progress of all its threads.
  Duration stuck_at_start_after = seconds(600);
};

class Watchdog {
 public:
  struct Watched {
    std::string thread;  ///< "main": for people
    const Progress* progress;
  };
  /// Starts the thread. What is watched must outlive this.
  Watchdog(std::vector<Watched> watched, const WatchdogOptions& options);
  ~Watchdog();  ///< stops, joins
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;

  /// Load has ended, which is progress: `stuck_after` holds from now on. Any thread.
  void started() { started_ = true; }

 private:
  void run();

  const std::vector<Watched> watched_;
  const WatchdogOptions options_;
  std::atomic<bool> started_{false};
  Mailbox<int> end_{1};  // closed to stop
  std::thread thread_;   // last: starts when all else is there
};

}  // namespace tailor
