// The warden: a small process that outlives the supervisor by a moment. It sleeps on a pipe whose
// other end only the supervisor holds; when that closes, however the supervisor ended, it ends
// every process that carries the run's mark and removes the run's private files.
#pragma once

#include <sys/types.h>

#include <string>
#include <utility>
#include <vector>

#include "base/result.h"

namespace tailor::launch {

/// Removes the files and folders that are there.
void sweep(const std::vector<std::string>& paths);

class Warden {
 public:
  /// Forks; call while the process has one thread. `sweep`: files and folders to remove. Errors:
  /// Internal.
  static Result<Warden> start(const std::string& mark, const std::vector<std::string>& sweep);
  Warden(Warden&& other) noexcept
      : pid_(std::exchange(other.pid_, 0)), pipe_(std::exchange(other.pipe_, -1)) {}
  Warden& operator=(Warden&& other) noexcept {
    std::swap(pid_, other.pid_);
    std::swap(pipe_, other.pipe_);
    return *this;
  }
  /// Lets it do its work and waits for its end (at most its own deadlines, about 4 s).
  ~Warden();

  pid_t pid() const { return pid_; }
  /// Its end has been collected elsewhere: do not wait for it.
  void forget() { pid_ = 0; }

 private:
  Warden(pid_t pid, int pipe) : pid_(pid), pipe_(pipe) {}
  pid_t pid_;
  int pipe_;
};

}  // namespace tailor::launch
