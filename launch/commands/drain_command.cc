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
  const CLI::Option* endpoint_option = nullptr;
  std::string run_dir;
  bool last = false;
  bool no_wait = false;

  std::string name() const { return "replica " + std::to_string(replica); }
};

/// What the status says of the replica; null: it is not there.
const api::ReplicaStatus* find(const api::StatusReport& report, uint32_t number) {
  for (const api::ReplicaStatus& replica : report.replicas)
    if (replica.replica.value == number) return &replica;
  return nullptr;
}

bool has_drained(const api::StatusReport& report, uint32_t number, Epoch epoch) {
  return std::any_of(report.drained.begin(), report.drained.end(), [&](const auto& drained) {
    return drained.replica.value == number && drained.epoch == epoch;
  });
}

/// Nothing else serves.
bool is_last(const api::StatusReport& report, uint32_t number) {
  return std::none_of(report.replicas.begin(), report.replicas.end(),
                      [&](const api::ReplicaStatus& replica) {
                        return replica.replica.value != number && replica.ready;
                      });
}

std::string numbers_of(const api::StatusReport& report) {
  std::string numbers;
  for (const api::ReplicaStatus& replica : report.replicas)
    numbers += (numbers.empty() ? "" : ", ") + std::to_string(replica.replica.value);
  return numbers.empty() ? "none" : numbers;
}

/// The cluster of --run-dir is the one that is asked. Errors: NotFound, InvalidArgument.
Result<void> agree(Options& options) {
  if (options.run_dir.empty()) return {};
  RunDir run;
  run.path = options.run_dir;
  const auto addresses = read_addresses(run);
  if (!addresses)
    return fail(ErrorCode::kNotFound, "no cluster runs in " + options.run_dir + ": there is no " +
                                          run.coordinator_json());
  const std::string own = local_address(addresses->api_endpoint);
  if (options.endpoint_option->count() == 0)
    options.endpoint = own;
  else if (own != local_address(options.endpoint))
    return fail(ErrorCode::kInvalidArgument, "the cluster in " + options.run_dir + " is at " + own +
                                                 ", not at " + options.endpoint +
                                                 ": name one of them, or both of one cluster");
  return {};
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
int follow(const Options& options, client::Client& client, Epoch epoch) {
  InterruptWatch interrupts;
  const Time start = now();
  const std::string name = options.name();
  for (bool begun = false;;) {
    auto report = client.status(kAnswerWithin);
    if (!report) return print_error(report.error());
    const api::ReplicaStatus* replica = find(*report, options.replica);
    if (!replica || replica->epoch != epoch) {
      if (has_drained(*report, options.replica, epoch)) {
        std::printf("%s has drained after %.1f s\n", name.c_str(), to_seconds(now() - start));
        return 0;
      }
      return print_error({ErrorCode::kReplicaLost,
                          name + " was lost while it drained; its requests run elsewhere, and it "
                                 "is started again"});
    }
    if (replica->draining && !begun) {
      begun = true;
      std::printf("%s is draining: %u requests run on it%s\n", name.c_str(),
                  replica->dispatched_requests,
                  options.no_wait ? "; it leaves when they have ended" : "");
      std::fflush(stdout);
      if (options.no_wait) return 0;
    }
    if (!begun && now() - start > kObeyedWithin)
      return print_error({ErrorCode::kTimeout, "the coordinator has not obeyed; see its log"});
    if (sleep_or_interrupt(interrupts, kLookEvery)) return 130;  // it goes on draining
  }
}

int run(Options options) {
  if (auto agreed = agree(options); !agreed) return print_error(agreed.error());
  auto client = client::connect_to_cluster(options.endpoint, kAnswerWithin);
  if (!client) return print_error(client.error());
  auto report = (*client)->status(kAnswerWithin);
  if (!report) return print_error(report.error());
  const api::ReplicaStatus* before = find(*report, options.replica);
  if (!before)
    return print_error({ErrorCode::kNotFound, "no " + options.name() + " is in the cluster at " +
                                                  options.endpoint +
                                                  "; its replicas: " + numbers_of(*report)});
  if (!before->draining) {
    if (!options.last && is_last(*report, options.replica))
      return print_error({ErrorCode::kInvalidArgument,
                          options.name() + " is the last that serves: what waits would end, and "
                                           "what arrives be rejected; --last drains it all the "
                                           "same"});
    // Another may have left a piece of a line: ours begins behind its end.
    auto given = give_order(
        options, "\ndrain " + std::to_string(options.replica) + (options.last ? " last\n" : "\n"));
    if (!given) return print_error(given.error());
  }
  return follow(options, **client, before->epoch);
}

}  // namespace

Command add_drain(CLI::App& parent) {
  auto options = std::make_shared<Options>();
  CLI::App* app = parent.add_subcommand(
      "drain", "Take a replica out of the cluster: it finishes what it runs, then leaves for good");
  app->add_option("replica", options->replica, "Its number, as `tailor status` shows it")
      ->required();
  options->endpoint_option =
      app->add_option("--endpoint", options->endpoint, "The cluster's address");
  app->add_option("--run-dir", options->run_dir,
                  "The cluster's folder, where `tailor serve` was given one");
  app->add_flag(
      "--last", options->last,
      "Also the last replica that serves: what waits then ends, what arrives is rejected");
  app->add_flag("--no-wait", options->no_wait, "Return as soon as it has begun to");
  return {app, [options] { return run(*options); }};
}

}  // namespace tailor::launch
