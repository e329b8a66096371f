// A rank's io thread: the DEALER to the coordinator (reports, commands, heartbeats) and the
// doorbell between the leader and its followers. Owns its sockets; the main thread talks to it
// through mailboxes.
//
// Doorbell: a follower sleeps in inbox().drain_wait() while its replica is idle; before the first
// step after an idle time the leader calls ring(), and every follower finds a Doorbell in its inbox
// and enters replay (MPI broadcasts). A rank whose coordinator is silent keeps trying to reconnect
// and says Hello again; after `coordinator_lost_after` it puts LinkDown into the inbox.
#pragma once

#include <memory>
#include <string>
#include <variant>

#include "base/mailbox.h"
#include "base/messages.h"
#include "base/result.h"
#include "base/watchdog.h"
#include "comm/codec_control.h"
#include "comm/link_key.h"

namespace tailor::comm {

struct Doorbell {};
struct LinkDown {};
using WorkerInput = std::variant<CommandFrame, Doorbell, LinkDown>;

struct WorkerIoOptions {
  std::string control_endpoint;  ///< the coordinator's
  LinkKey link_key;              ///< of the control link and the doorbell
  ReplicaId replica;             ///< as configured by the launcher
  uint32_t rank = 0;             ///< tensor-parallel rank; 0 = leader
  uint32_t tp_size = 1;
  std::string doorbell_bind = "tcp://127.0.0.1:*";  ///< leader: where followers connect
  std::string doorbell_endpoint;                    ///< follower: the leader's bound doorbell
  /// Commands that wait for main, and the memory they hold; above either no more are read.
  size_t inbox_capacity = 4096, inbox_bytes = 256u << 20;
  Duration heartbeat_every = milliseconds(100);
  Duration coordinator_lost_after = seconds(20);
};

class WorkerIo {
 public:
  /// Starts the thread. `progress`, the main thread's, must outlive it: heartbeats tell it. Errors:
  /// Unavailable, InvalidArgument.
  static Result<std::unique_ptr<WorkerIo>> start(const WorkerIoOptions& options,
                                                 const Progress& progress);
  virtual ~WorkerIo() = default;  ///< flushes reports for at most 1 s, stops, joins

  virtual Mailbox<WorkerInput>& inbox() = 0;
  /// Leader: queues a report. Any thread; never refuses. The caller stops planning while
  /// `backlog()` is high.
  virtual void report(ReportFrame report) = 0;
  virtual size_t backlog() const = 0;
  virtual void ring() = 0;                                   ///< leader
  virtual const std::string& doorbell_endpoint() const = 0;  ///< leader: as bound
};

}  // namespace tailor::comm
