// tailor-coordinator: the one process that clients and replicas talk to. Started by its own mpirun
// -n 1 (beyond MPI_Init and MPI_Finalize it makes no MPI call), watched by `tailor serve`. Needs of
// the model only its config, tokenizer and chat template. Once it is bound,
// RUN_DIR/coordinator.json says where. Leaves within 2 s of SIGTERM or SIGINT; exit code 1 and one
// sentence where it cannot begin.
#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <exception>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <thread>

#include "base/clock.h"
#include "base/log.h"
#include "base/watchdog.h"
#include "client/client.h"
#include "comm/coordinator_io.h"
#include "comm/mpi_environment.h"
#include "coordinator/coordinator_loop.h"
#include "coordinator/ranking.h"
#include "launch/model_text.h"
#include "launch/options/number_options.h"
#include "launch/options/program_options.h"
#include "launch/options/program_start.h"
#include "weights/default_model.h"
#include "weights/weight_files.h"

namespace tailor::launch {
namespace {

using Options = CoordinatorArguments;

constexpr unsigned kLeaveWithinSeconds = 3;  // MPI_Finalize included; then the kernel ends us

/// Of random weights only a config exists: then only its numbers are known, and the weights do not
/// matter here.
Result<std::unique_ptr<weights::WeightFiles>> open_model(const std::string& model) {
  TAILOR_ASSIGN(const std::string path, weights::resolve_model(model));
  auto files = weights::WeightFiles::open(path);
  if (files || files.error().code != ErrorCode::kNotFound) return files;
  auto config_only = weights::WeightFiles::dummy(path, 1);
  return config_only ? std::move(config_only) : std::move(files);
}

struct ServedText {
  coordinator::PromptText prompt;
  std::vector<api::EndToken> end_tokens;
};

Result<ServedText> load_text(const weights::WeightFiles& files, const std::string& template_file) {
  ServedText text;
  text.prompt.vocab_size = files.config().vocab_size;
  text.prompt.sampling = files.config().sampling;
  auto loaded = load_model_text(files, template_file);
  if (loaded) {
    text.prompt.tokenizer = loaded->tokenizer;
    text.prompt.chat_template = loaded->chat_template;
    text.prompt.no_chat = loaded->no_chat;
    if (!loaded->no_chat.empty()) LOG_WARN("no chat: {}", loaded->no_chat);
    text.end_tokens = written_end_tokens(*loaded);
    LOG_INFO("an answer ends with {}", end_tokens_text(text.end_tokens));
  } else if (loaded.error().code == ErrorCode::kNotFound && template_file.empty()) {
    LOG_WARN("serving token ids only: {}", loaded.error().message);
    for (const TokenId token : files.config().eos_tokens) text.end_tokens.push_back({token, ""});
  } else {
    return fail(loaded.error());
  }
  return text;
}

/// Complete or not there at all: whoever waits for it reads it at any moment.
Result<void> write_addresses(const std::string& run_dir, const comm::CoordinatorIo& io) {
  if (run_dir.empty()) return {};
  const std::string path = run_dir + "/coordinator.json", next = path + ".next";
  const nlohmann::json addresses = {{"api_endpoint", io.api_endpoint()},
                                    {"control_endpoint", io.control_endpoint()},
                                    {"pid", getpid()}};
  {
    std::ofstream file(next);
    file << addresses.dump() << "\n";
    if (!file.flush())
      return fail(ErrorCode::kUnavailable, "cannot write " + next + ": " + std::strerror(errno));
  }
  if (std::rename(next.c_str(), path.c_str()) != 0)
    return fail(ErrorCode::kUnavailable, "cannot write " + path + ": " + std::strerror(errno));
  return {};
}

/// Names the leader of a lost replica to the supervisor, which waits for that at RUN_DIR/lost
/// (launch/supervisor/supervisor.h). Nobody there: nobody is told.
void tell_supervisor(const std::string& run_dir, const ReplicaInfo& lost) {
  const std::string path = run_dir + "/lost", line = std::to_string(lost.pid) + "\n";
  const int fifo = open(path.c_str(), O_WRONLY | O_NONBLOCK | O_CLOEXEC);
  if (fifo < 0) return;
  struct stat info = {};
  if (fstat(fifo, &info) == 0 && S_ISFIFO(info.st_mode) &&
      write(fifo, line.data(), line.size()) < 0)
    LOG_WARN("the supervisor does not hear that process {} is lost: {}", lost.pid,
             std::strerror(errno));
  close(fifo);
}

std::string drained_file(const std::string& run_dir) { return run_dir + "/drained"; }

void remember_drained(const std::string& run_dir, ReplicaId replica) {
  std::ofstream file(drained_file(run_dir), std::ios::app);
  if (!(file << replica.value << std::endl))
    LOG_WARN("cannot write {}: a coordinator that is started anew waits for replica {}",
             drained_file(run_dir), replica.value);
}

/// Of `replicas`, those that have not drained under a coordinator before us.
uint32_t expected(const std::string& run_dir, uint32_t replicas) {
  std::set<uint32_t> drained;
  if (!run_dir.empty()) {
    std::ifstream file(drained_file(run_dir));
    for (uint32_t number; file >> number;)
      if (number < replicas) drained.insert(number);
  }
  if (!drained.empty()) LOG_INFO("{} of {} replicas have drained", drained.size(), replicas);
  return replicas - static_cast<uint32_t>(drained.size());
}

/// The FIFO of an operator's orders, for our user only; -1 where there is none.
int open_orders(const std::string& run_dir) {
  if (run_dir.empty()) return -1;
  const std::string path = run_dir + "/orders";
  unlink(path.c_str());
  // Open for writing too: without a writer it would be at its end.
  const int fifo =
      mkfifo(path.c_str(), 0600) == 0 ? open(path.c_str(), O_RDWR | O_NONBLOCK | O_CLOEXEC) : -1;
  if (fifo < 0) LOG_WARN("nobody can give orders: {}: {}", path, std::strerror(errno));
  return fifo;
}

Result<void> serve(const Options& o, int stop_fd, Progress& progress, Watchdog& watchdog) {
  coordinator::CoordinatorOptions options;
  TAILOR_ASSIGN(options.core.policy, coordinator::policy_named(o.policy));
  comm::CoordinatorIoOptions io_options;
  io_options.api_endpoint = o.endpoint;
  io_options.control_endpoint = o.control_endpoint;
  TAILOR_ASSIGN(io_options.link_key, comm::read_link_key(o.link_key));
  TAILOR_ASSIGN(
      auto io, comm::CoordinatorIo::start(io_options));  // first: an address in use is said at once
  TAILOR_ASSIGN(const auto files, open_model(o.model));
  for (const std::string& remark : files->remarks()) LOG_WARN("{}", remark);
  TAILOR_ASSIGN(auto text, load_text(*files, o.chat_template));
  const SamplingDefaults& advised = text.prompt.sampling;
  LOG_INFO(
      "where a request says nothing: temperature {}, top_k {}, top_p {}, min_p {}, "
      "repetition_penalty {}",
      advised.temperature, advised.top_k, advised.top_p, advised.min_p, advised.repetition_penalty);

  const auto since_1970 = static_cast<uint64_t>(wall_clock_ms()) / 1000;
  options.core.queue_limit = o.queue_limit;
  options.core.expected_replicas = expected(o.run_dir, o.replicas);
  // 64 Hellos a second and replica
  options.core.epoch_base = static_cast<uint32_t>(since_1970 << 6) & 0x7FFFFFFF;
  options.clients.first_request_id = since_1970 << 20;
  options.heartbeat_timeout = milliseconds(o.heartbeat_timeout_ms);
  options.progress = &progress;
  if (!o.run_dir.empty()) {
    options.on_lost = [&o](const ReplicaInfo& lost) { tell_supervisor(o.run_dir, lost); };
    options.on_drained = [&o](ReplicaId replica) { remember_drained(o.run_dir, replica); };
  }
  options.orders_fd = open_orders(o.run_dir);
  options.clients.tokenizer_threads =
      o.tokenizer_threads > 0 ? o.tokenizer_threads
                              : std::clamp(std::thread::hardware_concurrency() / 4, 2u, 8u);
  options.clients.max_context = static_cast<uint32_t>(files->config().max_position);
  options.model_name = files->config().name;
  options.version = TAILOR_VERSION;
  options.end_tokens = std::move(text.end_tokens);
  options.record_path = o.record;
  options.clients.new_token = client::new_request_id;
  if (getentropy(&options.clients.seed_entropy, sizeof options.clients.seed_entropy) != 0)
    return fail(ErrorCode::kUnavailable, "the system gives no random bytes");

  TAILOR_ASSIGN(auto loop,
                coordinator::CoordinatorLoop::create(options, *io, std::move(text.prompt)));
  TAILOR_TRY(write_addresses(o.run_dir, *io));
  LOG_INFO("serving {} to clients at {}, waiting for {} replica(s) at {}", options.model_name,
           io->api_endpoint(), options.core.expected_replicas, io->control_endpoint());
  watchdog.started();
  loop->run(stop_fd);
  return {};
}

int complain(const Error& error) {
  std::fprintf(stderr, "tailor-coordinator: %s\n", error.message.c_str());
  return 1;
}

int run(int argc, char** argv) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);  // mpirun gone = we are gone
  rlimit files{};                    // every client is a connection
  if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
  }
  Options o;
  CLI::App app(
      "The coordinator of a Tailor cluster; started by mpirun, see `tailor serve --print`.");
  coordinator_options().add_to(app, o);
  check_number_options(app);
  name_option_failures(app, "tailor-coordinator");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 1;
  }

  // Blocked before any thread begins, so that every thread inherits it: signals come by a file
  // descriptor only.
  sigset_t stop_signals;
  sigemptyset(&stop_signals);
  sigaddset(&stop_signals, SIGTERM);
  sigaddset(&stop_signals, SIGINT);
  sigprocmask(SIG_BLOCK, &stop_signals, nullptr);
  const int stop_fd = signalfd(-1, &stop_signals, SFD_CLOEXEC);
  if (stop_fd < 0)
    return complain(
        {ErrorCode::kUnavailable, std::string("signalfd failed: ") + std::strerror(errno)});

  init_logging("coordinator", o.log_level);
  Progress progress;
  progress.busy = true;
  Watchdog watchdog({{"main", &progress}}, {.stuck_after = milliseconds(o.stuck_after_ms)});
  auto mpi = comm::MpiEnvironment::start(&argc, &argv);
  if (!mpi) return complain(mpi.error());
  Result<void> end = fail(ErrorCode::kInternal, "no reason given");
  try {
    end = serve(o, stop_fd, progress, watchdog);
  } catch (const std::exception& error) {
    end = fail(ErrorCode::kInternal, error.what());
  }
  alarm(kLeaveWithinSeconds);
  return end ? 0 : complain(end.error());
}

}  // namespace
}  // namespace tailor::launch

int main(int argc, char** argv) {
  tailor::launch::open_standard_streams();
  return tailor::launch::run(argc, argv);
}
