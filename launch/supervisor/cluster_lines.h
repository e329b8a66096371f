// What `tailor serve` is asked for, and the command lines that it comes to: one mpirun per failure
// domain. Source: docs/architecture.md, "Processes". Pure.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/child_process.h"
#include "base/endpoint.h"
#include "coordinator/ranking.h"
#include "launch/options/option_table.h"
#include "launch/supervisor/run_dir.h"

namespace tailor::launch {

struct ClusterOptions {
  std::string model = "default";
  int replicas = 1;
  int tp = 1;
  int threads = 0;  ///< per rank; 0 = the usable cores shared evenly
  /// A name of coordinator/ranking.h: "auto" is settled before.
  std::string policy{coordinator::row_of(coordinator::policy_without_laws()).name};
  std::string probe;               ///< folder with heads for hidden states; empty = none
  std::string predictor = "none";  ///< "none" or what tailor-predictor serve takes: "auto" likewise
  std::string endpoint = "tcp://127.0.0.1:5555";
  std::string control_endpoint = "tcp://127.0.0.1:*";
  std::string engine = "cpu";  ///< cpu, cuda or torch: "auto" is settled before
  std::string device = "cpu";  ///< cpu or cuda: "auto" is settled before
  /// UUIDs of the GPUs of this host, tp for each replica; empty = ranks take what they see.
  std::vector<std::string> gpus;
  bool oversubscribe = false;
  std::string log_level = "info";
  /// Options that the programs' tables let serve offer, handed on where given: the programs know
  /// their defaults.
  OptionValues given;

  std::string mpirun = "mpirun";
  /// The whole cluster is this machine's, whatever batch system, mpirun or configuration is around
  /// it: Open MPI is not to read any of that.
  bool alone = false;
  /// This host's name, when `alone`: Open MPI 4.1 does not start under every name.
  std::string host_name;
  std::string cache_folder;    ///< when `alone`: the user's, for mpirun gets another HOME
  std::string hostfile;        ///< where the ranks go, when not `alone`; empty = mpirun's choice
  std::string program_folder;  ///< where tailor-coordinator and the workers lie
};

/// `control`: where the coordinator shall bind (may be a wildcard port).
CommandLine coordinator_line(const ClusterOptions& options, const RunDir& run,
                             const std::string& control);
/// `control`: the coordinator's address as bound.
CommandLine replica_line(const ClusterOptions& options, const RunDir& run, int replica,
                         const std::string& control);
/// The predictor of answers' lengths: joins no MPI, so no mpirun starts it.
CommandLine predictor_line(const ClusterOptions& options, const RunDir& run,
                           const std::string& control);
/// Everything in one MPMD launch (roles by MPI_APPNUM): one failure domain. `control` needs a
/// concrete port.
CommandLine single_line(const ClusterOptions& options, const RunDir& run,
                        const std::string& control);

/// `mpirun -n 1 true`, started as the programs above are.
CommandLine mpi_trial_line(const ClusterOptions& options, const RunDir& run);

/// The lines become those of a cluster of this machine alone.
void set_alone(ClusterOptions& options, const std::string& cache_folder);

/// As many file handles as this process may have, for it and its children. Errors: LimitExceeded
/// (mpirun waits for ever without a word when it gets too few).
Result<void> raise_file_limit();

/// Whether Open MPI 4.1's mpirun starts on a host of that name: it crashes beyond 56 characters
/// before the first dot, and takes letters, digits, dots and hyphens only.
bool mpirun_takes_host_name(const std::string& name);

/// The program that computes with `engine`: tailor-worker, tailor-worker-cuda, tailor-worker-torch.
std::string worker_program(const std::string& engine);

/// The folders that belong to one mpirun: "coordinator", "replica-0", ..., "cluster" (single).
std::vector<std::string> scratch_folders(const RunDir& run, const std::string& domain);

/// "1 replica x tp 2 x 1 thread"
std::string shape_text(const ClusterOptions& options);

}  // namespace tailor::launch
