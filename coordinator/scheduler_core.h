// SchedulerCore: every decision of the cluster about requests. Which one runs next and on which
// replica, who gets in, who has waited too long, what happens to the work of a replica that is
// gone. A pure state machine: it is told (now, event) and answers with commands; it knows no clock,
// socket, thread or text. The live coordinator (coordinator_loop.h) and the simulator drive the
// very same object, and a log of its events replays to the same commands (event_log.h).
//
// Here are the transitions. What is known, and each rule, has a part of its own:
//
//   request_book.h    the live requests: phase, sequences and where their KV is, exactly once
//   replica_book.h    the replicas: lives, slots in use, who is ahead, commands in flight
//   waiting_queue.h   the order of those that wait, by the policy's key (ranking.h)
//   placement.h       which replica the next one goes to
//   preemption.h      who gives way to it (nobody yet)
//
// Life of a request here:
//
//   Arrived ──► Reject (queue full, stopping, every replica drained)
//      │
//      └─► Accept ─► waiting ──Dispatch──► bound to a replica ──StepReport─► Emit .. ─► Finish
//                       ▲                        │
//                       └── ReplicaLost, drain ◄─┘   (its arrival never changed; its key is that
//                                                     of the work it has left)
//
// Late binding. Accepted requests wait unbound. One is bound only when a replica has room: a free
// slot for each of its n samples (or no other request, when n is above its slots), or a place among
// the `ahead` (at most 2 requests a replica are kept ahead, to hide the hop). The head of the queue
// is never overtaken inside its class or by a lower class. Nothing ever waits for a law: the
// predictor's (Predicted) or, better, the worker's probe's (LawProbed) re-keys a waiting request at
// once and is kept for a bound one should it wait again. With n > 1 the work is the longest of the
// samples (tie/law_of_largest.h), and what single samples have generated is not looked at.
//
// Exactly once. Every accepted request ends in exactly one Finish; what is reported later for it is
// ignored. An entry of a report counts only when replica, epoch and attempt are the current ones
// and its tokens join those seen: repeats are skipped (Emit::skip), a gap fails the request
// rather than show wrong text.
//
// Loss. A lost replica's requests wait again where they were, with the tokens they have; the next
// attempt continues behind them. After `max_losses` lost attempts a request fails with ReplicaLost
// (it may be what kills replicas). A lost replica is expected back, and what waits waits for it;
// one that was drained is not: once all of them drain or have drained, nobody will come, so that
// what waits ends with Unavailable and what arrives is rejected.
//
// Frugal: no allocation, string hash or virtual call per sequence and step once the tables have
// grown (scheduler_core_frugal_test counts), and one look-up by id per entry of a report. Cost:
// Arrived, Dispatch, Finish O(log waiting + replicas); one report entry O(1); Hello and ReplicaLost
// O(live requests).
#pragma once

#include <cstdint>
#include <vector>

#include "coordinator/core_messages.h"
#include "coordinator/ranking.h"
#include "coordinator/replica_book.h"
#include "coordinator/request_book.h"
#include "coordinator/waiting_queue.h"
#include "tie/law.h"
#include "tie/priority_queue.h"

namespace tailor::coordinator {

struct CoreOptions {
  Policy policy;
  /// For requests nobody has predicted; kind none: tie::default_population().
  LengthLaw population;
  uint32_t queue_limit = 1024;  ///< requests waiting unbound; more are rejected with QueueFull
  uint32_t ahead_requests = 2;  ///< per replica, dispatched beyond its slots
  uint32_t max_losses = 4;      ///< lost attempts before a request fails
  /// the cluster is ready when so many have joined; 0: all had drained before this core began
  uint32_t expected_replicas = 1;
  uint32_t epoch_base = 0;  ///< epochs begin above it: no two coordinators' epochs are the same
  Duration retry_after_min = milliseconds(100);
  Duration retry_after_max = seconds(30);
};

struct CoreCounters {
  uint64_t accepted = 0, rejected = 0, finished = 0, cancelled = 0, failed = 0;
  uint64_t dispatches = 0, requeues = 0, tokens = 0;
  uint64_t preemptions = 0;  ///< sequences whose replica ran out of blocks
  /// Report entries of an earlier attempt, epoch or a request that has ended.
  uint64_t stale_entries = 0;
  uint64_t gap_failures = 0;    ///< requests failed because a report skipped tokens
  uint64_t predicted = 0;       ///< laws that reached a live request: while it waited,
  uint64_t predicted_late = 0;  ///< or when it was bound or had ended
  uint64_t probed = 0;          ///< laws of the probe that counted
  uint64_t rekeyed_all = 0;  ///< passes over the whole queue: beta's level or the population moved
};

class SchedulerCore {
 public:
  /// `table`: where options.policy is a row; it outlives the core.
  explicit SchedulerCore(const CoreOptions& options, PolicyTable table = policies());

  /// Takes one event and appends what follows from it to `out`. `now` never runs backwards.
  void handle(Time now, const CoreEvent& event, std::vector<CoreCommand>& out);

  /// When handle(Tick) is due at the latest; Time::max() when nothing waits for time.
  Time next_deadline() const;

  struct ReplicaView {
    bool joined = false;
    bool draining = false;
    Epoch epoch;
    Epoch drained;  ///< its last life that ended by draining; 0 = none
    uint32_t slots = 0;
    uint32_t slots_in_use = 0;  ///< by samples that have not ended, those ahead not counted
    uint32_t requests = 0;      ///< dispatched and not ended, those ahead counted
    uint32_t ahead = 0;
    uint64_t commands_in_flight = 0;  ///< said, and not yet taken into account by a report
    uint32_t free_blocks = 0, num_blocks = 0, running_sequences = 0;  ///< as last reported
  };
  ReplicaView replica(ReplicaId id) const;
  uint32_t joined_replicas() const { return replicas_.joined(); }
  uint32_t leaving_replicas() const { return replicas_.leaving(); }
  /// Replicas that have ever joined have lower numbers.
  uint32_t known_replicas() const { return static_cast<uint32_t>(replicas_.all().size()); }
  /// Whether no other replica serves.
  bool is_last(ReplicaId id) const { return replicas_.is_last(id); }
  uint32_t waiting() const { return waiting_.size(); }  ///< requests, unbound
  uint32_t live() const { return requests_.live(); }    ///< requests, waiting or bound
  double beta() const { return waiting_.beta(); }
  /// The slot of a live request, as its Accept named it; kNoSlot when there is none such.
  static constexpr uint32_t kNoSlot = RequestBook::kNone;
  uint32_t slot_of(RequestId id) const { return requests_.find(id); }
  /// The same, for a replica's word: kNoSlot too when it is not of this life and attempt.
  uint32_t slot_of(const Envelope& from, RequestId id, Attempt attempt) const {
    return replicas_.is_current(from.replica, from.epoch)
               ? requests_.find(from.replica, id, attempt)
               : kNoSlot;
  }
  /// How a live request stands, for people. Cost: O(1).
  struct Standing {
    bool live = false, waiting = false;
    uint32_t slot = kNoSlot;
    bool probed = false;   ///< the law is the probe's
    LengthLaw law;         ///< kind none: the population's
    tie::Moments moments;  ///< of the work left; all 0 when the policy needs no law
    double key = 0;
  };
  Standing standing(RequestId id) const;
  /// Its place among the waiting requests: 1 = next, 0 = it does not wait. Cost: O(live requests).
  uint32_t place(RequestId id) const;
  const CoreCounters& counters() const { return counters_; }
  const CoreOptions& options() const { return options_; }
  const PolicyRow& policy() const { return waiting_.policy(); }

  /// Aborts when any invariant is broken. Cost: O(everything).
  void check_integrity() const;

 private:
  void on(const Arrived& event);
  void on(const Abandoned& event);
  void on(const FromReplica& event);
  void on(const Envelope& from, const Hello& hello);
  void on(const Envelope& from, const StepReport& report);
  void on(const Envelope& from, const Drained&);
  void on(const Envelope&, const auto&) {}  // a heartbeat: the driver's
  void on(const ReplicaLost& event);
  void on(const DrainReplica& event);
  void on(const PredictorHello& event);
  void on(const Predicted& event);
  void on(const Tick&) {}
  void on(const Stop&);

  void on_progress(ReplicaId from, const SequenceProgress& progress, uint32_t entry);
  void on_probed(ReplicaId from, const LawProbed& probed);
  void learn(uint32_t slot, LawSource source, const LengthLaw& law, uint32_t generated);
  void expire_deadlines();
  void dispatch_waiting();
  void dispatch(uint32_t slot, ReplicaId replica);
  void promote_ahead(ReplicaId replica);
  void unbind(uint32_t slot);
  void leave(ReplicaId replica, bool lost);
  void look_who_comes();
  void end_waiting();
  void requeue(uint32_t slot, bool lost);
  void cancel_on_replica(uint32_t slot);
  void abort(uint32_t slot, FinishReason reason, Error error);
  void finish(uint32_t slot, FinishReason reason, Error error);
  Duration retry_after() const;
  void note_completion();
  template <class Command>
  void say(Command command) {
    out_->emplace_back(std::move(command));
  }
  void say_to(ReplicaId replica, WorkerCommand command);

  const CoreOptions options_;
  CoreCounters counters_;

  // During handle() only.
  Time now_{};
  std::vector<CoreCommand>* out_ = nullptr;

  RequestBook requests_;
  WaitingQueue waiting_;
  tie::PriorityQueue deadlines_;  // by slot; `arrival` = the deadline in ns, `id` = the slot
  ReplicaBook replicas_;
  RequestId last_id_;
  bool stopping_ = false;
  bool nobody_comes_ = false;  // all replicas drain or have drained

  Time last_completion_{};
  bool completion_seen_ = false;
  Duration completion_interval_{};  // moving mean while requests waited; 0 = unknown
};

}  // namespace tailor::coordinator
