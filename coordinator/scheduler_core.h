// SchedulerCore: every decision of the cluster about requests. Which one runs next and on which
// replica, who gets in, who has waited too long, what happens to the work of a replica that is
// gone. A pure state machine: it is told (now, event) and answers with commands; it knows no clock,
// socket, thread or text. The live coordinator (coordinator_loop.h) and the simulator drive the
// very same object, and a log of its events replays to the same commands (event_log.h).
//
// Life of a request here:
//
//   Arrived ──► Reject (queue full, n too large, stopping)
//      │
//      └─► Accept ─► waiting ──Dispatch──► bound to a replica ──StepReport─► Emit ... Emit ─►
//      Finish
//                       ▲                        │
//                       └── ReplicaLost, drain ◄─┘   (its arrival never changed; its key is that of
//                                                     the work it has left)
//
// Late binding. Accepted requests wait unbound, one heap per priority class; classes are strict,
// inside a class the policy's key orders, then arrival, then id. A request is bound only when a
// replica has room: a free slot for each of its n samples (or no other request, when n is above its
// slots), or a place among the `ahead` (at most 2 requests a replica is kept ahead, to hide the
// hop). Of the replicas with room the one with most free slots wins, then the one with the smaller
// share of KV blocks in use, then the next in turn. The head of the queue is never overtaken inside
// its class or by a lower class.
//
// Laws. Where the policy needs one (ranking.h) the key comes from the law of the request's length:
// the predictor's (Predicted) or, better, the worker's probe's (LawProbed); until somebody has said
// anything, and for good if nobody does, the population law. A new law re-keys a waiting request at
// once and is kept for a bound one should it wait again. Nothing ever waits for a law. With n > 1
// the work is the longest of the samples (tie/law_of_largest.h), and what single samples have
// generated is not looked at. When beta's level moves and the policy asks for it, all waiting keys
// are made anew in one O(n) pass.
//
// Exactly once. Every accepted request ends in exactly one Finish; what is reported later for it is
// ignored. An entry of a report counts only when replica, epoch and attempt are the current ones
// and its tokens join those seen: repeats are skipped (Emit::skip), a gap fails the request
// rather than show wrong text.
//
// Loss. A lost replica's requests wait again where they were, with the tokens they have; the next
// attempt continues behind them. After `max_losses` lost attempts a request fails with ReplicaLost
// (it may be what kills replicas).
//
// Frugal: no allocation, string hash or virtual call per sequence and step once the tables have
// grown (scheduler_core_frugal_test counts). Cost: Arrived, Dispatch, Finish O(log waiting +
// replicas); one report entry O(1); ReplicaJoined and ReplicaLost O(live requests).
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <vector>

#include "coordinator/core_messages.h"
#include "coordinator/id_table.h"
#include "coordinator/ranking.h"
#include "tie/law.h"
#include "tie/priority_queue.h"
#include "tie/score.h"

namespace tailor::coordinator {

struct CoreOptions {
  Policy policy;
  LengthLaw
      population;  ///< for requests nobody has predicted; kind none: tie::default_population()
  uint32_t queue_limit = 1024;     ///< requests waiting unbound; more are rejected with QueueFull
  uint32_t ahead_requests = 2;     ///< per replica, dispatched beyond its slots
  uint32_t max_losses = 4;         ///< lost attempts before a request fails
  uint32_t expected_replicas = 1;  ///< the cluster is ready when so many have joined
  uint32_t epoch_base = 0;  ///< epochs begin above it: no two coordinators' epochs are the same
  Duration retry_after_min = milliseconds(100);
  Duration retry_after_max = seconds(30);
};

struct CoreCounters {
  uint64_t accepted = 0, rejected = 0, finished = 0, cancelled = 0, failed = 0;
  uint64_t dispatches = 0, requeues = 0, tokens = 0;
  uint64_t preemptions = 0;  ///< sequences whose replica ran out of blocks
  uint64_t stale_entries =
      0;  ///< report entries of an earlier attempt, epoch or a request that has ended
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
    uint32_t slots = 0;
    uint32_t slots_in_use = 0;  ///< by samples that have not ended, those ahead not counted
    uint32_t requests = 0;      ///< dispatched and not ended, those ahead counted
    uint32_t ahead = 0;
    uint64_t commands_in_flight = 0;  ///< said, and not yet taken into account by a report
    uint32_t free_blocks = 0, num_blocks = 0, running_sequences = 0;  ///< as last reported
  };
  ReplicaView replica(ReplicaId id) const;
  uint32_t joined_replicas() const;
  uint32_t waiting() const;  ///< requests, unbound
  uint32_t live() const {
    return static_cast<uint32_t>(by_id_.size());
  }  ///< requests, waiting or bound
  double beta() const { return beta_.value(); }
  /// The slot of a live request, as its Accept named it; kNoSlot when there is none such.
  static constexpr uint32_t kNoSlot = IdTable::kNone;
  uint32_t slot_of(RequestId id) const { return by_id_.find(id); }
  /// How a live request stands, for people. Cost: O(1).
  struct Standing {
    bool live = false, waiting = false;
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
  const PolicyRow& policy() const { return policy_; }

  /// Aborts when any invariant is broken. Cost: O(everything).
  void check_integrity() const;

 private:
  using Handle = tie::PriorityQueue::Handle;
  enum class State : uint8_t { kFree, kWaiting, kBound };
  struct Sample {
    uint32_t tokens = 0;
    FinishReason finish = FinishReason::kNone;
  };
  /// A live request.
  struct Entry {
    State state = State::kFree;
    bool ahead = false;  // bound, but beyond the replica's slots
    uint8_t priority = 0;
    RequestId id;
    Attempt attempt;  // of the current or last dispatch; 0 before the first
    uint32_t losses = 0;
    uint32_t open_samples = 0;  // not ended
    uint32_t ended_before =
        0;  // samples that had ended when this attempt began: the worker may run them again
    uint32_t num_samples = 1;
    uint32_t prompt_tokens = 0, max_tokens = 0;
    LengthLaw law;               // kind none: the population's
    uint32_t law_generated = 0;  // `law` is of the tokens behind so many
    bool law_probed = false;
    tie::Moments moments;  // of the work left, when it last began to wait
    Time arrival;
    ReplicaId replica;                                   // when bound
    Handle queue_handle = tie::PriorityQueue::kNone;     // when waiting
    Handle deadline_handle = tie::PriorityQueue::kNone;  // when it has a deadline
    std::vector<Sample> samples;  // keeps its capacity when the slot is reused
  };
  struct Replica {
    bool known = false;  // has ever joined
    bool joined = false;
    bool draining = false;
    Epoch epoch;
    uint64_t commands = 0;  // said in this epoch
    uint64_t applied = 0;   // of which its reports know
    uint32_t slots = 0;
    uint32_t in_use = 0;
    uint32_t requests = 0;
    uint32_t num_blocks = 0, free_blocks = 0, running = 0;
    std::vector<uint32_t> ahead;  // slots of entries, oldest first

    bool usable() const { return joined && !draining; }
    /// More samples than slots have the replica to themselves and run in turns.
    bool has_room(uint32_t samples) const { return in_use == 0 || in_use + samples <= slots; }
    double kv_use() const {
      return num_blocks == 0 ? 0.0 : 1.0 - static_cast<double>(free_blocks) / num_blocks;
    }
  };

  void on(const Arrived& event);
  void on(const Abandoned& event);
  void on(const FromReplica& event);
  void on(const Envelope& from, const Hello& hello);
  void on(const Envelope& from, const StepReport& report);
  void on(const Envelope& from, const Drained&);
  void on(const Envelope&, const Heartbeat&) {}  // the driver's
  void on(const ReplicaLost& event);
  void on(const DrainReplica& event);
  void on(const PredictorHello& event) { take_population(event.population); }
  void on(const Predicted& event);
  void on(const Tick&) {}
  void on(const Stop&);

  void on_progress(Replica& replica, ReplicaId id, const StepReport& report, uint32_t index);
  void on_probed(ReplicaId replica, const LawProbed& probed);
  void take_population(const LengthLaw& law);
  void expire_deadlines();
  void dispatch_waiting();
  uint32_t choose_replica(uint32_t samples) const;
  void dispatch(uint32_t slot, uint32_t replica);
  void enqueue(uint32_t slot);
  void learn(uint32_t slot, const LengthLaw& law, uint32_t generated);
  tie::Moments work_left(const Entry& entry) const;
  double key_of(const Entry& entry, const tie::Moments& work_left) const;
  void follow_beta();
  void rekey_all();
  uint32_t usable_slots() const;
  void unbind(uint32_t slot);
  void leave(uint32_t replica, bool lost);
  void requeue(uint32_t slot, bool lost);
  void promote_ahead(Replica& replica);
  void place(Replica& replica, uint32_t slot);
  void cancel_on_replica(const Entry& entry);
  void finish(uint32_t slot, FinishReason reason, Error error);
  Duration retry_after() const;
  void note_completion();
  Replica* current(ReplicaId id, Epoch epoch);
  template <class Command>
  void say(Command command) {
    out_->emplace_back(std::move(command));
  }
  void say_to(uint32_t replica, WorkerCommand command);

  const CoreOptions options_;
  const PolicyRow& policy_;
  CoreCounters counters_;
  std::optional<tie::LawMath> math_;  // when the policy needs laws
  LengthLaw population_;              // never of kind none then
  tie::BetaLevel beta_;

  // During handle() only.
  Time now_{};
  std::vector<CoreCommand>* out_ = nullptr;

  std::vector<Entry> entries_;
  std::vector<uint32_t> free_entries_;
  IdTable by_id_;
  RequestId last_id_;
  std::array<tie::PriorityQueue, kNumPriorityClasses> waiting_;
  tie::PriorityQueue deadlines_;  // `arrival` = the deadline in ns, `id` = the entry's slot

  std::vector<Replica> replicas_;
  uint32_t turn_ = 0;  // where the next search for a replica begins
  bool stopping_ = false;

  Time last_completion_{};
  bool completion_seen_ = false;
  Duration completion_interval_{};  // moving mean while requests waited; 0 = unknown
};

}  // namespace tailor::coordinator
