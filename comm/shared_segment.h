// SharedSegment: memory that the ranks of one host all map. Every mapping is checked by what it
// holds: rank 0 writes a random nonce, each rank answers in its own place, and all read all
// answers, so that a file of the same name in another namespace is never taken for ours.
//
// No file outlives its ranks: the memory is a memfd, which the others open as /proc/PID/fd/N of
// rank 0 (the same user, the same pid namespace). Where that is refused it is a POSIX shared memory
// object, whose name exists only while the group maps it; a kill in just that moment leaves a file
// tailor-UID-collective-PID-NONCE in /dev/shm. Owner: whoever holds it; the calls are collective.
#pragma once

#include <cstddef>
#include <memory>
#include <span>

#include "base/result.h"
#include "comm/collective.h"

namespace tailor::comm {

enum class SegmentKind {
  kAny,      ///< a memfd, or a name where that fails
  kUnnamed,  ///< a memfd only
  kNamed,    ///< a POSIX shared memory object only
};

class SharedSegment {
 public:
  ~SharedSegment();
  SharedSegment(const SharedSegment&) = delete;
  SharedSegment& operator=(const SharedSegment&) = delete;

  /// Called by every rank of `bootstrap`, with the same arguments. `bytes` of zeros, aligned to a
  /// page. All ranks succeed or all fail. Errors: Unavailable (this host cannot, or the ranks do
  /// not share one: names the rank and the reason), LimitExceeded (no such amount of shared memory
  /// is free), those of `bootstrap`.
  static Result<std::shared_ptr<SharedSegment>> open(Collective& bootstrap, size_t bytes,
                                                     SegmentKind kind = SegmentKind::kAny);

  /// Shared by the threads of this process and by processes it forks. Errors: LimitExceeded.
  static Result<std::shared_ptr<SharedSegment>> of_this_process(size_t bytes);

  std::span<std::byte> bytes() const { return bytes_; }

 private:
  SharedSegment(std::span<std::byte> mapped, std::span<std::byte> bytes)
      : mapped_(mapped), bytes_(bytes) {}

  static Result<std::shared_ptr<SharedSegment>> map(int fd, size_t mapped, size_t head);
  static Result<std::shared_ptr<SharedSegment>> open_once(Collective& bootstrap, size_t bytes,
                                                          SegmentKind kind);

  const std::span<std::byte> mapped_;
  const std::span<std::byte> bytes_;  // without the head that holds nonce and answers
};

}  // namespace tailor::comm
