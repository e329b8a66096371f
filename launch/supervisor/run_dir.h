// The folder of one running cluster: logs (kept), the coordinator's addresses, load progress, and
// the private parts (Open MPI's session files, shared memory of the ranks), which are removed when
// the cluster ends.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/result.h"

namespace tailor::launch {

struct RunDir {
  std::string path;
  std::string logs;
  std::string mpi;  ///< Open MPI's session files, a folder per mpirun
  /// backing files of shared memory, a folder per mpirun; on /dev/shm where that works
  std::string shared;
  int lock = -1;  ///< held while the cluster lives: tells a later start that this folder is in use

  /// The secret of the control link (comm/link_key.h): made with the folder, private.
  std::string link_key() const { return path + "/link.key"; }
  std::string coordinator_json() const { return path + "/coordinator.json"; }
  /// A FIFO: who finds a process lost writes its id there (launch/supervisor/supervisor.h).
  std::string lost() const { return path + "/lost"; }
  /// A FIFO of the coordinator's: an operator's orders, one a line (coordinator/operator_door.h).
  std::string orders() const { return path + "/orders"; }
  /// Replicas that have drained, a number a line: a coordinator that is started anew does not wait
  /// for them.
  std::string drained() const { return path + "/drained"; }
  std::string progress(int replica) const {
    return path + "/replica-" + std::to_string(replica) + ".progress";
  }
  /// What must be gone when the cluster has ended.
  std::vector<std::string> private_paths(int replicas) const;
};

/// ${XDG_RUNTIME_DIR:-/tmp}/tailor-UID
std::string run_root();

/// Where a cluster started by process `pid` would live; creates nothing.
RunDir plan_run_dir(const std::string& path, const std::string& log_dir, int pid);

/// Where a running coordinator listens.
struct Addresses {
  std::string api_endpoint, control_endpoint;
};
/// As the coordinator wrote them; nothing until it is bound.
std::optional<Addresses> read_addresses(const RunDir& run);
/// The folders of the user's clusters on this machine whose clients connect to `endpoint`: that of
/// a living one, and what dead ones have left.
std::vector<RunDir> run_dirs_at(const std::string& endpoint);

/// Creates the folders of `plan`, for our eyes only, and a new link key, and takes the lock.
/// Errors: Unavailable (in use by another cluster, not ours, cannot be created).
Result<void> create_run_dir(RunDir& plan);

/// Removes the private parts of clusters that no longer live, and all but the newest few of their
/// logs.
void sweep_dead_runs(const std::string& root, const std::string& shm_root);

}  // namespace tailor::launch
