// ReplicaLinks: which connection speaks for which replica, whether all its ranks still live, and
// what its steps have cost. Liveness: every rank's io thread sends a heartbeat each 100 ms; a
// replica with a rank silent for `heartbeat_timeout` is lost. The numbers feed Status. Pure: time
// is passed in. Owner: the coordinator's main thread.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/api.h"
#include "base/ids.h"
#include "base/messages.h"
#include "base/time.h"
#include "comm/coordinator_io.h"

namespace tailor::coordinator {

class ReplicaLinks {
 public:
  explicit ReplicaLinks(Duration heartbeat_timeout) : heartbeat_timeout_(heartbeat_timeout) {}

  struct Link {
    comm::LinkId link;
    Epoch epoch;
    ReplicaInfo info;
    std::vector<Time> heard;  ///< by rank
    // Steps since Hello.
    uint64_t steps = 0, tokens = 0;
    Duration busy{}, forward{}, sample{};
    double step_ms = 0, forward_ms = 0, step_tokens = 0;  ///< moving means
  };

  /// The sentence why this replica may not join beside those that have; nothing when it may.
  std::optional<std::string> objection(ReplicaId replica, const Hello& hello) const;
  /// The same process says Hello again on the same connection: its Welcome is still on the way.
  bool repeated(comm::LinkId link, ReplicaId replica, const Hello& hello) const;

  void joined(ReplicaId replica, Epoch epoch, comm::LinkId link, const ReplicaInfo& info, Time now);
  /// It is lost; its context is remembered, for it is expected back.
  void left(ReplicaId replica) { links_.erase(replica); }
  /// It left for good: nobody waits for it any more.
  void drained(ReplicaId replica);
  void heard(const Envelope& from, const Heartbeat& heartbeat, comm::LinkId link, Time now);
  /// A leader that serves an epoch of its replica which is over (it was lost, or another took its
  /// number) and does not know it.
  bool is_stale(const Envelope& from, const Heartbeat& heartbeat) const;
  void stepped(ReplicaId replica, const StepReport& report, Time now);
  /// This process itself did not run for so long: nobody could be heard.
  void forgive(Duration pause);

  Link* find(ReplicaId replica);
  /// The leader of `replica`, joined, speaks on `link`.
  bool speaks(comm::LinkId link, ReplicaId replica) const;
  struct Silent {
    ReplicaId replica;
    uint32_t rank = 0;
    Duration silence{};
  };
  std::vector<Silent> silent(Time now) const;
  size_t size() const { return links_.size(); }
  const std::map<ReplicaId, Link>& all() const { return links_; }
  /// The tokens that prompt and answer may have together on every replica that has joined, the lost
  /// ones included; at most `model_context`.
  uint32_t max_context(uint32_t model_context) const;

 private:
  const Duration heartbeat_timeout_;
  std::map<ReplicaId, Link> links_;
  std::map<ReplicaId, uint32_t> contexts_;  // of those joined or lost, bounded by kMaxReplicas
};

}  // namespace tailor::coordinator
