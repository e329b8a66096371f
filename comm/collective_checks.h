// What every Collective checks and says the same way: arguments before any byte moves, and names of
// ranks in errors.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/time.h"

namespace tailor::comm {

/// What ranks can be asked to do together, and what errors call it.
enum class Operation : uint8_t { kBroadcast, kAllGather, kGather, kBarrier };
const char* name(Operation operation);

/// Errors: InvalidArgument when `root` is no rank of a group of `size`.
Result<void> check_root(const char* operation, int root, int size);

/// Errors: InvalidArgument when `out_bytes` is not `size * mine_bytes`; LimitExceeded when one
/// rank's part is over INT_MAX bytes (MPI counts in int).
Result<void> check_gathered_sizes(const char* operation, size_t mine_bytes, size_t out_bytes,
                                  int size);

/// Errors: LimitExceeded when `bytes` is over INT_MAX.
Result<void> check_bytes(const char* operation, size_t bytes);

/// "rank 1", "ranks 0 and 2", "ranks 0, 2 and 3", "no rank".
std::string name_ranks(const std::vector<int>& ranks);

/// "all_gather #17 on rank 0 of 3: no answer from rank 2 within 5.000 s".
Error timeout_error(const char* operation, uint64_t sequence, int rank, int size,
                    const std::vector<int>& missing, Duration deadline);

}  // namespace tailor::comm
