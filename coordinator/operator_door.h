// OperatorDoor: orders of whoever runs the cluster, one a line:
//
//   drain REPLICA      nothing new goes there; it finishes what runs and leaves
//
// They come by a FIFO in the run folder that only its owner may open (docs/decisions/019): not by
// the request port, where anybody may speak. Nothing is answered; the status shows what follows.
// Owner: the coordinator's main thread.
#pragma once

#include <functional>
#include <string>
#include <utility>

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
  void read();

 private:
  void obey(const std::string& line);

  const int fd_;
  const SchedulerCore& core_;
  const Tell tell_;
  std::string line_;  // not ended yet; a longer one than any order is cut
};

}  // namespace tailor::coordinator
