#include "launch/supervisor/cluster_lines.h"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>

#include "launch/options/program_options.h"

namespace tailor::launch {
namespace {

using Words = std::vector<std::string>;

void add(Words& words, std::initializer_list<std::string> more) {
  words.insert(words.end(), more.begin(), more.end());
}

/// Variables that tell Open MPI of a job, an allocation or a configuration.
const std::vector<std::string> kForeign = {"OMPI_", "ORTE_", "PRTE_",  "PMIX_",
                                           "PMI_",  "PMI2_", "SLURM_", "PBS_",
                                           "LSB_",  "LSF_",  "SGE_",   "PE_HOSTFILE"};

/// `ranks`: of the whole line.
CommandLine mpirun_line(const ClusterOptions& options, const RunDir& run, const std::string& domain,
                        int ranks) {
  CommandLine line;
  const std::vector<std::string> folders = scratch_folders(run, domain);
  // hwloc would ask ten X displays for GPUs, each by a name (localhost) that need not resolve.
  line.env = {{"HWLOC_COMPONENTS", "-gl"}};
  if (geteuid() == 0) {
    line.env.emplace_back("OMPI_ALLOW_RUN_AS_ROOT", "1");
    line.env.emplace_back("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
  }
  if (options.alone) {
    line.env_without = kForeign;
    // Its own HOME: there may be none (mpirun then crashes), and in the user's a configuration.
    line.env.emplace_back("HOME", folders[0]);
    line.env.emplace_back("TAILOR_CACHE", options.cache_folder);
    if (!mpirun_takes_host_name(options.host_name)) {
      add(line.argv, {"unshare", "--uts"});
      if (geteuid() != 0) add(line.argv, {"--user", "--map-current-user", "--keep-caps"});
      add(line.argv, {"--", "sh", "-c", "hostname localhost && exec \"$@\"", "sh"});
    }
  }
  // Without --bind-to none every job's first rank would sit on core 0. Slots are hardware threads,
  // as in our own count of usable cores. Session files and shared memory stay in folders that are
  // swept.
  add(line.argv, {options.mpirun, "--bind-to", "none", "--use-hwthread-cpus"});
  if (options.alone) add(line.argv, {"--host", "localhost:" + std::to_string(ranks)});
  if (options.hostfile.empty()) {
    add(line.argv, {"--mca", "orte_tmpdir_base", folders[0], "--mca", "btl_vader_backing_directory",
                    folders[1]});
  } else {  // our folders are on this host only
    add(line.argv, {"--hostfile", options.hostfile});
  }
  if (options.oversubscribe) {
    add(line.argv, {"--oversubscribe", "--mca", "mpi_yield_when_idle", "1"});
  }
  return line;
}

void add_coordinator(Words& words, const ClusterOptions& options, const RunDir& run,
                     const std::string& control) {
  add(words, {"-n", "1", options.program_folder + "/tailor-coordinator"});
  hand_on(coordinator_options().faces(),
          {{"--model", options.model},
           {"--endpoint", options.endpoint},
           {"--control-endpoint", control},
           {"--replicas", std::to_string(options.replicas)},
           {"--policy", options.policy},
           {"--run-dir", run.path},
           {"--link-key", run.link_key()},
           {"--log-level", options.log_level}},
          options.given, words);
}

void add_replica(Words& words, const ClusterOptions& options, const RunDir& run, int replica,
                 const std::string& control) {
  const std::string threads = std::to_string(options.threads);
  if (!options.gpus.empty()) {
    std::string given;
    for (int rank = 0; rank < options.tp; ++rank)
      given +=
          (rank > 0 ? "," : "") + options.gpus.at(static_cast<size_t>(replica * options.tp + rank));
    add(words, {"-x", "CUDA_VISIBLE_DEVICES=" + given});
  }
  add(words,
      {"-x", "OMP_NUM_THREADS=" + threads, "-x", "MKL_NUM_THREADS=" + threads, "-n",
       std::to_string(options.tp), options.program_folder + "/" + worker_program(options.engine)});
  hand_on(worker_options().faces(),
          {{"--model", options.model},
           {"--control-endpoint", control},
           {"--replica", std::to_string(replica)},
           {"--tp", std::to_string(options.tp)},
           {"--engine", options.engine},
           {"--device", options.device},
           {"--threads", threads},
           {"--ranks-on-host", std::to_string(options.replicas * options.tp)},
           {"--run-dir", run.path},
           {"--link-key", run.link_key()},
           {"--log-level", options.log_level},
           {"--probe", options.probe}},
          options.given, words);
}

std::string counted(int number, const char* thing) {
  return std::to_string(number) + " " + thing + (number == 1 ? "" : "s");
}

}  // namespace

CommandLine predictor_line(const ClusterOptions& options, const RunDir& run,
                           const std::string& control) {
  CommandLine line{{options.program_folder + "/tailor-predictor", "serve"},
                   {{"OMP_NUM_THREADS", "1"}, {"MKL_NUM_THREADS", "1"}}};
  hand_on(predictor_options().faces(),
          {{"--control-endpoint", control},
           {"--link-key", run.link_key()},
           {"--predictor", options.predictor},
           {"--log-level", options.log_level}},
          options.given, line.argv);
  return line;
}

CommandLine mpi_trial_line(const ClusterOptions& options, const RunDir& run) {
  CommandLine line = mpirun_line(options, run, "trial", 1);
  add(line.argv, {"-n", "1", "true"});
  return line;
}

void set_alone(ClusterOptions& options, const std::string& cache_folder) {
  std::array<char, 256> name{};
  gethostname(name.data(), name.size() - 1);
  options.alone = true;
  options.host_name = name.data();
  options.cache_folder = std::filesystem::absolute(cache_folder).string();
}

Result<void> raise_file_limit() {
  constexpr rlim_t kFewest = 64;  // measured: 32 are too few for mpirun, 48 do
  rlimit files{};
  if (getrlimit(RLIMIT_NOFILE, &files) != 0) return {};
  files.rlim_cur = files.rlim_max;
  setrlimit(RLIMIT_NOFILE, &files);
  if (files.rlim_max >= kFewest) return {};
  return fail(ErrorCode::kLimitExceeded,
              "a cluster needs at least " + std::to_string(kFewest) +
                  " file handles and one for each client, the limit here is " +
                  std::to_string(files.rlim_max) + ": raise it (ulimit -Hn)");
}

bool mpirun_takes_host_name(const std::string& name) {
  constexpr size_t kLongest = 56;
  constexpr const char* kPlain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-.";
  return std::min(name.find('.'), name.size()) <= kLongest &&
         name.find_first_not_of(kPlain) == std::string::npos;
}

std::string worker_program(const std::string& engine) {
  return engine == "cpu" ? "tailor-worker" : "tailor-worker-" + engine;
}

CommandLine coordinator_line(const ClusterOptions& options, const RunDir& run,
                             const std::string& control) {
  CommandLine line = mpirun_line(options, run, "coordinator", 1);
  add_coordinator(line.argv, options, run, control);
  return line;
}

CommandLine replica_line(const ClusterOptions& options, const RunDir& run, int replica,
                         const std::string& control) {
  CommandLine line = mpirun_line(options, run, "replica-" + std::to_string(replica), options.tp);
  add_replica(line.argv, options, run, replica, control);
  return line;
}

CommandLine single_line(const ClusterOptions& options, const RunDir& run,
                        const std::string& control) {
  CommandLine line = mpirun_line(options, run, "cluster", 1 + options.replicas * options.tp);
  // The coordinator is one more rank than the cores were counted for; it sleeps.
  if (!options.oversubscribe) line.argv.push_back("--oversubscribe");
  add_coordinator(line.argv, options, run, control);
  for (int replica = 0; replica < options.replicas; ++replica) {
    line.argv.push_back(":");
    add_replica(line.argv, options, run, replica, control);
  }
  return line;
}

std::vector<std::string> scratch_folders(const RunDir& run, const std::string& domain) {
  return {run.mpi + "/" + domain, run.shared + "/" + domain};
}

std::string shape_text(const ClusterOptions& options) {
  return counted(options.replicas, "replica") + " x tp " + std::to_string(options.tp) + " x " +
         counted(options.threads, "thread");
}

}  // namespace tailor::launch
