#include "bench/serve_bench.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>

#include "base/clock.h"
#include "base/endpoint.h"
#include "base/json_text.h"
#include "bench/load_run.h"
#include "bench/measured_child.h"
#include "bench/peer_report.h"
#include "client/client.h"
#include "weights/default_model.h"

namespace tailor::bench {
namespace {

namespace fs = std::filesystem;

struct HostShare {
  double busy_s = 0, forward_s = 0, sample_s = 0;
  double share() const { return busy_s > 0 ? 1 - (forward_s + sample_s) / busy_s : 0; }
};

Result<HostShare> host_share(client::Client& client) {
  TAILOR_ASSIGN(const auto status, client.status(seconds(5)));
  HostShare sum;
  for (const auto& replica : status.replicas) {
    sum.busy_s += replica.busy_s;
    sum.forward_s += replica.forward_s;
    sum.sample_s += replica.sample_s;
  }
  return sum;
}

struct LevelResult {
  std::vector<double> tokens_per_s, host_shares;
};

Result<void> run_level(client::Client& client, const ServeComparison& options, int level,
                       LevelResult& out) {
  std::vector<api::Submit> requests(options.requests.begin(), options.requests.begin() + 2 * level);
  for (auto& request : requests) request.request_id = client::new_request_id();
  TAILOR_ASSIGN(const auto before, host_share(client));
  LoadOptions load;
  load.concurrency = level;
  TAILOR_ASSIGN(const auto result, run_load(client, requests, load));
  for (const auto& row : result.rows) {
    if (!row.error.empty())
      return fail(ErrorCode::kInternal, "a request of the run failed: " + row.error);
  }
  TAILOR_ASSIGN(const auto after, host_share(client));
  out.tokens_per_s.push_back(result.output_tokens() / result.wall_s);
  out.host_shares.push_back(HostShare{after.busy_s - before.busy_s,
                                      after.forward_s - before.forward_s,
                                      after.sample_s - before.sample_s}
                                .share());
  return {};
}

/// The token ids of the first `count` requests, as the server tokenizes them.
Result<std::vector<std::vector<TokenId>>> tokenize(client::Client& client,
                                                   const ServeComparison& options, size_t count) {
  std::vector<api::Submit> requests(options.requests.begin(), options.requests.begin() + count);
  std::vector<std::vector<TokenId>> ids(count);
  for (auto& request : requests) {
    request.request_id = client::new_request_id();
    request.sampling.max_tokens = 1;
  }
  LoadOptions load;
  load.on_event = [&](const api::ServerEvent& event, size_t index) {
    if (const auto* accepted = std::get_if<api::Accepted>(&event))
      ids[index] = accepted->prompt_token_ids;
  };
  TAILOR_ASSIGN(const auto ran, run_load(client, requests, load));
  for (const auto& prompt : ids) {
    if (prompt.empty())
      return fail(ErrorCode::kInternal, "the server did not tell a prompt's token ids");
  }
  return ids;
}

Result<double> run_reference(const ServeComparison& options, const std::string& model,
                             const std::string& prompts, const std::string& script) {
  const std::string threads = std::to_string(options.threads);
  const std::string command =
      to_shell({{options.reference_python, script, "--model", model, "--prompts", prompts,
                 "--max-tokens", std::to_string(options.max_tokens), "--threads", threads},
                {{"OMP_NUM_THREADS", threads}}}) +
      " 2>" + to_shell({{prompts + ".log"}, {}});
  std::FILE* pipe = popen(command.c_str(), "r");
  if (pipe == nullptr)
    return fail(ErrorCode::kInternal, "could not start " + options.reference_python);
  std::string output;
  char buffer[4096];
  while (size_t n = std::fread(buffer, 1, sizeof buffer, pipe)) output.append(buffer, n);
  const int status = pclose(pipe);
  const auto json = parse_json(output);
  if (status == 0 && json && json->is_object() && json->contains("tokens_per_s"))
    return (*json)["tokens_per_s"].get<double>();
  std::ifstream log(prompts + ".log");
  const std::string said(std::istreambuf_iterator<char>(log), {});
  return fail(ErrorCode::kInternal, "the reference run failed: " + last_line(said));
}

ComparisonReport make_report(const ServeComparison& options,
                             const std::map<int, LevelResult>& levels,
                             const std::vector<double>& reference) {
  const double theirs = median(reference);
  nlohmann::ordered_json json = {
      {"model", options.model},           {"engine", options.engine},
      {"threads", options.threads},       {"rounds", options.rounds},
      {"max_tokens", options.max_tokens}, {"transformers_tokens_per_s", theirs},
      {"transformers_rounds", reference}};
  std::string table;
  char line[200];
  std::snprintf(line, sizeof line, "%-12s %16s %22s %8s %12s\n", "concurrent", "tailor tokens/s",
                "transformers, 1 by 1", "ratio", "host share");
  table += line;
  for (const auto& [level, result] : levels) {
    const double ours = median(result.tokens_per_s), host = median(result.host_shares);
    if (reference.empty()) {
      std::snprintf(line, sizeof line, "%-12d %16.1f %22s %8s %11.2f%%\n", level, ours, "-", "-",
                    100 * host);
    } else {
      std::snprintf(line, sizeof line, "%-12d %16.1f %22.1f %7.2fx %11.2f%%\n", level, ours, theirs,
                    ours / theirs, 100 * host);
    }
    table += line;
    json["levels"].push_back({{"concurrent", level},
                              {"tokens_per_s", ours},
                              {"rounds", result.tokens_per_s},
                              {"ratio", theirs > 0 ? ours / theirs : 0},
                              {"host_share", host}});
  }
  return {table, json.dump()};
}

}  // namespace

Result<void> wait_ready(client::Client& client, Companion& cluster) {
  const Time give_up = now() + seconds(120);
  while (now() < give_up) {
    if (cluster.ended())
      return fail(ErrorCode::kUnavailable, "the cluster ended before it was ready");
    auto status = client.status(milliseconds(500));
    if (status && status->ready) return {};
    if (status) (void)client.poll(milliseconds(100));
  }
  return fail(ErrorCode::kUnavailable, "the cluster was not ready within 120 s");
}

Result<ComparisonReport> compare_serving(const ServeComparison& options) {
  TAILOR_ASSIGN(const std::string model, weights::resolve_model(options.model));
  std::error_code ignored;
  const fs::path program = fs::read_symlink("/proc/self/exe", ignored);
  const fs::path script = program.parent_path() / "../../../bench/transformers_baseline.py";
  if (!options.reference_python.empty() && !fs::exists(script))
    return fail(ErrorCode::kNotFound,
                "bench/transformers_baseline.py is not where this build came from (" +
                    script.lexically_normal().string() + ")");
  char folder[] = "/tmp/tailor-bench-XXXXXX";
  if (mkdtemp(folder) == nullptr) return fail(ErrorCode::kInternal, "cannot make a folder in /tmp");
  const std::string prompts = std::string(folder) + "/prompts.jsonl";
  struct Sweep {
    std::string path;
    ~Sweep() {
      std::error_code e;
      fs::remove_all(path, e);
    }
  } sweep{folder};

  TAILOR_ASSIGN(const std::string endpoint, with_free_port("tcp://127.0.0.1:*"));
  Companion cluster;
  TAILOR_TRY(cluster.start({program.string(), "serve", "--model", options.model, "--engine",
                            options.engine, "--replicas", "1", "--tp", "1", "--threads",
                            std::to_string(options.threads), "--endpoint", endpoint}));
  TAILOR_ASSIGN(auto client, client::Client::connect({endpoint}));
  TAILOR_TRY(wait_ready(*client, cluster));

  TAILOR_ASSIGN(const auto ids,
                tokenize(*client, options, std::min<size_t>(4, options.requests.size())));
  std::ofstream file(prompts);
  for (const auto& prompt : ids) file << nlohmann::json({{"token_ids", prompt}}).dump() << "\n";
  file.close();

  std::map<int, LevelResult> levels;
  std::vector<double> reference;
  for (int round = 0; round < options.rounds; ++round) {
    for (int level : options.levels) TAILOR_TRY(run_level(*client, options, level, levels[level]));
    if (options.reference_python.empty()) continue;
    TAILOR_ASSIGN(const double theirs, run_reference(options, model, prompts, script.string()));
    reference.push_back(theirs);
  }
  return make_report(options, levels, reference);
}

}  // namespace tailor::bench
