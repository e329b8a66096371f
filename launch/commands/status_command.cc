// `tailor status`: the cluster at a glance, or everything as JSON.
#include <unistd.h>

#include <cstdio>
#include <memory>

#include "base/clock.h"
#include "base/endpoint.h"
#include "client/answer.h"
#include "client/open_requests.h"
#include "launch/commands/command.h"
#include "launch/commands/terminal.h"
#include "launch/model_text.h"
#include "launch/options/number_options.h"

namespace tailor::launch {
namespace {

using nlohmann::json;

struct Options {
  std::string endpoint = kDefaultEndpoint;
  bool json = false;
  bool quiet = false;
  double wait_s = 0;
  double timeout_s = 3;
};

json to_json(const ReplicaInfo& info) {
  return {{"model_fingerprint", info.model_fingerprint},
          {"arithmetic_version", info.arithmetic_version},
          {"engine", info.engine},
          {"tp_size", info.tp_size},
          {"slots", info.slots},
          {"block_tokens", info.block_tokens},
          {"num_blocks", info.num_blocks},
          {"max_context", info.max_context},
          {"vocab_size", info.vocab_size},
          {"host", info.host},
          {"pid", info.pid}};
}

json to_json(const api::StatusReport& report) {
  json replicas = json::array();
  for (const api::ReplicaStatus& replica : report.replicas) {
    json item = to_json(replica.info);
    item.update({{"replica", replica.replica.value},
                 {"epoch", replica.epoch.value},
                 {"ready", replica.ready},
                 {"draining", replica.draining},
                 {"running_sequences", replica.running_sequences},
                 {"dispatched_requests", replica.dispatched_requests},
                 {"free_blocks", replica.free_blocks},
                 {"commands_in_flight", replica.commands_in_flight},
                 {"steps", replica.steps},
                 {"tokens", replica.tokens},
                 {"step_ms", replica.step_ms},
                 {"forward_ms", replica.forward_ms},
                 {"busy_s", replica.busy_s},
                 {"forward_s", replica.forward_s},
                 {"sample_s", replica.sample_s},
                 {"tokens_per_s", replica.tokens_per_s}});
    replicas.push_back(std::move(item));
  }
  json counters = json::object();
  for (const auto& [name, value] : report.counters) counters[name] = value;
  json end_tokens = json::array();
  for (const api::EndToken& end : report.end_tokens)
    end_tokens.push_back({{"token", end.token}, {"text", end.text}});
  json drained = json::array();
  for (const api::DrainedReplica& life : report.drained)
    drained.push_back({{"replica", life.replica.value}, {"epoch", life.epoch.value}});
  return {{"ready", report.ready},
          {"version", report.version},
          {"protocol_version", report.protocol_version},
          {"model", report.model},
          {"policy", report.policy},
          {"predictor", report.predictor},
          {"end_tokens", std::move(end_tokens)},
          {"waiting_requests", report.waiting_requests},
          {"active_requests", report.active_requests},
          {"queue_limit", report.queue_limit},
          {"expected_replicas", report.expected_replicas},
          {"uptime_s", report.uptime_s},
          {"replicas", std::move(replicas)},
          {"drained", std::move(drained)},
          {"counters", std::move(counters)}};
}

std::string table(const std::string& endpoint, const api::StatusReport& report) {
  char line[512];
  std::string out;
  const auto add = [&](auto... args) {
    std::snprintf(line, sizeof line, args...);
    out += line;
  };
  size_t ready = 0;
  for (const api::ReplicaStatus& replica : report.replicas) ready += replica.ready ? 1 : 0;
  add("%s at %s, up %.0f s: %zu of %u replicas ready%s\n", report.ready ? "ready" : "NOT READY",
      endpoint.c_str(), report.uptime_s, ready, report.expected_replicas,
      report.expected_replicas == 0 ? ": every one drains or has drained" : "");
  add("model %s, policy %s, tailor %s (protocol %u)\n", report.model.c_str(), report.policy.c_str(),
      report.version.c_str(), report.protocol_version);
  out += "an answer ends with " + end_tokens_text(report.end_tokens) +
         (report.end_tokens.empty() ? ": answers end at max_tokens\n" : "\n");
  add("requests: %u waiting (limit %u), %u active\n", report.waiting_requests, report.queue_limit,
      report.active_requests);
  const auto counter = [&](const char* name) {
    for (const auto& [key, value] : report.counters)
      if (key == name) return value;
    return 0.0;
  };
  if (!report.predictor.empty() && report.predictor != "none")
    add("predictor %s: %.0f predicted, %.0f late, %.0f dropped, %.0f times lost\n",
        report.predictor.c_str(), counter("predictor_answered"), counter("predictor_late"),
        counter("predictor_dropped"), counter("predictor_losses"));
  if (report.replicas.empty()) return out;
  add("\n%-8s %-9s %3s %-6s %9s %4s %14s %9s %9s %10s %9s\n", "replica", "state", "tp", "engine",
      "running", "cmds", "KV blocks used", "steps", "step ms", "tokens", "tokens/s");
  for (const api::ReplicaStatus& r : report.replicas) {
    const char* state = r.draining ? "draining" : r.ready ? "ready" : "starting";
    const uint32_t used = r.info.num_blocks > r.free_blocks ? r.info.num_blocks - r.free_blocks : 0;
    add("%-8u %-9s %3u %-6s %4u/%-4u %4llu %6u/%-7u %9llu %9.1f %10llu %9.1f\n", r.replica.value,
        state, r.info.tp_size, r.info.engine.c_str(), r.running_sequences, r.info.slots,
        static_cast<unsigned long long>(r.commands_in_flight), r.ready || r.draining ? used : 0,
        r.info.num_blocks, static_cast<unsigned long long>(r.steps), r.step_ms,
        static_cast<unsigned long long>(r.tokens), r.tokens_per_s);
  }
  return out;
}

int run(const Options& options) {
  InterruptWatch interrupts;
  const Duration timeout = from_seconds(options.timeout_s);
  const Time until = now() + from_seconds(options.wait_s);
  client::ClientOptions client_options;
  client_options.endpoint = options.endpoint;
  auto client = client::Client::connect(client_options);
  if (!client) return print_error(client.error());
  while (true) {
    Result<api::StatusReport> report = (*client)->status(timeout);
    const bool ready = report && report->ready;
    if (!ready && now() < until) {
      if (sleep_or_interrupt(interrupts, milliseconds(100))) return 130;
      continue;
    }
    if (!report) {
      if (options.quiet) return 1;
      if (options.json) {
        const json out = {{"ready", false}, {"error", client::error_to_json(report.error())}};
        (void)write_all(STDOUT_FILENO, client::dump_line(out), &interrupts);
      }
      if (report.error().code != ErrorCode::kTimeout) return print_error(report.error());
      return print_error(client::no_cluster_at(options.endpoint));
    }
    if (!options.quiet) {
      const std::string text =
          options.json ? client::dump_line(to_json(*report)) : table(options.endpoint, *report);
      if (!write_all(STDOUT_FILENO, text, &interrupts)) return interrupts.interrupted() ? 130 : 1;
    }
    return ready || (options.wait_s <= 0 && !options.quiet) ? 0 : 1;
  }
}

}  // namespace

Command add_status(CLI::App& parent) {
  auto options = std::make_shared<Options>();
  CLI::App* app = parent.add_subcommand("status", "Show replicas, queue, KV use and counters");
  app->add_option("--endpoint", options->endpoint, "The cluster's address");
  app->add_flag("--json", options->json, "Everything, as one JSON object");
  app->add_option("--wait", options->wait_s,
                  "Wait up to that many seconds for ready; not ready then = exit code 1")
      ->check(wait_seconds());
  app->add_option("--timeout", options->timeout_s, "Seconds to wait for an answer")
      ->check(wait_seconds());
  app->add_flag("--quiet", options->quiet, "Print nothing; exit code 0 = ready");
  return {app, [options] { return run(*options); }};
}

}  // namespace tailor::launch
