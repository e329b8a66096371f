// The live coordinator: its main thread. It waits on its mailboxes, hands what happened to
// SchedulerCore as (now, event), and carries out the commands that come back. Every decision about
// requests and replicas is the core's; here are the clock, the clients' names, the text, and who is
// connected.
//
//   io thread ──► inbox ──┐                                ┌──► ToWorker ──► io thread ──► leaders
//   tokenizer pool ───────┼──► event ─► SchedulerCore ─► commands
//   deadlines, silence ───┘                                └──► RequestStore ─► ClientSessions
//                                                                  ─► ToClient ─► clients
//
// One turn: wait, drain everything, handle it, look after time (deadlines, leases, silent
// replicas), then send each client at most one message. Owner: the thread that calls run().
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/api.h"
#include "base/result.h"
#include "base/watchdog.h"
#include "comm/coordinator_io.h"
#include "coordinator/client_sessions.h"
#include "coordinator/event_log.h"
#include "coordinator/predictor_link.h"
#include "coordinator/replica_links.h"
#include "coordinator/request_store.h"
#include "coordinator/scheduler_core.h"
#include "coordinator/tokenizer_pool.h"

namespace tailor::coordinator {

struct CoordinatorOptions {
  CoreOptions core;
  RequestStoreOptions requests;
  ClientSessionsOptions sessions;
  PredictorLinkOptions predictor;
  Duration heartbeat_timeout = seconds(2);  ///< a replica with a rank silent for so long is lost
  /// Told of each lost replica, so that whoever started it ends what may be left of it: a stopped
  /// process cannot read the Shutdown that it is sent. Must not block.
  std::function<void(const ReplicaInfo& info)> on_lost;
  uint32_t tokenizer_threads = 2;
  TokenizerLimits tokenizing;          ///< submitted requests whose prompt is not tokenized yet
  size_t max_live_bytes = 512u << 20;  ///< held by live requests' prompts and answers: above it no
                                       ///< further request is accepted
  size_t max_outbound_bytes = 64u << 20;  ///< on their way to the io thread: above it the clients'
                                          ///< messages wait
  uint32_t max_context = 0;               ///< of the model: prompt and answer together
  std::string model_name;
  std::string version;
  std::vector<api::EndToken> end_tokens;  ///< for the status
  /// Request ids begin above it. A worker may outlive a coordinator with reports still in its
  /// hands, so neither ids nor epochs (core.epoch_base) of two coordinators may be the same;
  /// launch/ takes both from the wall clock.
  uint64_t first_request_id = 0;
  uint64_t seed_entropy = 0;  ///< seeds of requests without one are drawn from it; from launch/
  /// A secret of 128 random bits, in hex: who may cancel and resume a request. Required; from
  /// launch/.
  std::function<std::string()> new_token;
  std::string record_path;       ///< write the event log there; empty = none
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
  struct Arriving {
    RequestId id;
    api::Submit submit;
    ClientId client;
    PreparedPrompt prompt;
    Time arrival;
  };
  /// Submitted, its prompt not tokenized yet.
  struct Tokenizing {
    ClientId client;
    Time deadline;
    bool over = false;  // answered: what comes back is dropped
  };
  using TokenizingEntry = std::unordered_map<std::string, Tokenizing>::iterator;

  CoordinatorLoop(const CoordinatorOptions& options, comm::CoordinatorIo& io, PromptText text);

  void wait(int stop_fd, bool& stop);
  Duration time_to_wait() const;
  void keep_house();
  void stop();
  void send_to_clients();

  void on(comm::FromClient& input);
  void on(comm::ClientGone& input);
  void on(comm::FromWorker& input);
  void on(comm::FromPredictor& input);
  void on(comm::PredictorGone& input);

  void on_submit(ClientId client, api::Submit&& submit);
  void on_cancel(ClientId client, const api::Cancel& cancel);
  void on_resume(ClientId client, const api::Resume& resume);
  /// Whether it is the client's request: it submitted it, or resumed it last, or knows its token.
  static bool owns(ClientId client, const StoredRequest& request, const std::string& token);
  void on_tokenized(TokenizeResult&& result);
  TokenizingEntry end_tokenizing(TokenizingEntry job, ErrorCode code, const std::string& message);
  void end_late_tokenizing();
  void reject(ClientId client, std::string request_id, ErrorCode code, std::string message,
              Duration retry_after = {});

  void ask_predictor(RequestId id, std::string words, uint32_t max_tokens);
  void predictor_lost(const char* why);
  void log_standing(RequestId id, const char* whose) const;

  void on(comm::LinkId link, const Envelope& from, Hello& hello, StepPayload&);
  void on(comm::LinkId link, const Envelope& from, StepReport& report, StepPayload& payload);
  void on(comm::LinkId link, const Envelope& from, Drained&, StepPayload&);
  void on(comm::LinkId link, const Envelope& from, const Heartbeat& heartbeat, StepPayload&);
  void lose(ReplicaId replica, const std::string& why);

  /// Gives the event to the core (and to the log) and carries out what it says.
  void tell(const CoreEvent& event);
  void execute(const Accept& command);
  void execute(const Reject& command);
  void execute(const ToReplica& command);
  void execute(const Emit& command);
  void execute(const Finish& command);
  void joined(const Envelope& welcome);
  DispatchPayload payload_of(const Envelope& to, const Dispatch& dispatch);
  void send_to_replica(const ToReplica& message, DispatchPayload payload = {});

  void note_progress(const StepReport& report);
  uint64_t draw_seed();
  api::StatusReport status() const;

  const CoordinatorOptions options_;
  comm::CoordinatorIo& io_;
  const Time started_;
  const int64_t vocab_size_;
  const SamplingDefaults sampling_defaults_;
  TokenizerPool pool_;
  SchedulerCore core_;
  RequestStore store_;
  ClientSessions sessions_;
  ReplicaLinks links_;
  PredictorLink predictor_;
  std::optional<EventLogWriter> log_;

  Time now_{};          // of this turn
  Time heard_until_{};  // all that clients said before it is handled in this turn
  Time next_house_{};
  bool stopping_ = false;
  RequestId last_id_;
  uint64_t seeds_drawn_ = 0;
  bool absence_told_ = false;  // that there is no predictor though the policy would use one
  std::unordered_map<std::string, Tokenizing> tokenizing_;  // by the client's name for it
  uint64_t replicas_lost_ = 0, replicas_refused_ = 0, worker_complaints_ = 0;

  // During tell() only; reused.
  std::optional<Arriving> arriving_;
  const StepReport* report_ = nullptr;
  std::vector<ProgressParts> parts_;  // of its entries
  struct Joining {
    comm::LinkId link;
    ReplicaInfo info;
  };
  std::optional<Joining> joining_;
  std::vector<CoreCommand> commands_;
  std::vector<Abandoned> broken_;  // found while commands were carried out; told next
};

}  // namespace tailor::coordinator
