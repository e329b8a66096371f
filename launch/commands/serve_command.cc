// `tailor serve`: checks the shape, starts the cluster under the supervisor, shows the load, says
// when it is ready.
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <nlohmann/json.hpp>
#include <sstream>

#include "base/clock.h"
#include "base/endpoint.h"
#include "base/json_text.h"
#include "launch/commands/command.h"
#include "launch/commands/terminal.h"
#include "launch/gpus/engine_choice.h"
#include "launch/options/program_options.h"
#include "launch/predictor_choice.h"
#include "launch/supervisor/cluster_lines.h"
#include "launch/supervisor/line_output.h"
#include "launch/supervisor/supervisor.h"
#include "launch/supervisor/usable_cores.h"
#include "weights/default_model.h"

namespace tailor::launch {
namespace {

struct Options : ClusterOptions {
  std::string run_dir, log_dir;
  bool single = false, print = false, write_config = false;
  CLI::App* app = nullptr;
};

double read_progress(const std::string& path) {
  double value = 0;
  std::ifstream(path) >> value;
  return std::clamp(value, 0.0, 1.0);
}

/// Load progress: bars redrawn in place on a terminal, a line per quarter elsewhere.
class LoadBars {
 public:
  LoadBars(const RunDir& run, int replicas, LineOutput& out)
      : run_(run),
        out_(out),
        replicas_(replicas),
        quarters_(static_cast<size_t>(replicas), 0),
        terminal_(isatty(STDERR_FILENO)) {}

  void draw() {
    std::string line;
    for (int i = 0; i < replicas_; ++i) {
      const double done = read_progress(run_.progress(i));
      const int quarter = static_cast<int>(done * 4);
      if (!terminal_ && quarter > quarters_[i]) {
        out_.write("tailor: replica " + std::to_string(i) + " has loaded " +
                   std::to_string(quarter * 25) + " %\n");
      }
      quarters_[i] = std::max(quarters_[i], quarter);
      if (i < 4) line += bar(i, done);
    }
    if (!terminal_ || line == last_) return;
    out_.write("\r\033[K" + line);
    last_ = line;
  }
  /// Makes room for a line of text.
  void clear() {
    if (terminal_ && !last_.empty()) out_.write("\r\033[K");
    last_.clear();
  }

 private:
  static std::string bar(int replica, double done) {
    constexpr int kWidth = 16;
    const int full = static_cast<int>(done * kWidth);
    char percent[16];
    std::snprintf(percent, sizeof percent, " %3.0f%%  ", done * 100);
    return "replica " + std::to_string(replica) + " [" + std::string(full, '#') +
           std::string(kWidth - full, '.') + "]" + percent;
  }

  const RunDir& run_;
  LineOutput& out_;
  const int replicas_;
  std::vector<int> quarters_;
  const bool terminal_;
  std::string last_;
};

/// Which engine computes, where, and with which GPUs.
Result<void> settle_engine(ClusterOptions& cluster) {
  const auto has = [&](const std::string& engine) {
    return access((cluster.program_folder + "/" + worker_program(engine)).c_str(), X_OK) == 0;
  };
  const bool torch_takes_gpus = TAILOR_TORCH_TAKES_GPUS && has("torch");
  TAILOR_ASSIGN(EngineChoice choice, choose_engine({.engine = cluster.engine,
                                                    .device = cluster.device,
                                                    .replicas = cluster.replicas,
                                                    .tp = cluster.tp,
                                                    .several_hosts = !cluster.hostfile.empty(),
                                                    .has_cuda_worker = has("cuda"),
                                                    .torch_takes_gpus = torch_takes_gpus},
                                                   find_gpus));
  if (!choice.warning.empty()) std::fprintf(stderr, "tailor: %s\n", choice.warning.c_str());
  cluster.engine = choice.engine;
  cluster.device = choice.device;
  cluster.gpus = choice.gpus;
  if (!has(cluster.engine))
    return fail(ErrorCode::kNotFound, "--engine " + cluster.engine + " needs " +
                                          cluster.program_folder + "/" +
                                          worker_program(cluster.engine) +
                                          ", which was not built; run launch/setup --build");
  return {};
}

std::string name_of(const coordinator::Policy& policy) {
  return std::string(coordinator::row_of(policy).name);
}

Result<void> settle(Options& options) {
  ClusterOptions& cluster = options;
  if (cluster.replicas < 1 || cluster.tp < 1) {
    return fail(ErrorCode::kInvalidArgument, "--replicas and --tp must be at least 1");
  }
  cluster.program_folder = own_folder();
  const UsableCores cores = usable_cores();
  if (cluster.threads == 0) {
    cluster.threads = default_threads(cluster.replicas, cluster.tp, cores.count());
  }
  if (!cluster.oversubscribe) {
    TAILOR_TRY(check_fits_cores(cluster.replicas, cluster.tp, cluster.threads, cores));
  }
  TAILOR_TRY(parse_tcp(cluster.endpoint));
  TAILOR_TRY(parse_tcp(cluster.control_endpoint));
  TAILOR_TRY(weights::resolve_model(cluster.model));
  TAILOR_ASSIGN(const PredictorChoice choice,
                choose_predictor({cluster.predictor, cluster.model,
                                  cluster.given["--dummy-weights"] == "true", own_folder()}));
  if (!choice.warning.empty()) std::fprintf(stderr, "tailor: %s\n", choice.warning.c_str());
  cluster.predictor = choice.predictor;
  cluster.probe = choice.probe;
  if (cluster.policy == "auto")
    cluster.policy = name_of(cluster.predictor == "none" && cluster.probe.empty()
                                 ? coordinator::policy_without_laws()
                                 : coordinator::policy_with_laws());
  TAILOR_TRY(settle_engine(cluster));
  if (cluster.model != "default") {  // a path that also holds in the children's folder
    cluster.model = std::filesystem::absolute(cluster.model).lexically_normal().string();
  }
  for (const char* file : {"--record", "--chat-template"}) {
    std::string& path = cluster.given[file];
    if (!path.empty()) path = std::filesystem::absolute(path).string();
  }
  return {};
}

/// Writes the link key as the supervisor does, where there is none yet.
std::string link_key_line(const RunDir& run) {
  const std::string folder = to_shell({{run.path}, {}}), key = to_shell({{run.link_key()}, {}});
  return "mkdir -p " + folder + " && { test -s " + key + " || (umask 077; od -An -v -tx1 -N32 " +
         "/dev/urandom | tr -d ' \\n' > " + key + "); }";
}

int print_lines(const Options& options, const RunDir& run) {
  ClusterOptions cluster = options;
  Result<std::string> control = with_free_port(cluster.control_endpoint);
  if (!control) return print_error(control.error());
  const auto make_folders = [&](const std::string& domain) {
    CommandLine line{{"mkdir", "-p"}, {}};
    for (std::string& folder : scratch_folders(run, domain)) line.argv.push_back(std::move(folder));
    std::printf("%s\n", to_shell(line).c_str());
  };
  const auto print_predictor = [&] {
    if (cluster.predictor == "none") return;
    std::printf("# predictor\n%s\n", to_shell(predictor_line(cluster, run, *control)).c_str());
  };
  std::printf("# the secret of the control link, once\n%s\n", link_key_line(run).c_str());
  if (options.single) {
    make_folders("cluster");
    std::printf("%s\n", to_shell(single_line(cluster, run, *control)).c_str());
    print_predictor();
    return 0;
  }
  std::printf("# coordinator\n");
  make_folders("coordinator");
  std::printf("%s\n", to_shell(coordinator_line(cluster, run, *control)).c_str());
  for (int i = 0; i < cluster.replicas; ++i) {
    std::printf("# replica %d\n", i);
    make_folders("replica-" + std::to_string(i));
    std::printf("%s\n", to_shell(replica_line(cluster, run, i, *control)).c_str());
  }
  print_predictor();
  return 0;
}

/// Where the coordinator binds: as configured the first time; a restarted one goes back to the
/// addresses it had, which the workers and clients know.
class BoundAddresses {
 public:
  BoundAddresses(const ClusterOptions& cluster, const RunDir& run)
      : run_(run), endpoint_(cluster.endpoint), control_(cluster.control_endpoint) {}

  void before_coordinator_start() {
    refresh();
    std::error_code ignored;
    std::filesystem::remove(run_.coordinator_json(), ignored);
    bound_ = false;
  }
  /// False until the coordinator is bound.
  bool refresh() {
    if (const auto addresses = read_addresses(run_)) {
      control_ = addresses->control_endpoint;
      endpoint_ = addresses->api_endpoint;
      bound_ = true;
    }
    return bound_;
  }
  const std::string& control() const { return control_; }
  const std::string& endpoint() const { return endpoint_; }

 private:
  const RunDir& run_;
  std::string endpoint_, control_;
  bool bound_ = false;
};

/// Asked again at each start, like the replicas, for the coordinator may have moved.
ChildSpec predictor_child(const ClusterOptions& cluster, const RunDir& run,
                          BoundAddresses& addresses) {
  return {"predictor",
          run.logs + "/predictor.log",
          [&]() -> std::optional<CommandLine> {
            if (!addresses.refresh()) return std::nullopt;
            return predictor_line(cluster, run, addresses.control());
          },
          {},
          true};
}

std::vector<ChildSpec> children_of(const Options& options, const RunDir& run,
                                   BoundAddresses& addresses) {
  const ClusterOptions& cluster = options;
  std::vector<ChildSpec> children;
  if (options.single) {
    children.push_back({"cluster", run.logs + "/cluster.log",
                        [&]() -> std::optional<CommandLine> {
                          addresses.before_coordinator_start();
                          const Result<std::string> control = with_free_port(addresses.control());
                          if (!control) return std::nullopt;
                          ClusterOptions bound = cluster;
                          bound.endpoint = addresses.endpoint();
                          return single_line(bound, run, *control);
                        },
                        scratch_folders(run, "cluster")});
    if (cluster.predictor != "none") children.push_back(predictor_child(cluster, run, addresses));
    return children;
  }
  children.push_back({"coordinator", run.logs + "/coordinator.log",
                      [&]() -> std::optional<CommandLine> {
                        addresses.before_coordinator_start();
                        ClusterOptions bound = cluster;
                        bound.endpoint = addresses.endpoint();
                        return coordinator_line(bound, run, addresses.control());
                      },
                      scratch_folders(run, "coordinator")});
  for (int i = 0; i < cluster.replicas; ++i) {
    const std::string number = std::to_string(i);
    children.push_back({"replica " + number, run.logs + "/replica-" + number + ".log",
                        [&, i]() -> std::optional<CommandLine> {
                          if (!addresses.refresh()) return std::nullopt;
                          return replica_line(cluster, run, i, addresses.control());
                        },
                        scratch_folders(run, "replica-" + number)});
  }
  if (cluster.predictor != "none") children.push_back(predictor_child(cluster, run, addresses));
  return children;
}

std::string announcement(const Options& options, const std::string& endpoint, Duration took) {
  const std::string where = endpoint == kDefaultEndpoint ? "" : " --endpoint " + endpoint;
  char seconds[32];
  std::snprintf(seconds, sizeof seconds, "%.1f", to_seconds(took));
  return "ready at " + endpoint + " after " + seconds + " s: model " + options.model + ", " +
         shape_text(options) + ", policy " + options.policy + "\n  ask:   tailor generate" + where +
         " --chat \"Why is the sky blue?\"\n" + "  look:  tailor status" + where +
         "\n  stop:  Ctrl-C\n";
}

int serve(Options& options, RunDir& run) {
  if (auto raised = raise_file_limit(); !raised) return print_error(raised.error());
  set_alone(options, weights::cache_folder());
  const PipeSignalIgnored no_pipe_signal;  // who reads our lines may go; the cluster stays
  for (const std::string& endpoint : {options.endpoint, options.control_endpoint}) {
    if (auto free = check_can_bind(endpoint); !free) return print_error(free.error());
  }
  sweep_dead_runs(run_root(), "/dev/shm");
  if (auto created = create_run_dir(run); !created) return print_error(created.error());

  const Time began = now();
  LineOutput out(STDOUT_FILENO), err(STDERR_FILENO);
  LoadBars bars(run, options.replicas, err);
  BoundAddresses addresses(options, run);
  SupervisorOptions supervisor;
  supervisor.children = children_of(options, run, addresses);
  supervisor.mark = "tailor-" + std::to_string(getuid()) + "-" + std::to_string(getpid()) + "-" +
                    std::to_string(wall_clock_ms());
  supervisor.lost = run.lost();
  supervisor.sweep = run.private_paths(options.replicas);
  supervisor.probe = [&]() -> std::optional<CommandLine> {
    if (!addresses.refresh()) return std::nullopt;
    return CommandLine{{options.program_folder + "/tailor", "status", "--quiet", "--timeout", "2",
                        "--wait", "3600", "--endpoint", local_address(addresses.endpoint())},
                       {}};
  };
  supervisor.say = [&](const std::string& line) {
    bars.clear();
    err.write("tailor: " + line + "\n");
  };
  supervisor.flush = [&] {
    const bool answered = out.flush();
    return err.flush() && answered;
  };
  supervisor.on_tick = [&] { bars.draw(); };
  supervisor.on_ready = [&] {
    bars.clear();
    out.write(announcement(options, local_address(addresses.endpoint()), now() - began));
  };
  supervisor.say("starting " + shape_text(options) + " of model " + options.model + "; logs in " +
                 run.logs);
  return supervise(supervisor);
}

/// What is not set stays a comment: an empty value would not read back.
void write_config(const CLI::App& app) {
  std::printf("[serve]\n");
  std::istringstream lines(app.config_to_str(true, false));
  for (std::string line; std::getline(lines, line);) {
    const bool unset = line.size() > 3 && line.compare(line.size() - 3, 3, "=\"\"") == 0;
    std::printf("%s%s\n", unset ? "# " : "", line.c_str());
  }
}

int run(Options& options) {
  if (options.write_config) {
    write_config(*options.app);
    return 0;
  }
  if (!options.hostfile.empty() && !options.print)
    return print_error({ErrorCode::kInvalidArgument,
                        "serve starts and watches processes of this machine only; for others run "
                        "launch/mpirun-cluster --hostfile " +
                            options.hostfile});
  if (auto settled = settle(options); !settled) return print_error(settled.error());
  RunDir run = plan_run_dir(options.run_dir, options.log_dir, getpid());
  return options.print ? print_lines(options, run) : serve(options, run);
}

OptionTable<Options> make_serve_options() {
  using A = Options;
  std::vector<std::string> policies = coordinator::served_policies();
  policies.insert(policies.begin(), "auto");
  OptionTable<A> row;
  row("--model", &A::model, "A Hugging Face folder, a GGUF file, or default");
  row("--replicas", &A::replicas, "Full copies of the model").within(1, 4096);
  row("--tp", &A::tp, "Tensor-parallel ranks per replica").within(1, 1024);
  row("--threads", &A::threads, "Math threads per rank; 0 = share the usable cores")
      .within(0, 4096);
  row("--policy", &A::policy,
      "Who runs next; auto = " + name_of(coordinator::policy_with_laws()) + " with a predictor, " +
          name_of(coordinator::policy_without_laws()) + " without. " + coordinator::policies_help())
      .one_of(policies);
  row("--predictor", &A::predictor,
      "Who says how long answers will be: auto (one trained for this model, if there is one), "
      "none, or a predictor's folder");
  row("--endpoint", &A::endpoint, "Where clients connect");
  row("--control-endpoint", &A::control_endpoint,
      "Where the replicas connect; port * = any free one");
  row("--engine", &A::engine,
      "Who does the math; auto = cpu on the CPU, cuda on GPUs; torch is the reference")
      .one_of({"auto", "cpu", "cuda", "torch"});
  row("--device", &A::device, "auto = NVIDIA GPUs, one for each rank, where some can be used")
      .one_of({"auto", "cpu", "cuda"});
  row("--log-level", &A::log_level, "trace, debug, info, warn or error")
      .one_of({"trace", "debug", "info", "warn", "error"});
  row("--oversubscribe", &A::oversubscribe, "Allow more math threads than usable cores");
  row("--mpirun", &A::mpirun, "Open MPI's launcher");
  row("--hostfile", &A::hostfile, "With --print: Open MPI's hostfile, for ranks on other hosts");
  row("--run-dir", &A::run_dir,
      "Private folder of this cluster; default ${XDG_RUNTIME_DIR:-/tmp}/tailor-UID/PID");
  row("--log-dir", &A::log_dir, "Where logs go; default RUN_DIR/logs");
  row("--single", &A::single, "One MPMD mpirun for everything: one failure domain");
  row("--print", &A::print, "Only show the lines that would be run").command_line_only();
  row("--write-config", &A::write_config, "Only show the effective options as TOML")
      .command_line_only();
  return row;
}

}  // namespace

Command add_serve(CLI::App& parent) {
  auto options = std::make_shared<Options>();
  CLI::App* app =
      parent.add_subcommand("serve", "Start a cluster on this machine and watch over it");
  options->app = app;
  options->policy = options->predictor = options->engine = options->device = "auto";
  make_serve_options().add_to(*app, *options);
  offer(*app, coordinator_options().faces(), options->given);
  offer(*app, worker_options().faces(), options->given);
  offer(*app, predictor_options().faces(), options->given);
  return {app, [options] { return run(*options); }};
}

}  // namespace tailor::launch
