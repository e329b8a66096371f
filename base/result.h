// Result<T>: errors are values inside Tailor. Exceptions live only at three doors (comm sources,
// the engine step, weight loading), where they are caught and translated with context; see
// docs/architecture.md, "Errors".
#pragma once

#include <string>
#include <string_view>
#include <tl/expected.hpp>
#include <utility>

namespace tailor {

/// One list for the whole system, the same numbers on the wire (proto/api.proto, ErrorCode).
enum class ErrorCode : int {
  kOk = 0,
  kInvalidArgument = 1,  ///< the request itself is wrong; sending it again cannot help
  kNotFound = 2,         ///< no such request, file, tensor, replica
  kQueueFull = 3,        ///< come back later: `retry_after` says when
  kLimitExceeded = 4,    ///< larger than a configured limit; the message names both numbers
  kDeadlineExceeded = 5,
  kCancelled = 6,
  kUnauthenticated = 7,
  kUnavailable = 8,  ///< not ready yet, or draining
  kOutOfBlocks = 9,  ///< KV blocks ran out; nothing was reserved
  kReplicaLost = 10,
  kDeviceFailure = 11,
  kTimeout = 12,   ///< a wait reached its deadline; the message names the peer
  kProtocol = 13,  ///< a peer sent what this version does not understand
  kDataLoss = 14,  ///< a file is truncated or damaged
  kShutdown = 15,
  kInternal = 16,
};

/// The code's name as users and logs see it, e.g. "InvalidArgument".
std::string_view to_string(ErrorCode code);

/// What went wrong, in one sentence: what, where, expected, found.
struct Error {
  ErrorCode code = ErrorCode::kInternal;
  std::string message;
};

/// "InvalidArgument: temperature must be at least 0, found -1".
std::string to_string(const Error& error);

template <class T>
class [[nodiscard]] Result : public tl::expected<T, Error> {
 public:
  using tl::expected<T, Error>::expected;
  using tl::expected<T, Error>::operator=;
};

using Unexpected = tl::unexpected<Error>;

/// `return fail(ErrorCode::kNotFound, "no file x");` in any function that returns a Result.
inline Unexpected fail(ErrorCode code, std::string message) {
  return Unexpected(Error{code, std::move(message)});
}
inline Unexpected fail(Error error) { return Unexpected(std::move(error)); }

/// The same error with "context: " before its message.
inline Unexpected fail_with(const std::string& context, Error error) {
  return Unexpected(Error{error.code, context + ": " + error.message});
}

}  // namespace tailor

// TAILOR_TRY(expr): returns the error of a failed Result<...> from the enclosing function.
// TAILOR_ASSIGN(decl, expr): the same, and binds the value.
#define TAILOR_CONCAT_(a, b) a##b
#define TAILOR_CONCAT(a, b) TAILOR_CONCAT_(a, b)
#define TAILOR_TRY(expr)                                     \
  do {                                                       \
    if (auto tailor_try_ = (expr); !tailor_try_)             \
      return ::tailor::fail(std::move(tailor_try_.error())); \
  } while (0)
#define TAILOR_ASSIGN(decl, expr) \
  TAILOR_ASSIGN_(TAILOR_CONCAT(tailor_result_, __LINE__), decl, expr)
#define TAILOR_ASSIGN_(tmp, decl, expr)                    \
  auto tmp = (expr);                                       \
  if (!tmp) return ::tailor::fail(std::move(tmp.error())); \
  decl = std::move(*tmp)
