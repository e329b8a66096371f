#include "comm/collective_checks.h"

#include <climits>
#include <cstdio>

namespace tailor::comm {

const char* name(Operation operation) {
  switch (operation) {
    case Operation::kBroadcast:
      return "broadcast";
    case Operation::kAllGather:
      return "all_gather";
    case Operation::kGather:
      return "gather";
    case Operation::kBarrier:
      return "barrier";
  }
  return "?";
}

Result<void> check_root(const char* operation, int root, int size) {
  if (root >= 0 && root < size) return {};
  return fail(ErrorCode::kInvalidArgument,
              std::string(operation) + ": root must be a rank from 0 to " +
                  std::to_string(size - 1) + ", found " + std::to_string(root));
}

Result<void> check_bytes(const char* operation, size_t bytes) {
  if (bytes <= static_cast<size_t>(INT_MAX)) return {};
  return fail(ErrorCode::kLimitExceeded, std::string(operation) + ": one rank may send at most " +
                                             std::to_string(INT_MAX) + " bytes at once, found " +
                                             std::to_string(bytes));
}

Result<void> check_gathered_sizes(const char* operation, size_t mine_bytes, size_t out_bytes,
                                  int size) {
  TAILOR_TRY(check_bytes(operation, mine_bytes));
  const size_t expected = mine_bytes * static_cast<size_t>(size);
  if (out_bytes == expected) return {};
  return fail(ErrorCode::kInvalidArgument,
              std::string(operation) + ": out must hold " + std::to_string(size) + " ranks x " +
                  std::to_string(mine_bytes) + " bytes = " + std::to_string(expected) + ", found " +
                  std::to_string(out_bytes));
}

std::string name_ranks(const std::vector<int>& ranks) {
  if (ranks.empty()) return "no rank";
  std::string text = ranks.size() == 1 ? "rank " : "ranks ";
  for (size_t i = 0; i < ranks.size(); ++i) {
    if (i > 0) text += i + 1 == ranks.size() ? " and " : ", ";
    text += std::to_string(ranks[i]);
  }
  return text;
}

Error timeout_error(const char* operation, uint64_t sequence, int rank, int size,
                    const std::vector<int>& missing, Duration deadline) {
  char limit[32];
  std::snprintf(limit, sizeof limit, "%.3f s", to_seconds(deadline));
  return Error{ErrorCode::kTimeout, std::string(operation) + " #" + std::to_string(sequence) +
                                        " on rank " + std::to_string(rank) + " of " +
                                        std::to_string(size) + ": no answer from " +
                                        name_ranks(missing) + " within " + limit};
}

}  // namespace tailor::comm
