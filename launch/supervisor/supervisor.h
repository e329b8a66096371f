// The supervisor: starts child processes (one per failure domain), keeps their logs, restarts what
// dies with back-off, stops everything on SIGINT, SIGTERM or SIGHUP. It supervises command lines
// and knows nothing of what they do; it holds no MPI, ZeroMQ or torch. One thread; signals, timers,
// pipes and child exits through Asio.
//
//   child ends ──► its leftovers are killed ──► wait ──► start
//
// The wait is 0.5 s, doubling to 30 s; 0.5 s again after 60 s of health. A child that leaves with
// one of `farewell_codes` is not started again.
//
// While the cluster has never been ready, a child that exits with an error that starting again
// cannot mend (a wrong option, a missing file) ends the whole run with that error, and so does the
// fifth failure of any kind. After the first ready nothing but a signal ends the run: what cannot
// be started is tried again.
//
// A process that is stopped or stuck does not end by itself. Whoever finds one dead to the world
// writes its id into the FIFO `lost`: its child is killed with all that descends from it, and
// started again like any other that ends.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/child_process.h"
#include "base/result.h"
#include "base/time.h"

namespace tailor::launch {

struct ChildSpec {
  std::string name;      ///< "replica 0": in messages
  std::string log_file;  ///< appended to; at 64 MiB it moves to NAME.1
  /// The line to start now, asked again at each start; nothing = cannot start yet, ask again soon.
  std::function<std::optional<CommandLine>()> command;
  std::vector<std::string> scratch;  ///< folders of this child alone, made empty before each start
  /// The others do without it: readiness does not wait for it, its failures never end the run; it
  /// is started again with back-off for ever.
  bool optional = false;
};

struct SupervisorOptions {
  std::vector<ChildSpec> children;
  std::string mark;                ///< unique to this run; children are marked MARK/INDEX
  std::vector<std::string> sweep;  ///< private files and folders, removed at the end
  /// A FIFO to be made here: each line in it is the id of a process that is lost though it has not
  /// ended. What belongs to none of the children now (it has been started again since) is ignored.
  /// Empty = none.
  std::string lost;
  /// A line whose exit code 0 means that the cluster is ready (it may take its time); nothing = ask
  /// again soon. No function: ready as soon as every child runs.
  std::function<std::optional<CommandLine>()> probe;
  Duration probe_every = milliseconds(200);
  Duration backoff_first = milliseconds(500);
  Duration backoff_max = seconds(30);
  Duration healthy_after = seconds(60);
  Duration stop_grace = seconds(3);  ///< from SIGTERM to SIGKILL
  std::vector<int> passing_codes = {69, 70, 71,
                                    75};  ///< exit codes that starting again may mend (sysexits.h)
  /// Who leaves with one of these leaves for good, and the others go on without it.
  std::vector<int> farewell_codes = {79};
  int max_start_failures = 5;  ///< of one child, before the cluster was ever ready

  // None of these may block: nobody restarts anything meanwhile.
  std::function<void(const std::string& line)> say;  ///< a line for the user
  /// Tries again what say, on_ready and on_tick could not print; true when nothing waits any more.
  std::function<bool()> flush;
  std::function<void()> on_ready;  ///< the first time
  std::function<void()> on_tick;   ///< each 100 ms until then
};

/// Runs until a signal asks to stop (returns 0) or the start fails (returns 1, after saying why).
/// When it returns, no child, no descendant of one and no swept file is left; that takes at most
/// stop_grace + 2 s. Needs a process with one thread and no other children: it adopts and collects
/// orphaned descendants. Leaves the handlers of SIGINT, SIGTERM, SIGHUP and SIGCHLD as it found
/// them.
int supervise(const SupervisorOptions& options);

/// Whether a log line deserves the terminal: level warning, error or critical in the format of
/// base/log.h.
bool is_important(std::string_view log_line);

}  // namespace tailor::launch
