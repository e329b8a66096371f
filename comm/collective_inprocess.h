// Collective between threads of one process, one thread per rank: for tests and for parity of tp 2
// and 3 without mpirun. Passes the same conformance tests as MPI
// (tests/comm/collective_conformance.h), bit-equal.
//
// How: each rank copies what it sends into a slot of the group, arrives, and waits for the others.
// Slots alternate between two sets; a rank can only write a set again once all have arrived at the
// call between, so all have read it.
#pragma once

#include <memory>

#include "base/time.h"
#include "comm/collective.h"

namespace tailor::comm {

/// What the ranks share. Lives until the last rank's Collective is gone.
class InProcessGroup {
 public:
  /// `deadline` bounds every wait of every rank. `size` >= 1.
  InProcessGroup(int size, Duration deadline);
  ~InProcessGroup();
  InProcessGroup(const InProcessGroup&) = delete;
  InProcessGroup& operator=(const InProcessGroup&) = delete;

  /// The face of `rank`, to be used by one thread at a time. Each rank joins once.
  /// Errors of its calls: Timeout (names who is missing), Internal (ranks called different
  /// operations or sizes, or the group was broken by an earlier error: then at once).
  std::unique_ptr<Collective> join(int rank);

  struct Shared;  ///< defined in the source

 private:
  std::shared_ptr<Shared> shared_;
};

}  // namespace tailor::comm
