// ReplicaBook: what the scheduler core knows of its replicas: who has joined and in which life
// (epoch), how many slots and blocks each has and uses, what is kept ahead of its slots, whether it
// drains, how many commands were said to it and how many its reports know of.
//
// A request takes a slot for each of its open samples, or waits ahead: bound to the replica beyond
// its slots, at most `ahead_limit` requests each, oldest first (to hide the hop). The book counts;
// which request is ahead stands in the request too (LiveRequest::ahead), which the core keeps in
// step. Pure; owned by the core. Cost: O(ahead) each, O(replicas) where it says so.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "base/messages.h"

namespace tailor::coordinator {

class RequestBook;

struct Replica {
  struct Ahead {
    uint32_t slot = 0;  ///< of the request book
    uint32_t samples = 0;
  };

  bool known = false;  ///< has ever joined
  bool joined = false;
  bool draining = false;
  bool left = false;  ///< it drained: nobody waits for it any more
  Epoch epoch;
  Epoch drained;          ///< the last of its lives that ended by draining; 0 = none
  uint64_t commands = 0;  ///< said in this epoch
  uint64_t applied = 0;   ///< of which its reports know
  uint32_t slots = 0;
  uint32_t in_use = 0;    ///< by open samples of bound requests, those ahead not counted
  uint32_t requests = 0;  ///< bound, those ahead counted
  uint32_t num_blocks = 0, free_blocks = 0, running = 0;  ///< as last reported
  std::vector<Ahead> ahead;                               ///< oldest first

  bool usable() const { return joined && !draining; }
  bool lost() const { return known && !joined && !left; }  ///< it is expected back
  /// More samples than slots have the replica to themselves and run in turns.
  bool has_room(uint32_t samples) const { return in_use == 0 || in_use + samples <= slots; }
  /// Nobody is in front of it, and it has room.
  bool starts(uint32_t samples) const { return ahead.empty() && has_room(samples); }
  /// Once those ahead have theirs; may be negative.
  int64_t free_slots() const;
  double kv_use() const {
    return num_blocks == 0 ? 0.0 : 1.0 - static_cast<double>(free_blocks) / num_blocks;
  }
};

class ReplicaBook {
 public:
  static constexpr uint32_t kMaxReplicas = 4096;
  static constexpr uint32_t kMaxSlots = 1u << 16;  ///< of one replica

  /// Epochs begin above `epoch_base`.
  ReplicaBook(uint32_t ahead_limit, uint32_t epoch_base)
      : ahead_limit_(ahead_limit), epoch_base_(epoch_base) {}

  std::span<const Replica> all() const { return replicas_; }  ///< by number
  const Replica& operator[](ReplicaId id) const { return replicas_[id.value]; }
  /// Whether it has ever joined.
  bool knows(ReplicaId id) const;
  /// Whether the word of this life counts.
  bool is_current(ReplicaId id, Epoch epoch) const;
  uint32_t ahead_limit() const { return ahead_limit_; }
  /// Where the next search for a replica begins: behind the one that was bound to last.
  uint32_t turn() const { return turn_; }
  uint32_t joined() const;        ///< Cost: O(replicas)
  uint32_t usable_slots() const;  ///< Cost: O(replicas)
  uint32_t leaving() const;       ///< that drain or have drained. Cost: O(replicas)
  /// All `expected` drain or have drained: none serves, none is lost and expected back. Cost:
  /// O(replicas).
  bool nobody_comes(uint32_t expected) const;
  bool is_last(ReplicaId id) const;  ///< no other one is usable. Cost: O(replicas)

  /// A life begins: nothing is bound to it, its epoch is the next.
  void join(ReplicaId id, const ReplicaInfo& info);
  /// It ends: lost, or for good. What was bound is unbound by the owner, one by one.
  void leave(ReplicaId id, bool lost);
  void drain(ReplicaId id) { at(id).draining = true; }
  /// The envelope of the next command to it: counted.
  Envelope address(ReplicaId id);
  /// The numbers of a report of its present life.
  void take(ReplicaId id, const StepReport& report);

  /// A request with so many open samples goes there; true: ahead.
  bool bind(ReplicaId id, uint32_t slot, uint32_t samples);
  /// One that was ahead has its slots from now on: its first report says so.
  void start(ReplicaId id, uint32_t slot, uint32_t samples);
  /// The oldest that is ahead gets its slots; nullopt: nobody is, or they are not free yet.
  std::optional<uint32_t> promote(ReplicaId id);
  void sample_ended(ReplicaId id) { --at(id).in_use; }
  /// Off its books: `samples` = those still open.
  void unbind(ReplicaId id, uint32_t slot, uint32_t samples, bool ahead);

  /// Aborts when what is counted is not what the requests say. Cost: O(everything).
  void check_integrity(const RequestBook& requests) const;

 private:
  Replica& at(ReplicaId id) { return replicas_[id.value]; }

  const uint32_t ahead_limit_;
  const uint32_t epoch_base_;
  std::vector<Replica> replicas_;
  uint32_t turn_ = 0;
};

}  // namespace tailor::coordinator
