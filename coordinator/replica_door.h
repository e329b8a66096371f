// ReplicaDoor: what replicas say and are told. A Hello that fits the cluster, reports and farewells
// go to the core, from the connection that speaks for their replica only; heartbeats stay here:
// they say who lives (replica_links.h), and a replica with a silent rank is lost. Commands go to
// the connection that their epoch joined on. A report's payload is kept at hand while the core is
// told of its numbers. Owner: the coordinator's main thread.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "base/messages.h"
#include "base/payload.h"
#include "comm/coordinator_io.h"
#include "coordinator/replica_links.h"
#include "coordinator/scheduler_core.h"

namespace tailor::coordinator {

class ReplicaDoor {
 public:
  /// The rest of the coordinator. What is told is handled, and its commands are carried out, when
  /// `tell` returns.
  struct Outside {
    std::function<void(const CoreEvent&)> tell;
    std::function<void()> contexts_changed;  ///< links().max_context() may be another now
    /// Of a lost replica: whoever started it ends what may be left of it. Must not block; none:
    /// nobody is told.
    std::function<void(const ReplicaInfo&)> lost;
    std::function<void(ReplicaId)> drained;  ///< the same of one that has drained
  };
  /// `core` (looked at only) and `io` outlive the door.
  ReplicaDoor(Duration heartbeat_timeout, const SchedulerCore& core, comm::CoordinatorIo& io,
              Outside outside)
      : core_(core), io_(io), outside_(std::move(outside)), links_(heartbeat_timeout) {}

  void on(comm::FromWorker& input, Time now);
  /// Loses the replicas of which a rank has been silent for too long.
  void keep_house(Time now);
  /// This process itself did not run for so long: nobody could be heard.
  void forgive(Duration pause) { links_.forgive(pause); }

  /// A command of the core; a Welcome lets the replica that has just said Hello join. Dropped where
  /// its replica has just left.
  void send(const ToReplica& message, DispatchPayload payload, Time now);

  /// Of the report that the core is being told of: an entry, and what came with it. In their order,
  /// as the core names them; not each need be asked for.
  struct Entry {
    const SequenceProgress& progress;
    const ProgressParts& parts;
  };
  Entry entry(uint32_t index);

  const ReplicaLinks& links() const { return links_; }
  uint64_t lost() const { return lost_; }
  uint64_t refused() const { return refused_; }
  uint64_t drained() const { return drained_; }

 private:
  struct Joining {
    comm::LinkId link;
    ReplicaInfo info;
  };

  void greet(comm::LinkId link, const Envelope& from, Hello& hello);
  void hear(comm::LinkId link, const Envelope& from, const Heartbeat& beat, Time now);
  void part(const Envelope& from);
  void lose(ReplicaId replica, const std::string& why);
  void join(const Envelope& welcome, Time now);
  void say(const ToReplica& message, DispatchPayload payload = {});

  const SchedulerCore& core_;
  comm::CoordinatorIo& io_;
  const Outside outside_;
  ReplicaLinks links_;
  uint64_t lost_ = 0, refused_ = 0, drained_ = 0;

  // While the core is told of it.
  std::optional<Joining> joining_;
  const StepReport* report_ = nullptr;
  std::optional<PayloadReader> payload_;
  ProgressParts parts_;    // of the entry that was read last
  uint32_t num_read_ = 0;  // entries
};

}  // namespace tailor::coordinator
