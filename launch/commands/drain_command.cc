// `tailor drain`: takes a replica out of the cluster without breaking an answer. The order goes
// into the run folder (docs/decisions/019), so it is for who started the cluster; what follows is
// read from its status.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <memory>

#include "base/clock.h"
#include "base/endpoint.h"
#include "client/open_requests.h"
#include "launch/commands/command.h"
#include "launch/commands/terminal.h"
#include "launch/supervisor/run_dir.h"

namespace tailor::launch {
namespace {

constexpr Duration kAnswerWithin = seconds(3);
constexpr Duration kObeyedWithin = seconds(5);
constexpr Duration kLookEvery = milliseconds(100);

struct Options {
  uint32_t replica = 0;
  std::string endpoint = kDefaultEndpoint;
  std::string run_dir;
  bool no_wait = false;
};

/// What the status says of the replica.
struct View {
  const api::ReplicaStatus* replica = nullptr;  ///< null: it is not there
  double drained = 0;                           ///< replicas that have drained so far
};

View look(const api::StatusReport& report, uint32_t number) {
  View view;
  for (const api::ReplicaStatus& replica : report.replicas)
    if (replica.replica.value == number) view.replica = &replica;
  for (const auto& [name, value] : report.counters)
    if (name == "replicas_drained") view.drained = value;
  return view;
}

std::string numbers_of(const api::StatusReport& report) {
  std::string numbers;
  for (const api::ReplicaStatus& replica : report.replicas)
    numbers += (numbers.empty() ? "" : ", ") + std::to_string(replica.replica.value);
  return numbers.empty() ? "none" : numbers;
}

/// Errors: NotFound (no coordinator of this user reads orders), Unavailable.
Result<void> give_order(const Options& options, const std::string& order) {
  std::vector<RunDir> runs;
  if (options.run_dir.empty())
    runs = run_dirs_at(options.endpoint);
  else
    runs.emplace_back().path = options.run_dir;
  for (const RunDir& run : runs) {
    const int fifo = open(run.orders().c_str(), O_WRONLY | O_NONBLOCK | O_CLOEXEC);
    if (fifo < 0) continue;  // of a dead cluster
    const ssize_t written = std::filesystem::is_fifo(run.orders())
                                ? write(fifo, order.data(), order.size())
                                : (errno = EINVAL, ssize_t{-1});
    const int why = errno;
    close(fifo);
    if (written == static_cast<ssize_t>(order.size())) return {};
    return fail(ErrorCode::kUnavailable,
                "cannot write to " + run.orders() + ": " + std::strerror(why));
  }
  const std::string where = options.run_dir.empty() ? run_root() + "/*" : options.run_dir;
  return fail(ErrorCode::kNotFound,
              "no cluster of yours at " + options.endpoint + " takes orders in " + where +
                  ": drain as the user and on the machine that runs its coordinator, and name its "
                  "folder with --run-dir where it was started with one");
}

/// Follows the status until the replica is gone, or drains where nobody wants to wait for more.
int follow(const Options& options, client::Client& client, Epoch epoch, double drained_before) {
  InterruptWatch interrupts;
  const Time start = now();
  const std::string name = "replica " + std::to_string(options.replica);
  for (bool begun = false;;) {
    auto report = client.status(kAnswerWithin);
    if (!report) return print_error(report.error());
    const View view = look(*report, options.replica);
    if (!view.replica || view.replica->epoch != epoch) {
      if (view.drained > drained_before) {
        std::printf("%s has drained after %.1f s\n", name.c_str(), to_seconds(now() - start));
        return 0;
      }
      return print_error({ErrorCode::kReplicaLost,
                          name + " was lost while it drained; its requests run elsewhere, and it "
                                 "is started again"});
    }
    if (view.replica->draining && !begun) {
      begun = true;
      std::printf("%s is draining: %u requests run on it\n", name.c_str(),
                  view.replica->dispatched_requests);
      std::fflush(stdout);
      if (options.no_wait) return 0;
    }
    if (!begun && now() - start > kObeyedWithin)
      return print_error({ErrorCode::kTimeout, "the coordinator has not obeyed; see its log"});
    if (sleep_or_interrupt(interrupts, kLookEvery)) return 130;  // it goes on draining
  }
}

int run(const Options& options) {
  auto client = client::connect_to_cluster(options.endpoint, kAnswerWithin);
  if (!client) return print_error(client.error());
  auto report = (*client)->status(kAnswerWithin);
  if (!report) return print_error(report.error());
  const View before = look(*report, options.replica);
  if (!before.replica)
    return print_error({ErrorCode::kNotFound, "no replica " + std::to_string(options.replica) +
                                                  " is in the cluster at " + options.endpoint +
                                                  "; its replicas: " + numbers_of(*report)});
  if (!before.replica->draining) {
    auto given = give_order(options, "drain " + std::to_string(options.replica) + "\n");
    if (!given) return print_error(given.error());
  }
  return follow(options, **client, before.replica->epoch, before.drained);
}

}  // namespace

Command add_drain(CLI::App& parent) {
  auto options = std::make_shared<Options>();
  CLI::App* app = parent.add_subcommand(
      "drain", "Take a replica out of the cluster: it finishes what it runs, then leaves for good");
  app->add_option("replica", options->replica, "Its number, as `tailor status` shows it")
      ->required();
  app->add_option("--endpoint", options->endpoint, "The cluster's address");
  app->add_option("--run-dir", options->run_dir,
                  "The cluster's folder, where `tailor serve` was given one");
  app->add_flag("--no-wait", options->no_wait, "Return as soon as it drains");
  return {app, [options] { return run(*options); }};
}

}  // namespace tailor::launch
