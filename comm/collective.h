// Collective: moves bytes between the tensor-parallel ranks of one replica. It adds nothing up:
// reductions are ours (parallel/reduction.h: fixed units, one fixed tree), so that every transport
// is bit-equal.
//
// Implementations: comm/collective_inprocess.h (threads of one process, tests),
// comm/collective_shm.h (CPU, ranks of one host), comm/collective_mpi.h (CPU),
// comm/collective_nccl.h (device pointers on a CUDA stream). One caller: the rank's main thread.
#pragma once

#include <cstddef>
#include <span>

#include "base/result.h"

namespace tailor::comm {

class Collective {
 public:
  virtual ~Collective() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;

  /// Copies `data` of rank `root` into `data` of every rank; sizes must agree.
  /// Errors: Timeout (names the operation and its deadline), Internal (transport). After an error
  /// the group is unusable: the rank must leave, and its launcher takes the group down.
  virtual Result<void> broadcast(std::span<std::byte> data, int root) = 0;

  /// `out` [size() * mine.size()] receives every rank's `mine` in rank order; sizes must agree on
  /// all ranks.
  virtual Result<void> all_gather(std::span<const std::byte> mine, std::span<std::byte> out) = 0;

  /// As all_gather, but only rank `root` receives (`out` may be empty elsewhere).
  virtual Result<void> gather(std::span<const std::byte> mine, std::span<std::byte> out,
                              int root) = 0;

  /// Returns when every rank has called it.
  virtual Result<void> barrier() = 0;
};

}  // namespace tailor::comm
