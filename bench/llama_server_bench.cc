#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <random>

#include "base/clock.h"
#include "base/endpoint.h"
#include "base/json_text.h"
#include "bench/http_run.h"
#include "bench/llama_bench.h"
#include "bench/load_run.h"
#include "bench/measured_child.h"
#include "bench/serve_bench.h"
#include "client/client.h"

namespace tailor::bench {
namespace {

namespace fs = std::filesystem;

constexpr int kShortestPrompt = 32, kLongestPrompt = 128;
constexpr int kVocabulary = 49152, kFirstToken = 1000;  // of the default model; none of the special
constexpr Duration kLongestRun = seconds(900), kLongestStart = seconds(120);

/// What both servers are asked: the same prompts at the same times.
struct Load {
  std::vector<std::vector<TokenId>> prompts;
  std::vector<Duration> arrivals;
  double mean_prompt = 0;
};

/// The same in every run. Prompts of 32 to 128 tokens; exponential gaps, the first request at 0.
Load make_load(const ServerComparison& options) {
  std::mt19937_64 random(1);
  const auto below = [&](uint64_t n) { return static_cast<int>(random() % n); };
  Load load;
  double at_s = 0;
  size_t tokens = 0;
  for (int i = 0; i < options.requests; ++i) {
    std::vector<TokenId> prompt(kShortestPrompt + below(kLongestPrompt - kShortestPrompt + 1));
    for (TokenId& token : prompt) token = kFirstToken + below(kVocabulary - kFirstToken);
    tokens += prompt.size();
    load.prompts.push_back(std::move(prompt));
    load.arrivals.push_back(from_seconds(at_s));
    at_s -= std::log(1 - (random() >> 11) * 0x1.0p-53) / options.rate;
  }
  load.mean_prompt = static_cast<double>(tokens) / options.requests;
  return load;
}

/// The first requests only, four tokens each: caches and threads are warm after it.
Load warm_up(const Load& load, int slots) {
  const size_t count = std::min<size_t>(load.prompts.size(), slots);
  Load few;
  few.prompts.assign(load.prompts.begin(), load.prompts.begin() + count);
  few.arrivals.resize(count);
  return few;
}

/// Output tokens a second, from the first request sent to the last answer's end.
Result<double> load_ours(client::Client& client, const Load& load, int max_tokens) {
  std::vector<api::Submit> requests;
  for (const auto& prompt : load.prompts) {
    api::Submit submit;
    submit.request_id = client::new_request_id();
    submit.prompt = prompt;
    submit.sampling = api::Sampling(SamplingParams{});  // greedy, nothing in front of it
    submit.sampling.temperature = 0;
    submit.sampling.max_tokens = max_tokens;
    submit.sampling.ignore_eos = true;
    requests.push_back(std::move(submit));
  }
  LoadOptions options;
  options.arrivals = load.arrivals;
  TAILOR_ASSIGN(const auto run, run_load(client, requests, options));
  for (const auto& row : run.rows) {
    if (!row.error.empty() || row.output_tokens != static_cast<uint32_t>(max_tokens))
      return fail(ErrorCode::kInternal, "our replica answered a request with " +
                                            std::to_string(row.output_tokens) + " tokens of " +
                                            std::to_string(max_tokens) + " " + row.error);
  }
  return run.output_tokens() / run.wall_s;
}

Result<double> load_theirs(uint16_t port, const Load& load, int max_tokens) {
  std::vector<HttpRequest> requests;
  for (size_t i = 0; i < load.prompts.size(); ++i) {
    const nlohmann::json body = {{"prompt", load.prompts[i]},  {"n_predict", max_tokens},
                                 {"ignore_eos", true},         {"cache_prompt", false},
                                 {"temperature", 0},           {"stream", false},
                                 {"samplers", {"temperature"}}};  // greedy, nothing in front of it
    requests.push_back({load.arrivals[i], "/completion", body.dump()});
  }
  TAILOR_ASSIGN(const HttpRun run, run_http(port, requests, kLongestRun));
  for (size_t i = 0; i < run.bodies.size(); ++i) {
    const nlohmann::json answer = parse_json(run.bodies[i]).value_or(nlohmann::json());
    const auto number = [&](const char* key) {
      return answer.is_object() && answer.contains(key) && answer[key].is_number_integer()
                 ? answer[key].get<int64_t>()
                 : -1;
    };
    if (number("tokens_predicted") != max_tokens ||
        number("tokens_evaluated") != static_cast<int64_t>(load.prompts[i].size()))
      return fail(ErrorCode::kProtocol,
                  "llama-server answered with " + std::to_string(number("tokens_predicted")) +
                      " tokens of " + std::to_string(max_tokens) + " to a prompt of " +
                      std::to_string(load.prompts[i].size()) + " that it saw as " +
                      std::to_string(number("tokens_evaluated")));
  }
  return static_cast<double>(load.prompts.size()) * max_tokens / run.wall_s;
}

int context_each(const ServerComparison& options) {
  return (kLongestPrompt + options.max_tokens + 255) / 256 * 256;
}

Result<double> run_ours(const ServerComparison& options, const std::string& model, const Load& load,
                        const std::string& log) {
  std::error_code ignored;
  TAILOR_ASSIGN(const std::string endpoint, with_free_port("tcp://127.0.0.1:*"));
  std::vector<std::string> args = {fs::read_symlink("/proc/self/exe", ignored).string(),
                                   "serve",
                                   "--model",
                                   model,
                                   "--engine",
                                   "cpu",
                                   "--replicas",
                                   "1",
                                   "--tp",
                                   "1",
                                   "--threads",
                                   std::to_string(options.threads),
                                   "--slots",
                                   std::to_string(options.slots),
                                   "--max-context",
                                   std::to_string(context_each(options)),
                                   "--endpoint",
                                   endpoint};
  if (options.prefill_budget > 0) {
    args.push_back("--prefill-budget");
    args.push_back(std::to_string(options.prefill_budget));
  }
  Companion cluster;
  TAILOR_TRY(cluster.start(std::move(args), log));
  TAILOR_ASSIGN(const auto client, client::Client::connect({endpoint}));
  TAILOR_TRY(wait_ready(*client, cluster));
  TAILOR_TRY(load_ours(*client, warm_up(load, options.slots), 4));
  return load_ours(*client, load, options.max_tokens);
}

Result<void> wait_healthy(uint16_t port, Companion& server) {
  Result<HttpRun> health = fail(ErrorCode::kUnavailable, "not asked yet");
  for (const Time give_up = now() + kLongestStart; now() < give_up;) {
    if (server.ended()) return fail(ErrorCode::kUnavailable, "it ended before it was ready");
    health = run_http(port, {{milliseconds(100), "/health", ""}}, seconds(2));
    if (health) return {};
  }
  return fail(std::move(health.error()));
}

Result<double> run_theirs(const PeerFolder& peer, const ServerComparison& options,
                          const std::string& model, const Load& load, const std::string& log) {
  TAILOR_ASSIGN(const std::string endpoint, with_free_port("tcp://127.0.0.1:*"));
  const std::string port = endpoint.substr(endpoint.rfind(':') + 1);
  const std::string threads = std::to_string(options.threads);
  Companion server;
  TAILOR_TRY(server.start({peer.program("llama-server"),
                           "-m",
                           model,
                           "--host",
                           "127.0.0.1",
                           "--port",
                           port,
                           "--parallel",
                           std::to_string(options.slots),
                           "-c",
                           std::to_string(options.slots * context_each(options)),
                           "-b",
                           "2048",
                           "-ub",
                           "512",
                           "-t",
                           threads,
                           "-tb",
                           threads,
                           "-fa",
                           options.flash_attention,
                           "--no-webui",
                           "--cache-ram",
                           "0",
                           "--threads-http",
                           std::to_string(options.requests)},
                          log));
  const auto number = static_cast<uint16_t>(std::stoi(port));
  TAILOR_TRY(wait_healthy(number, server));
  TAILOR_TRY(load_theirs(number, warm_up(load, options.slots), 4));
  return load_theirs(number, load, options.max_tokens);
}

}  // namespace

Result<PeerRow> compare_servers(const PeerFolder& peer, const ServerComparison& options) {
  TAILOR_ASSIGN(const std::string model, peer.model(options.format));
  const Load load = make_load(options);
  char log[] = "/tmp/tailor-bench-XXXXXX";
  const int file = mkstemp(log);
  if (file < 0) return fail(ErrorCode::kInternal, "cannot make a file in /tmp");
  close(file);
  PeerRow row{options.format,
              options.threads,
              options.slots,
              "server",
              static_cast<int>(std::lround(load.mean_prompt)),
              "-fa " + options.flash_attention};
  for (int round = 0; round < options.rounds; ++round) {
    for (const bool our_turn : {round % 2 == 0, round % 2 != 0}) {
      const auto rate = our_turn ? run_ours(options, model, load, log)
                                 : run_theirs(peer, options, model, load, log);
      if (!rate)  // the log stays: it tells more
        return fail_with(
            std::string(our_turn ? "our replica" : "llama-server") + " (log: " + log + ")",
            rate.error());
      (our_turn ? row.ours : row.theirs).push_back(*rate);
    }
    std::fprintf(stderr,
                 "tailor: servers, %s, %d thread%s, round %d of %d: %.1f and %.1f tokens/s\n",
                 options.format.c_str(), options.threads, options.threads == 1 ? "" : "s",
                 round + 1, options.rounds, row.ours.back(), row.theirs.back());
  }
  std::error_code ignored;
  fs::remove(log, ignored);
  return row;
}

}  // namespace tailor::bench
