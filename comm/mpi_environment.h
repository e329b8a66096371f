// MPI's life in one process: Init, Finalize, who we are in the world, and the replica's
// communicator. Owned and called by the main thread only (MPI_THREAD_FUNNELED). One per process,
// made by a main before any thread starts.
//
// One failure domain = one mpirun: usually a replica is a world of its own. Where a batch system
// allows one launch only, the single MPMD line puts the coordinator (one rank) first and then every
// replica as one application of `tp` ranks.
#pragma once

#include <memory>
#include <vector>

#include "base/result.h"

namespace tailor::comm {

/// A communicator as MPI's portable integer handle, so that no header needs mpi.h. Owned by the
/// MpiEnvironment.
struct MpiCommunicator {
  int fortran_handle = 0;
};

class MpiEnvironment {
 public:
  /// MPI_Init_thread(FUNNELED); errors are returned from then on (MPI_ERRORS_RETURN). `argc`/`argv`
  /// may be null. Errors: Unavailable (MPI refused, or is already initialised).
  static Result<std::unique_ptr<MpiEnvironment>> start(int* argc, char*** argv);

  /// MPI_Finalize, which waits for all ranks of the world: after a failed collective call abandon()
  /// first.
  ~MpiEnvironment();
  MpiEnvironment(const MpiEnvironment&) = delete;
  MpiEnvironment& operator=(const MpiEnvironment&) = delete;

  int world_rank() const { return world_rank_; }
  int world_size() const { return world_size_; }
  /// Which application of an MPMD line this is (MPI_APPNUM); 0 where there is only one.
  int app_number() const { return app_number_; }

  /// The replica this rank belongs to: 0 where the replica is its own world, otherwise one less
  /// than app_number().
  int replica(int tp_size) const { return world_size_ == tp_size ? 0 : app_number_ - 1; }

  /// A new communicator of the `tp_size` ranks of this rank's replica, tp rank 0 first: a duplicate
  /// of the world where the world is the replica, otherwise world ranks 1 + replica * tp_size and
  /// on (rank 0 is the coordinator, which takes part in nothing). Every rank of the replica calls
  /// it, in the same order. Blocks until they have (MPI_Init has met all of them before, so only a
  /// rank that dies in between can stop it, and then mpirun takes the group down). Errors:
  /// InvalidArgument (the launch line does not fit tp_size; the message says which does), Internal.
  Result<MpiCommunicator> replica_communicator(int tp_size);

  /// A new communicator of all workers of this launch: the world, less the coordinator where it is
  /// one of it. They all call it, in the same order; blocks and fails as replica_communicator.
  Result<MpiCommunicator> workers_communicator(int tp_size);

  /// Leaves without MPI_Finalize, which would wait for a peer that is gone. The process should then
  /// exit non-zero soon: mpirun takes the group down.
  void abandon() { abandoned_ = true; }

 private:
  MpiEnvironment() = default;
  Result<MpiCommunicator> communicator_of(int first, int size, int tag);

  int world_rank_ = 0;
  int world_size_ = 1;
  int app_number_ = 0;
  bool abandoned_ = false;
  std::vector<MpiCommunicator> communicators_;
};

}  // namespace tailor::comm
