// The live coordinator: its main thread. It waits on its mailboxes, hands what happened to
// SchedulerCore as (now, event), and carries out the commands that come back. Every decision about
// requests and replicas is the core's; here are the clock, the turns and the log.
//
//   clients ──► ClientDoor ───┐                               ┌──► ReplicaDoor ──► leaders
//   leaders ──► ReplicaDoor ──┼──► event ─► SchedulerCore ─► commands
//   predictor, operator, time ┘                               └──► RequestStore ─► ClientSessions
//                                                                    ─► ClientDoor ──► clients
//
// One turn: wait, drain everything, handle it, look after time (deadlines, leases, silent
// replicas), then send each client at most one message. No door knows another: they meet in the
// core, by its events and commands, and in the store. Owner: the thread that calls run().
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/api.h"
#include "base/result.h"
#include "base/watchdog.h"
#include "comm/coordinator_io.h"
#include "coordinator/client_door.h"
#include "coordinator/client_sessions.h"
#include "coordinator/event_log.h"
#include "coordinator/operator_door.h"
#include "coordinator/predictor_link.h"
#include "coordinator/replica_door.h"
#include "coordinator/request_store.h"
#include "coordinator/scheduler_core.h"

namespace tailor::coordinator {

struct CoordinatorOptions {
  CoreOptions core;
  ClientDoorOptions clients;
  RequestStoreOptions requests;
  ClientSessionsOptions sessions;
  PredictorLinkOptions predictor;
  Duration heartbeat_timeout = seconds(2);  ///< a replica with a rank silent for so long is lost
  /// Told of each lost replica, so that whoever started it ends what may be left of it: a stopped
  /// process cannot read the Shutdown that it is sent. Must not block.
  std::function<void(const ReplicaInfo& info)> on_lost;
  /// Told of each replica that has drained, for a coordinator that is started anew. Must not block.
  std::function<void(ReplicaId)> on_drained;
  std::string model_name;
  std::string version;
  std::vector<api::EndToken> end_tokens;  ///< for the status
  int orders_fd = -1;                     ///< an operator's orders (operator_door.h); not owned
  std::string record_path;                ///< write the event log there; empty = none
  Progress* progress = nullptr;  ///< counts the turns, for a watchdog; null: nobody watches
};

class CoordinatorLoop {
 public:
  /// `io` must outlive the loop. Errors: Unavailable (the event log cannot be written),
  /// InvalidArgument.
  static Result<std::unique_ptr<CoordinatorLoop>> create(const CoordinatorOptions& options,
                                                         comm::CoordinatorIo& io, PromptText text);

  /// Serves until `stop_fd` becomes readable. Then every live request fails with Shutdown, clients
  /// are told, leaders get Shutdown, and it returns (the io's destructor flushes).
  void run(int stop_fd);

 private:
  CoordinatorLoop(const CoordinatorOptions& options, comm::CoordinatorIo& io, PromptText text);

  void wait(int stop_fd, bool& stop, bool& ordered);
  Duration time_to_wait() const;
  void keep_house();
  void stop();

  void on(comm::FromClient& input) { clients_.on(input, now_); }
  void on(comm::ClientGone& input) { clients_.on(input); }
  void on(comm::FromWorker& input) { replicas_.on(input, now_); }
  void on(comm::FromPredictor& input);
  void on(comm::PredictorGone& input);

  void ask_predictor(RequestId id, std::string words, uint32_t max_tokens);
  void predictor_lost(const char* why);
  void log_standing(RequestId id, const char* whose) const;

  /// Gives the event to the core (and to the log) and carries out what it says.
  void tell(const CoreEvent& event);
  void execute(const Accept& command);
  void execute(const Reject& command);
  void execute(const ToReplica& command);
  void execute(const Emit& command);
  void execute(const Finish& command);
  DispatchPayload payload_of(const Envelope& to, const Dispatch& dispatch);
  void note_events(const Envelope& from, const StepReport& report);
  void end_recording(const Error& why);
  void log_probed(const StepReport& report) const;
  api::StatusReport status() const;

  const CoordinatorOptions options_;
  comm::CoordinatorIo& io_;
  const Time started_;
  SchedulerCore core_;
  RequestStore store_;
  ClientSessions sessions_;
  ClientDoor clients_;
  ReplicaDoor replicas_;
  OperatorDoor operator_;
  PredictorLink predictor_;
  std::optional<EventLogWriter> log_;

  Time now_{};          // of this turn
  Time heard_until_{};  // all that clients said before it is handled in this turn
  Time next_house_{};
  bool stopping_ = false;
  bool absence_told_ = false;  // that there is no predictor though the policy would use one
  uint64_t worker_complaints_ = 0;

  // During tell() only; reused.
  std::vector<CoreCommand> commands_;
  std::vector<Abandoned> broken_;  // found while commands were carried out; told next
};

}  // namespace tailor::coordinator
