// How a rank leaves: the supervisor reads these (docs/architecture.md, "Errors").
#pragma once

namespace tailor::worker {

inline constexpr int kExitOk = 0;      ///< the cluster stops; nothing to restart
inline constexpr int kExitUsage = 64;  ///< wrong command line; starting again cannot help
/// the model cannot be opened, loaded or held; nor can it here
inline constexpr int kExitModel = 66;
/// MPI, a port or the peers were not there, or the coordinator lost or refused this replica; start
/// again.
inline constexpr int kExitUnavailable = 69;
// 70: the watchdog saw a thread at work without progress (base/watchdog.h); start again.
inline constexpr int kExitDevice = 71;  ///< a step failed: device or collective; start again
inline constexpr int kExitCoordinatorLost = 75;  ///< the coordinator stayed silent; start again
/// An operator had this replica drained: it is not started again.
inline constexpr int kExitDrained = 79;

/// The end of a rank's loop. `together`: all ranks of the replica leave in the same step, so MPI
/// may be finalized where the world is the replica or stops too; otherwise the process must end at
/// once, and its mpirun takes the group down.
struct LoopExit {
  int code = kExitOk;
  bool together = true;
};

}  // namespace tailor::worker
