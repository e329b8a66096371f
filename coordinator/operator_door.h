// OperatorDoor: orders of whoever runs the cluster, one a line:
//
//   drain REPLICA        nothing new goes there; it finishes what runs and leaves. Not the last
//                        replica that serves.
//   drain REPLICA last   that one too: what waits then ends, what arrives is rejected
//
// They come by a FIFO in the run folder that only its owner may open (docs/decisions/019): not by
// the request port, where anybody may speak. Whoever writes an order begins with the end of a line,
// for another may have left a piece of one. Nothing is answered; the status shows what follows.
// Owner: the coordinator's main thread.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <utility>

#include "base/time.h"
#include "coordinator/core_messages.h"
#include "coordinator/scheduler_core.h"

namespace tailor::coordinator {

class OperatorDoor {
 public:
  using Tell = std::function<void(const CoreEvent&)>;
  /// `fd`: to be read without waiting, not owned; -1 = nobody gives orders. `core` is looked at
  /// only.
  OperatorDoor(int fd, const SchedulerCore& core, Tell tell)
      : fd_(fd), core_(core), tell_(std::move(tell)) {}

  int fd() const { return fd_; }
  /// Carries out what has come; never waits.
  void read(Time now);

 private:
  void obey(const std::string& line);
  void complain(const std::string& what);

  const int fd_;
  const SchedulerCore& core_;
  const Tell tell_;
  std::string line_;  // not ended yet; a longer one than any order is cut
  Time now_{};        // while reading
  Time quiet_until_{};
  uint64_t unsaid_ = 0;  // complaints since
};

}  // namespace tailor::coordinator
