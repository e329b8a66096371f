// Collective over MPI: the CPU transport of a replica's tensor-parallel ranks. Called by the rank's
// main thread only.
//
// Point-to-point messages (MPI_Isend/Irecv and Testsome) rather than MPI's collectives, for two
// reasons: every wait has a deadline and can name the peers it still waits for, and it is the
// fastest way to wait. Waiting spins a few times, then yields the core, then sleeps: with more
// ranks than cores MPI's blocking calls starve each other (measured on 2 cores, all_gather of 16 KB
// by 3 ranks: 8 ms blocking, 45 us blocking with yield_when_idle, 25 us this way; by 2 ranks: 5 us
// each way).
#pragma once

#include <memory>

#include "base/time.h"
#include "comm/collective.h"
#include "comm/mpi_environment.h"

namespace tailor::comm {

struct MpiCollectiveOptions {
  Duration deadline = seconds(30);       ///< of every wait
  Duration yield_for = milliseconds(2);  ///< a wait yields this long, then sleeps between looks
  Duration sleep_between = microseconds(50);  ///< at first; grows to 20 times that in a long wait
};

/// The Collective of the ranks of `communicator`, which must outlive it; one per communicator.
/// Errors of its calls: InvalidArgument, LimitExceeded (nothing was sent), Timeout (names the
/// peers), Internal (a peer's part had another size; MPI's own words). After Timeout or Internal
/// every call fails at once: the rank must MpiEnvironment::abandon() and leave the process, since
/// messages under way may still refer to its buffers. A rank that called another operation than its
/// peers looks like an absent one: Timeout.
std::unique_ptr<Collective> make_mpi_collective(MpiCommunicator communicator,
                                                const MpiCollectiveOptions& options = {});

}  // namespace tailor::comm
