// Collective through memory shared by the ranks of one host: the CPU transport of a replica that
// lies on one host. Bit-equal to the others, and several times cheaper than MPI for messages of a
// few KB (docs/decisions/006). Called by the rank's main thread only; no thread of its own.
//
// How: every call is one or more rounds, a round moves at most `slot_bytes` of each rank. A rank
// writes its part into its own slot of that round (two slots, used in turn) and stores the round's
// number into its own word; the others wait for that word and copy. A rank enters round n only when
// all have entered n - 1, which tells that all have read what it wrote in n - 2: so an all_gather
// needs one meeting, not two. Words, slots and sleeper counts have their own cache lines, each
// written by one rank.
//
// Waiting: spins, then yields the core, then sleeps in a futex, whose waker makes a system call
// only if somebody sleeps there.
#pragma once

#include <memory>
#include <vector>

#include "base/time.h"
#include "comm/collective.h"
#include "comm/shared_segment.h"

namespace tailor::comm {

struct ShmOptions {
  Duration deadline = seconds(30);         ///< of every call, from its first wait
  Duration spin = microseconds(50);        ///< at most, and where every rank has a core of its own
  Duration yield_for = microseconds(200);  ///< after the spin; then a wait sleeps
  size_t slot_bytes = 256 * 1024;          ///< a longer message goes in pieces of this size
  int ranks_on_host = 0;                   ///< that compute on these cores; 0 = the group's size
  SegmentKind segment = SegmentKind::kAny;
};

/// Whether all ranks of `bootstrap` are on one host and see the same memory, found out by trying
/// it. Called by every rank, all get the same answer. Errors: those of `bootstrap`.
Result<bool> ranks_share_host(Collective& bootstrap);

/// The Collective of the ranks of `bootstrap`, which is used only to make it. Called by every rank
/// with the same options; all succeed or all fail. Nothing stays in /dev/shm.
/// Errors: InvalidArgument, and those of SharedSegment::open.
/// Errors of its calls: InvalidArgument, LimitExceeded (nothing was sent), Timeout (names the ranks
/// that did not come), Internal (ranks called different operations or sizes: names both; or a rank
/// has left the group, by an error or by destroying its Collective). After Timeout or Internal
/// every call fails at once, and so does every rank that waits for this one.
Result<std::unique_ptr<Collective>> make_shm_collective(Collective& bootstrap,
                                                        const ShmOptions& options = {});

/// All ranks of a group inside this process, one thread each (or processes it forks): [rank].
/// One mapping serves all, so that the thread sanitizer sees that they share it.
/// Errors: InvalidArgument, LimitExceeded.
Result<std::vector<std::unique_ptr<Collective>>> make_shm_collectives_of_process(
    int size, const ShmOptions& options = {});

}  // namespace tailor::comm
