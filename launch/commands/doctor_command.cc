// `tailor doctor`: looks at everything a cluster needs on this machine and says what to change.
#include <poll.h>
#include <signal.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <memory>
#include <numeric>
#include <sstream>

#include "base/clock.h"
#include "base/endpoint.h"
#include "client/answer.h"
#include "client/client.h"
#include "launch/commands/command.h"
#include "launch/commands/finding.h"
#include "launch/commands/terminal.h"
#include "launch/gpus/engine_choice.h"
#include "launch/model_text.h"
#include "launch/supervisor/cluster_lines.h"
#include "launch/supervisor/usable_cores.h"
#include "parallel/host_memory.h"
#include "weights/default_model.h"
#include "weights/weight_files.h"

namespace tailor::launch {

std::string gigabytes(double bytes) {
  char text[32];
  std::snprintf(text, sizeof text, "%.2f GB", bytes / 1e9);
  return text;
}

namespace {

namespace fs = std::filesystem;

struct Options {
  std::string endpoint = kDefaultEndpoint;
  std::string model = "default", chat_template;
  bool json = false;
};

constexpr Duration kMpiTrialLimit = seconds(20);
constexpr size_t kMpiWordsBytes = 600;

// ---- the checks ----

/// What `tailor serve` would start, with `engine`.
void check_programs(const std::string& engine, Findings& out) {
  for (const std::string& name : {std::string("tailor-coordinator"), worker_program(engine)}) {
    const std::string path = own_folder() + "/" + name;
    if (access(path.c_str(), X_OK) != 0) {
      out.push_back(
          {name, Verdict::kBlocks, path + " is missing", "build it: launch/setup --build"});
      continue;
    }
    std::string missing;
    if (const auto libraries = ask({{"ldd", path}, {}})) {
      std::istringstream lines(libraries->output);
      for (std::string line; std::getline(lines, line);) {
        if (line.find("not found") != std::string::npos)
          missing += line.substr(line.find_first_not_of(" \t")) + "; ";
      }
    }
    if (missing.empty()) {
      out.push_back({name, Verdict::kGood, path, ""});
    } else {
      out.push_back(
          {name, Verdict::kBlocks, path + ": " + missing, "run launch/setup, then build again"});
    }
  }
}

/// mpirun as `tailor serve` starts it, for real: what stands around it can keep it from starting.
void try_mpi(Findings& out) {
  if (const auto handles = raise_file_limit(); !handles) {
    out.push_back({"file handles", Verdict::kBlocks, handles.error().message, "ulimit -n 1024"});
    return;
  }
  std::string pattern = (fs::temp_directory_path() / "tailor-doctor-XXXXXX").string();
  if (mkdtemp(pattern.data()) == nullptr) {
    out.push_back({"mpirun", Verdict::kBlocks, pattern + ": " + std::strerror(errno),
                   "free room for temporary files, or set TMPDIR"});
    return;
  }
  RunDir run;
  run.mpi = run.shared = pattern;
  ClusterOptions cluster;
  set_alone(cluster, weights::cache_folder());
  std::error_code ignored;
  for (const std::string& folder : scratch_folders(run, "trial"))
    fs::create_directories(folder, ignored);
  const Time began = now();
  const auto heard = ask(mpi_trial_line(cluster, run), kMpiTrialLimit);
  char took[32];
  std::snprintf(took, sizeof took, "%.1f s", to_seconds(now() - began));
  fs::remove_all(pattern, ignored);
  if (heard && heard->exit_code == 0) {
    const bool renamed = !mpirun_takes_host_name(cluster.host_name);
    out.push_back({"mpirun -n 1 true", Verdict::kGood,
                   std::string("works, ") + took +
                       (renamed ? "; this host's name, which Open MPI does not take, is hidden "
                                  "from it"
                                : ""),
                   ""});
    return;
  }
  std::string said;
  if (heard) {
    std::istringstream lines(heard->output);
    for (std::string line; std::getline(lines, line) && said.size() < kMpiWordsBytes;)
      if (line.find_first_not_of("- \t") != std::string::npos) said += line + " ";
  }
  const std::string how = !heard ? "cannot be started"
                          : heard->exit_code < 0
                              ? std::string("did not end by itself, ") + took
                              : "ended with code " + std::to_string(heard->exit_code);
  out.push_back({"mpirun -n 1 true", Verdict::kBlocks, how + (said.empty() ? "" : ": " + said),
                 "no cluster starts before this does"});
}

void check_mpi(Findings& out) {
  const auto heard = ask({{"mpirun", "--version"}, {}});
  if (!heard || heard->output.empty()) {
    out.push_back({"MPI", Verdict::kBlocks, "mpirun does not start",
                   "install Open MPI 4.1: apt install openmpi-bin (launch/setup does it)"});
    return;
  }
  const std::string line = heard->first_line();
  int major = 0, minor = 0;
  const size_t digits = line.find_first_of("0123456789");
  if (digits != std::string::npos) std::sscanf(line.c_str() + digits, "%d.%d", &major, &minor);
  if (line.find("Open MPI") == std::string::npos && line.find("OpenRTE") == std::string::npos) {
    out.push_back({"MPI", Verdict::kBlocks, "mpirun is not Open MPI's: " + line,
                   "put Open MPI 4.1 first on PATH, or name it with tailor serve --mpirun"});
  } else if (major != 4) {
    out.push_back({"MPI", Verdict::kNote, line,
                   "Tailor is tried with Open MPI 4.1; others may not know its options"});
  } else {
    out.push_back({"MPI", Verdict::kGood, line, ""});
  }
  if (geteuid() == 0) {
    std::string found = "running as root:";
    for (const char* name : {"OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"}) {
      const char* value = std::getenv(name);
      found += std::string(" ") + name + (value ? std::string("=") + value : " is not set") + ",";
    }
    out.push_back({"root", Verdict::kGood, found + " serve sets both to 1 for its children", ""});
  }
  try_mpi(out);
}

void check_cores(Findings& out) {
  const UsableCores cores = usable_cores();
  std::ostringstream text;
  text << cores.count() << " usable (affinity " << cores.affinity << ", cgroup quota ";
  if (cores.quota) {
    text << *cores.quota << ")";
  } else {
    text << "none)";
  }
  out.push_back({"cores", Verdict::kGood, text.str(), ""});

  ClusterOptions plan;  // of `tailor serve` alone
  plan.threads = default_threads(plan.replicas, plan.tp, cores.count());
  const int taken = plan.replicas * plan.tp * plan.threads;
  out.push_back({"slots", cores.count() >= 2 ? Verdict::kGood : Verdict::kNote,
                 "a default serve is " + shape_text(plan) + ": " + std::to_string(taken) + " of " +
                     std::to_string(cores.count()) +
                     " usable cores; more than those needs --oversubscribe",
                 cores.count() >= 2 ? "" : "two ranks need --oversubscribe here"});
}

void check_endpoint(const Options& options, Findings& out) {
  client::ClientOptions client_options;
  client_options.endpoint = options.endpoint;
  const Result<void> free = check_can_bind(options.endpoint);
  if (free) {
    out.push_back({"endpoint", Verdict::kGood, options.endpoint + " is free", ""});
    return;
  }
  auto client = client::Client::connect(client_options);
  const auto status = client ? (*client)->status(seconds(1)) : fail(client.error());
  if (status) {
    out.push_back(
        {"endpoint", Verdict::kGood,
         "a cluster answers at " + options.endpoint + (status->ready ? " (ready)" : " (not ready)"),
         ""});
  } else {
    out.push_back({"endpoint", Verdict::kBlocks, free.error().message,
                   "free the port, or pass another --endpoint"});
  }
}

void check_model(const Options& options, Findings& out) {
  if (options.model == "default") {
    out.push_back({"model cache", Verdict::kGood, weights::cache_folder(), ""});
  }
  const auto path = weights::resolve_model(options.model);
  if (!path) {
    out.push_back({"model", Verdict::kBlocks, path.error().message,
                   options.model == "default" ? "run launch/setup" : "check --model"});
    return;
  }
  const auto files = weights::WeightFiles::open(*path);
  if (!files) {
    out.push_back({"model", Verdict::kBlocks, files.error().message,
                   "fetch the model again, or choose another"});
    return;
  }
  double values = 0;
  for (const weights::TensorInfo& tensor : (*files)->tensors()) {
    values += std::accumulate(tensor.shape.begin(), tensor.shape.end(), 1.0, std::multiplies<>());
  }
  std::ostringstream text;
  text << *path << ": " << static_cast<long>(values / 1e6) << " M values, "
       << gigabytes(static_cast<double>((*files)->total_stored_bytes())) << " on disk";
  out.push_back({"model", Verdict::kGood, text.str(), ""});
  for (const std::string& remark : (*files)->remarks())
    out.push_back({"model", Verdict::kNote, remark, ""});

  if (const auto spoken = load_model_text(**files, options.chat_template); !spoken) {
    out.push_back({"text",
                   spoken.error().code == ErrorCode::kNotFound ? Verdict::kNote : Verdict::kBlocks,
                   spoken.error().message, "token ids alone can be sent"});
  } else {
    const bool ends = !spoken->end_tokens.empty();
    out.push_back({"end tokens", ends ? Verdict::kGood : Verdict::kNote,
                   end_tokens_text(written_end_tokens(*spoken)),
                   ends ? "" : "answers end at max_tokens alone: give --stop or --stop-token-ids"});
    const bool chats = spoken->chat_template != nullptr;
    out.push_back({"chat", chats ? Verdict::kGood : Verdict::kNote,
                   chats ? "the chat template compiles" : spoken->no_chat,
                   chats ? "" : "give one with tailor serve --chat-template FILE"});
  }

  constexpr double kBesides = 0.2e9;  // program, a little KV
  const double free = static_cast<double>(parallel::available_memory_bytes());
  const double stored = static_cast<double>((*files)->total_stored_bytes()) + kBesides;
  const std::string found = gigabytes(free) + " available; the weights, shared by all replicas, " +
                            "and a little KV take about " + gigabytes(stored) +
                            " (with --engine torch each replica " + gigabytes(values * 4) + ")";
  const bool fits = free > stored;
  out.push_back({"memory", fits ? Verdict::kGood : Verdict::kBlocks, found,
                 fits ? "" : "free memory, or choose a smaller model"});
}

void check_folders(Findings& out) {
  struct statvfs info;
  if (access("/dev/shm", W_OK | X_OK) != 0 || statvfs("/dev/shm", &info) != 0) {
    out.push_back({"shared memory", Verdict::kNote, "/dev/shm cannot be written",
                   "ranks will use files in the run folder, which is slower on a disk"});
  } else {
    const double free = static_cast<double>(info.f_bavail) * static_cast<double>(info.f_frsize);
    const bool enough = free > 64e6;  // Open MPI's shared segments: a few MB a rank
    out.push_back({"shared memory", enough ? Verdict::kGood : Verdict::kBlocks,
                   "/dev/shm has " + gigabytes(free) + " free",
                   enough ? "" : "make it larger (docker run --shm-size=1g)"});
  }
  const std::string root = fs::path(run_root()).parent_path().string();
  const bool writable = access(root.c_str(), W_OK | X_OK) == 0;
  out.push_back({"run folder", writable ? Verdict::kGood : Verdict::kBlocks, run_root(),
                 writable ? "" : root + " cannot be written: pass tailor serve --run-dir"});
}

// ---- the report ----

const char* name_of(Verdict verdict) {
  switch (verdict) {
    case Verdict::kGood:
      return "ok";
    case Verdict::kNote:
      return "note";
    case Verdict::kBlocks:
      return "BLOCKS";
  }
  return "";
}

int run(const Options& options) {
  Findings findings;
  findings.push_back({"tailor", Verdict::kGood,
                      std::string("version ") + TAILOR_VERSION + ", protocol " +
                          std::to_string(api::kProtocolVersion),
                      ""});
  const std::string cuda_worker = own_folder() + "/" + worker_program("cuda");
  const Gpus gpus = find_gpus();
  const auto choice = choose_engine({.has_cuda_worker = access(cuda_worker.c_str(), X_OK) == 0},
                                    [&] { return gpus; });
  check_programs(choice ? choice->engine : "cpu", findings);
  check_mpi(findings);
  check_cores(findings);
  check_folders(findings);
  check_endpoint(options, findings);
  check_model(options, findings);
  check_gpus(gpus, cuda_worker, findings);
  const bool blocked = std::any_of(findings.begin(), findings.end(),
                                   [](const Finding& f) { return f.verdict == Verdict::kBlocks; });
  std::string text;
  if (options.json) {
    nlohmann::json list = nlohmann::json::array();
    for (const Finding& f : findings) {
      list.push_back({{"topic", f.topic},
                      {"verdict", name_of(f.verdict)},
                      {"found", f.found},
                      {"change", f.change}});
    }
    text = client::dump_line({{"ok", !blocked}, {"findings", std::move(list)}});
  } else {
    for (const Finding& f : findings) {
      char head[64];
      std::snprintf(head, sizeof head, "%-7s %-19s ", name_of(f.verdict), f.topic.c_str());
      text += head + f.found + "\n";
      if (!f.change.empty()) text += std::string(28, ' ') + "-> " + f.change + "\n";
    }
    text += blocked ? "Something above blocks a cluster here.\n"
                    : "A cluster can run here: tailor serve\n";
  }
  (void)write_all(STDOUT_FILENO, text);
  return blocked ? 1 : 0;
}

}  // namespace

Command add_doctor(CLI::App& parent) {
  auto options = std::make_shared<Options>();
  CLI::App* app = parent.add_subcommand("doctor", "Check this machine and say what to change");
  app->add_option("--endpoint", options->endpoint, "The address a cluster would use");
  app->add_option("--model", options->model, "The model it would serve");
  app->add_option("--chat-template", options->chat_template, "The Jinja file it would use");
  app->add_flag("--json", options->json, "As one JSON object");
  return {app, [options] { return run(*options); }};
}

}  // namespace tailor::launch
