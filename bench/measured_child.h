// Programs that a measurement starts: one that runs to its end and is read, and one that runs
// beside us until it is told to stop. Owner: the main thread (child_process.h: spawn).
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "base/child_process.h"
#include "base/result.h"
#include "base/time.h"

namespace tailor::bench {

/// Runs `command` to its end and returns what it wrote to stdout and stderr. Errors: NotFound
/// (cannot be executed), Internal (it failed: quotes its last line), Timeout (killed).
Result<std::string> run_to_end(const CommandLine& command, Duration timeout);

/// A program that runs beside us; told to stop (SIGTERM) and waited for on destruction, and told by
/// the kernel where we die before.
class Companion {
 public:
  Companion() = default;
  ~Companion() { stop(); }
  Companion(const Companion&) = delete;
  Companion& operator=(const Companion&) = delete;

  /// `log`: the file that takes its output; empty = ours. A program that cannot be executed has
  /// ended() at once. Errors: Internal.
  Result<void> start(std::vector<std::string> args, const std::string& log = "");
  bool ended();
  /// SIGKILL for one that is still there 20 s after SIGTERM.
  void stop();

 private:
  pid_t pid_ = -1;
};

/// The last line of `text` that is not empty; "no output" if there is none.
std::string last_line(const std::string& text);

}  // namespace tailor::bench
