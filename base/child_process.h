// Starting child processes, and finding every process that descends from one of them: children
// carry a mark in their environment (TAILOR_DOMAIN=RUN/NAME) that their own children inherit,
// whatever process group, session or parent they end up with. (Open MPI puts each rank into a
// process group of its own.)
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/result.h"
#include "base/time.h"

namespace tailor {

inline constexpr const char* kMarkVariable = "TAILOR_DOMAIN";

struct CommandLine {
  std::vector<std::string> argv;
  std::vector<std::pair<std::string, std::string>> env;  ///< added to ours
  /// Variables of ours that begin so are left out, unless `env` has them.
  std::vector<std::string> env_without = {};
};

/// As one would type it in a shell, quoted where needed: "A=1 B='x y' program --flag".
std::string to_shell(const CommandLine& command);

struct Spawned {
  pid_t pid = 0;
  /// read end of stdout and stderr together; non-blocking, close-on-exec; the caller closes it
  int output = -1;
};

/// Starts `command` in a session of its own, stdin from /dev/null, all signals at their defaults;
/// the kernel sends it SIGTERM when we die. Call from the main thread only (the kernel watches the
/// thread that forks). Errors: NotFound (cannot be executed, with the system's reason), Internal.
Result<Spawned> spawn(const CommandLine& command);

/// What a program said that was asked.
struct Heard {
  int exit_code = -1;  ///< negative: it did not end by itself
  std::string output;  ///< up to 1 MiB
  std::string first_line() const { return output.substr(0, output.find('\n')); }
};
/// Runs a program for at most `limit`. Nothing when it cannot be started. As spawn: from the main
/// thread only.
std::optional<Heard> ask(const CommandLine& line, Duration limit = seconds(5));

/// Sends `signal` (0 = only look) to every process whose mark is `mark` or starts with `mark` +
/// "/". Never to ourselves. Returns how many there are. Cost: one pass over /proc.
int signal_marked(const std::string& mark, int signal);

/// The mark of process `pid`; empty when it has none, is gone, or is not ours to look at.
std::string mark_of(pid_t pid);

/// SIGTERM to the marked, SIGKILL to what is left after `grace_ms`; returns when none is left or
/// after 2 s more.
void end_marked(const std::string& mark, int grace_ms);

}  // namespace tailor
