// tailor-worker: one tensor-parallel rank of one replica. Started by mpirun (one per failure
// domain), watched by `tailor serve`. Rank 0 leads: it talks to the coordinator, plans and samples;
// the others replay its plans. Built once per engine (launch/worker_engine.h). Exit codes:
// worker/exit_codes.h.
#include <signal.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <fstream>
#include <span>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/log.h"
#include "base/watchdog.h"
#include "comm/collective_mpi.h"
#include "comm/collective_shm.h"
#include "comm/mpi_environment.h"
#include "comm/worker_io.h"
#include "launch/device_collective.h"
#include "launch/device_place.h"
#include "launch/model_text.h"
#include "launch/options/number_options.h"
#include "launch/options/program_options.h"
#include "launch/options/program_start.h"
#include "launch/worker_engine.h"
#include "parallel/engine.h"
#include "weights/default_model.h"
#include "weights/weight_files.h"
#include "worker/follower_loop.h"
#include "worker/leader_loop.h"
#include "worker/token_budget.h"

namespace tailor::launch {
namespace {

using namespace worker;  // exit codes and loops

using Options = WorkerArguments;

constexpr Duration kStepTarget = milliseconds(150);
static_assert(kMostPrefillBudget == kMaxTokenBudget);

/// DIR/replica-I.progress: a number 0..1 for the supervisor's bar, replaced atomically. Rank 0
/// only.
class LoadProgress {
 public:
  LoadProgress(const Options& o, bool leader)
      : path_(o.run_dir.empty() || !leader
                  ? ""
                  : o.run_dir + "/replica-" + std::to_string(o.replica) + ".progress") {}

  void show(double part) {
    if (path_.empty() || (part < last_ + 0.01 && part < 1)) return;
    last_ = part;
    const std::string next = path_ + ".next";
    std::ofstream(next) << part << "\n";
    std::rename(next.c_str(), path_.c_str());
  }

 private:
  const std::string path_;
  double last_ = -1;
};

/// A failure before serving begins, and how to leave.
struct Stop {
  int code;
  Error error;
};
template <class T>
using Step = tl::expected<T, Stop>;

template <class T>
Step<T> or_stop(Result<T> result, int code) {
  if (!result) return tl::unexpected(Stop{code, std::move(result.error())});
  if constexpr (std::is_void_v<T>)
    return {};
  else
    return std::move(*result);
}

#define STEP_TRY(decl, expr, code)                                            \
  auto TAILOR_CONCAT(step_, __LINE__) = or_stop((expr), (code));              \
  if (!TAILOR_CONCAT(step_, __LINE__))                                        \
    return tl::unexpected(std::move(TAILOR_CONCAT(step_, __LINE__).error())); \
  decl = std::move(*TAILOR_CONCAT(step_, __LINE__))

std::string host_name() {
  std::array<char, 256> name{};
  gethostname(name.data(), name.size() - 1);
  return name.data();
}

/// This rank's number among its replica's ranks on its host.
Result<int> local_rank(comm::Collective& control) {
  std::array<char, 256> mine{};
  gethostname(mine.data(), mine.size() - 1);
  std::vector<char> all(mine.size() * control.size());
  TAILOR_TRY(
      control.all_gather(std::as_bytes(std::span(mine)), std::as_writable_bytes(std::span(all))));
  int lower = 0;
  for (int rank = 0; rank < control.rank(); ++rank)
    lower += std::strcmp(all.data() + rank * mine.size(), mine.data()) == 0;
  return lower;
}

/// Rank 0's `value`, up to 255 bytes, on every rank.
Result<std::string> from_leader(comm::Collective& control, const std::string& value) {
  std::array<char, 256> text{};
  std::strncpy(text.data(), value.c_str(), text.size() - 1);
  TAILOR_TRY(control.broadcast(std::as_writable_bytes(std::span(text)), 0));
  return std::string(text.data());
}

Result<int32_t> minimum(comm::Collective& control, int32_t mine) {
  std::vector<int32_t> all(control.size());
  TAILOR_TRY(control.all_gather(std::as_bytes(std::span(&mine, 1)),
                                std::as_writable_bytes(std::span(all))));
  return *std::min_element(all.begin(), all.end());
}

/// A rank that hangs leaves by its own watchdog; this bound is behind it, and also covers loading.
Duration collective_deadline(const Options& o) {
  return milliseconds(o.stuck_after_ms) + seconds(120);
}

/// What moves plans and, on the CPU, the engine's bytes between this replica's ranks; null: the
/// control collective does. All ranks get the same. Errors: with --transport shm, why it cannot be.
Result<std::unique_ptr<comm::Collective>> make_host_transport(const Options& o,
                                                              comm::Collective& control) {
  std::unique_ptr<comm::Collective> none;
  if (control.size() == 1 || o.device != "cpu") return none;
  const bool speaks = control.rank() == 0;
  std::string why_mpi = "as asked";
  if (o.transport != "mpi") {
    TAILOR_ASSIGN(const bool one_host, comm::ranks_share_host(control));
    if (one_host || o.transport == "shm") {
      auto shm = comm::make_shm_collective(
          control, {.deadline = collective_deadline(o), .ranks_on_host = o.ranks_on_host});
      if (shm && speaks) LOG_INFO("transport between the ranks: shared memory");
      if (shm || o.transport == "shm") return shm;
      why_mpi = shm.error().message;
    } else {
      why_mpi = "the ranks do not share a host's memory";
    }
  }
  if (speaks) LOG_INFO("transport between the ranks: MPI ({})", why_mpi);
  return none;
}

Result<std::unique_ptr<weights::WeightFiles>> open_files(const Options& o) {
  TAILOR_ASSIGN(std::string path, weights::resolve_model(o.model));
  return o.dummy_weights ? weights::WeightFiles::dummy(path, o.dummy_seed)
                         : weights::WeightFiles::open(path);
}

/// The leader binds its doorbell on loopback where all ranks share its host, and tells the others
/// where.
Result<std::unique_ptr<comm::WorkerIo>> start_io(const Options& o, comm::Collective& control,
                                                 const Progress& progress) {
  comm::WorkerIoOptions io;
  io.control_endpoint = o.control_endpoint;
  TAILOR_ASSIGN(io.link_key, comm::read_link_key(o.link_key));
  io.replica = ReplicaId{static_cast<uint32_t>(o.replica)};
  io.rank = static_cast<uint32_t>(control.rank());
  io.tp_size = static_cast<uint32_t>(control.size());
  if (control.size() == 1) return comm::WorkerIo::start(io, progress);

  TAILOR_ASSIGN(const std::string leader_host, from_leader(control, host_name()));
  TAILOR_ASSIGN(const int32_t one_host, minimum(control, leader_host == host_name()));
  std::unique_ptr<comm::WorkerIo> started;
  std::string endpoint;
  if (control.rank() == 0) {
    if (!one_host) io.doorbell_bind = "tcp://*:*";
    TAILOR_ASSIGN(started, comm::WorkerIo::start(io, progress));
    endpoint = started->doorbell_endpoint();
    if (!one_host) endpoint = "tcp://" + leader_host + endpoint.substr(endpoint.rfind(':'));
  }
  TAILOR_ASSIGN(io.doorbell_endpoint, from_leader(control, endpoint));
  if (control.rank() == 0) return started;
  return comm::WorkerIo::start(io, progress);
}

/// Ranks on several hosts read files of their own.
Result<void> check_same_model(comm::Collective& control, const std::string& fingerprint) {
  if (control.size() == 1) return {};
  TAILOR_ASSIGN(const std::string leaders, from_leader(control, fingerprint));
  if (leaders == fingerprint) return {};
  return fail(ErrorCode::kInvalidArgument, "rank " + std::to_string(control.rank()) +
                                               " has the model " + fingerprint + ", rank 0 has " +
                                               leaders + ": expected the same on every host");
}

/// An engine that could not be made: the device's fault, or the model's.
Stop stop_of(Error error) {
  const bool device = error.code == ErrorCode::kDeviceFailure ||
                      error.code == ErrorCode::kUnavailable || error.code == ErrorCode::kTimeout;
  return {device ? kExitDevice : kExitModel, std::move(error)};
}

struct Loaded : WorkerEngine {
  std::shared_ptr<const text::Tokenizer> tokenizer;  ///< leader only; null: token ids only
  std::string fingerprint;
  std::vector<TokenId> eos_tokens;
  int32_t num_blocks = 0, max_context = 0, token_budget = 0;
};

/// `transport`: what moves the engine's bytes on the CPU. `device`: this rank's.
Step<Loaded> load(const Options& o, const std::string& device, comm::Collective& control,
                  comm::Collective& transport, LoadProgress& shown,
                  std::atomic<uint64_t>& progress) {
  Loaded out;
  const bool leader = control.rank() == 0;
  STEP_TRY(auto files, open_files(o), kExitModel);
  out.fingerprint = files->fingerprint([&shown](double part) { shown.show(0.1 * part); });
  if (auto same = check_same_model(control, out.fingerprint); !same)
    return tl::unexpected(Stop{kExitModel, std::move(same.error())});
  out.eos_tokens = files->config().eos_tokens;
  if (leader) {
    for (const std::string& remark : files->remarks()) LOG_WARN("{}", remark);
    auto text = load_model_text(*files, o.chat_template);
    if (text) {
      out.tokenizer = text->tokenizer;
      out.eos_tokens = text->end_tokens;
    } else if (o.dummy_weights) {
      LOG_WARN("serving token ids only: {}", text.error().message);
    } else {
      return tl::unexpected(Stop{kExitModel, text.error()});
    }
  }
  STEP_TRY(const int local, local_rank(control), kExitDevice);
  parallel::EngineOptions engine;
  engine.device = device;
  engine.dtype = o.dtype;
  engine.kv_dtype = o.kv_dtype;
  engine.instruction_set = o.instruction_set;
  // Random weights are not worth keeping: their packed form goes with the cluster.
  const std::string kept = o.dummy_weights ? o.run_dir : weights::cache_folder();
  if (!kept.empty()) engine.packed_folder = kept + "/packed";
  engine.threads = o.threads;
  if (o.pin) engine.first_core = (o.replica * o.tp + local) * o.threads;
  engine.kv_bytes = o.kv_memory;
  engine.max_context = o.max_context;
  engine.max_rows = max_rows({.slots = o.slots, .token_budget = kMaxTokenBudget});
  engine.slots = o.slots;
  engine.end_tokens = out.eos_tokens;
  engine.ranks_on_host = o.ranks_on_host;
  engine.on_load_progress = [&](double part) {
    ++progress;
    shown.show(0.95 * part);
  };
  engine.progress = &progress;
  engine.device_deadline = collective_deadline(o);
  auto made = make_worker_engine({*files, control, transport}, engine);
  if (!made) return tl::unexpected(stop_of(std::move(made.error())));
  static_cast<WorkerEngine&>(out) = std::move(*made);
  if (auto same = files->check_unchanged(); !same)
    return tl::unexpected(Stop{kExitModel, std::move(same.error())});
  parallel::log_ready(out.engine->info());

  STEP_TRY(out.num_blocks, minimum(control, out.engine->info().num_blocks), kExitUnavailable);
  const int64_t room = int64_t{out.num_blocks} * kv::kBlockTokens;
  out.max_context = static_cast<int32_t>(std::min<int64_t>(out.engine->info().max_context, room));
  out.token_budget = o.prefill_budget;
  if (o.prefill_budget == 0) {
    STEP_TRY(
        out.token_budget,
        measure_token_budget(*out.engine, leader, out.num_blocks, kv::kBlockTokens, kStepTarget),
        kExitDevice);
  }
  return out;
}

LeaderOptions leader_options(const Options& o, const Loaded& loaded) {
  LeaderOptions options;
  const parallel::EngineInfo& info = loaded.engine->info();
  options.replica = ReplicaId{static_cast<uint32_t>(o.replica)};
  options.hello.info = {.model_fingerprint = loaded.fingerprint,
                        .arithmetic_version = info.arithmetic_version,
                        .engine = info.name,
                        .tp_size = static_cast<uint32_t>(o.tp),
                        .slots = static_cast<uint32_t>(o.slots),
                        .block_tokens = kv::kBlockTokens,
                        .num_blocks = static_cast<uint32_t>(loaded.num_blocks),
                        .max_context = static_cast<uint32_t>(loaded.max_context),
                        .vocab_size = static_cast<uint32_t>(info.vocab_size),
                        .host = host_name(),
                        .pid = getpid()};
  options.planner = {
      .num_blocks = loaded.num_blocks, .slots = o.slots, .token_budget = loaded.token_budget};
  options.limits = {.eos_tokens = loaded.eos_tokens, .max_context = loaded.max_context};
  return options;
}

/// A head that does not fit the model is no reason not to serve it.
LengthProbe load_probe(const Options& o, const Loaded& loaded) {
  if (o.probe.empty()) return {};
  auto probe = LengthProbe::load(o.probe, loaded.fingerprint, loaded.engine->info());
  if (!probe) {
    LOG_WARN("no probe of answer lengths: {}", probe.error().message);
    return {};
  }
  LOG_INFO("probe of answer lengths: {}", probe->describe());
  return std::move(*probe);
}

/// What the watchdog watches.
struct Signs {
  Progress main, text;
};

/// `launch`: of all workers that this mpirun runs.
Step<LoopExit> serve(const Options& o, comm::Collective& control, comm::Collective& launch,
                     Signs& signs, Watchdog& watchdog) {
  const bool leader = control.rank() == 0;
  LoadProgress shown(o, leader);
  shown.show(0);
  Progress& progress = signs.main;
  const Time start = now();
  STEP_TRY(const std::string device, device_of_rank(o.device, launch), kExitDevice);
  STEP_TRY(const auto host_transport, make_host_transport(o, control), kExitUnavailable);
  comm::Collective& transport = host_transport ? *host_transport : control;
  auto loaded = load(o, device, control, transport, shown, progress.counter);
  if (!loaded) return tl::unexpected(std::move(loaded.error()));
  STEP_TRY(auto io, start_io(o, control, progress), kExitUnavailable);
  shown.show(1);
  watchdog.started();
  if (!leader)
    return run_follower({*loaded->engine, transport, *io, progress, loaded->store.get()});
  LOG_INFO("ready in {:.1f} s: {} blocks of {} tokens, context {}, {} slots, {} rows a step",
           to_seconds(now() - start), loaded->num_blocks, kv::kBlockTokens, loaded->max_context,
           o.slots, loaded->token_budget);
  comm::Collective* followers = control.size() > 1 ? &transport : nullptr;
  LeaderOptions options = leader_options(o, *loaded);
  options.probe = load_probe(o, *loaded);
  options.leaves_when_drained = launch.size() == o.tp;
  LeaderLoop loop({*loaded->engine, followers, *io, progress, loaded->tokenizer, &signs.text,
                   loaded->store.get()},
                  options);
  return loop.run();
}

int run(int argc, char** argv) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);  // mpirun gone = we are gone
  Options o;
  CLI::App app(
      "One tensor-parallel rank of a Tailor replica; started by mpirun, see `tailor serve "
      "--print`.");
  o.engine = worker_engine_name();
  worker_options().add_to(app, o);
  app.get_option("--engine")->check(CLI::IsMember({worker_engine_name()}));
  check_number_options(app);
  name_option_failures(app, "tailor-worker");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? kExitOk : kExitUsage;
  }

  const std::string name = "replica " + std::to_string(o.replica);
  init_logging(name, o.log_level);
  Signs signs;  // outlives MPI: to finalize can hang too
  signs.main.busy = true;
  Watchdog watchdog({{"main", &signs.main}, {"text", &signs.text}},
                    {.stuck_after = milliseconds(o.stuck_after_ms)});
  auto environment = comm::MpiEnvironment::start(&argc, &argv);
  if (!environment)
    return std::fprintf(stderr, "tailor worker: %s\n", to_string(environment.error()).c_str()),
           kExitUnavailable;
  comm::MpiEnvironment& mpi = **environment;
  auto communicator = mpi.replica_communicator(o.tp);
  auto workers = communicator ? mpi.workers_communicator(o.tp) : communicator;
  if (!workers) communicator = workers;
  if (!communicator) {
    std::fprintf(stderr, "tailor worker: %s\n", to_string(communicator.error()).c_str());
    std::fflush(stderr);
    _exit(kExitUsage);
  }
  auto control = comm::make_mpi_collective(*communicator, {.deadline = collective_deadline(o)});
  auto launch = comm::make_mpi_collective(*workers, {.deadline = collective_deadline(o)});
  rename_logging(name + " rank " + std::to_string(control->rank()));

  const bool alone = mpi.world_size() == o.tp;
  Step<LoopExit> end = tl::unexpected(Stop{kExitDevice, {ErrorCode::kInternal, "no reason given"}});
  try {
    end = serve(o, *control, *launch, signs, watchdog);
  } catch (const std::exception& error) {
    end = tl::unexpected(Stop{kExitDevice, {ErrorCode::kInternal, error.what()}});
  }
  if (!end) LOG_ERROR("{}", to_string(end.error().error));
  const int code = end ? end->code : end.error().code;
  // MPI_Finalize waits for the whole world. The peers may be gone or stuck; and where one mpirun
  // runs more than this replica, the others stay: it is one failure domain, mpirun takes it down.
  const bool others_stay = !alone && code != kExitOk;
  if (!end || !end->together || others_stay) {
    LOG_INFO("leaving at once with code {}", code);
    mpi.abandon();
    flush_log();
    _exit(code);
  }
  LOG_INFO("leaving with code {}", code);
  return code;
}

}  // namespace
}  // namespace tailor::launch

int main(int argc, char** argv) {
  tailor::launch::open_standard_streams();
  return tailor::launch::run(argc, argv);
}
