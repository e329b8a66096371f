// `tailor bench`: load runs.
//
// burst: prompts at once (or --concurrency at a time) against a running cluster; what quickstart
// shows.
//
// serve: a cluster of its own against `transformers` generating one by one on the same machine and
// threads, and the host's share of a step.
//
// kernels: what each CPU kernel does of what this machine can do.
//
// tie: what one length law, one rank table and one move in a long queue cost.
//
// vs-llama: the CPU engine and a replica beside llama.cpp (bench_llama.h); engine-run is our half.
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <optional>

#include "base/endpoint.h"
#include "bench/answer_viewer.h"
#include "bench/engine_run.h"
#include "bench/kernel_bench.h"
#include "bench/llama_bench.h"
#include "bench/load_run.h"
#include "bench/serve_bench.h"
#include "bench/summary.h"
#include "bench/tie_bench.h"
#include "client/client.h"
#include "client/open_requests.h"
#include "client/prompt_json.h"
#include "launch/commands/command.h"
#include "weights/default_model.h"

namespace tailor::launch {
namespace {

struct BenchOptions {
  std::string endpoint = kDefaultEndpoint;
  std::string prompts;
  std::string json;
  std::string against;
  std::optional<uint64_t> seed;
  int requests = 0;
  int concurrency = 0;
  int max_tokens = 64;
  float temperature = 0;
  bool ignore_eos = false;
  int show = 0;
  // serve
  std::string model = "default";
  std::string engine = "cpu";
  std::string reference_python;
  std::vector<int> levels = {8, 32};
  int threads = 1;
  int rounds = 3;
};

/// The chat or text a person would recognise a request by.
std::string title(const api::Submit& submit) {
  if (const auto* text = std::get_if<std::string>(&submit.prompt)) return *text;
  if (const auto* chat = std::get_if<std::vector<api::ChatMessage>>(&submit.prompt))
    return chat->empty() ? "" : chat->back().content;
  return "(token ids)";
}

/// Reads `count` requests (0 = all) from a JSON-lines file, starting over at its end. A line with
/// "prompt" is asked as a chat message: these are questions to an instruct model.
Result<std::vector<api::Submit>> read_requests(const BenchOptions& options, size_t count) {
  std::ifstream file(options.prompts);
  if (!file) return fail(ErrorCode::kNotFound, "cannot read the prompts file " + options.prompts);
  api::Submit defaults;
  defaults.sampling = api::Sampling(SamplingParams{});  // whatever the model advises
  defaults.sampling.temperature = options.temperature;
  defaults.sampling.max_tokens = options.max_tokens;
  defaults.sampling.ignore_eos = options.ignore_eos;
  std::vector<api::Submit> read;
  std::string line;
  for (int number = 1; std::getline(file, line); ++number) {
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    auto parsed = client::read_prompt_line(line, defaults);
    if (!parsed)
      return fail_with(options.prompts + " line " + std::to_string(number), parsed.error());
    api::Submit submit = std::move(parsed->submit);
    if (const auto* text = std::get_if<std::string>(&submit.prompt))
      submit.prompt = std::vector<api::ChatMessage>{{"user", *text}};
    read.push_back(std::move(submit));
  }
  if (read.empty()) return fail(ErrorCode::kInvalidArgument, options.prompts + " has no prompts");
  std::vector<api::Submit> requests;
  for (size_t i = 0; i < (count > 0 ? count : read.size()); ++i) {
    requests.push_back(read[i % read.size()]);
    requests.back().request_id = client::new_request_id();
    if (options.seed) {
      requests.back().has_seed = true;
      requests.back().sampling.seed = *options.seed + i;
    }
  }
  return requests;
}

Result<void> write_json(const std::string& path, const std::string& json) {
  if (path.empty()) return {};
  std::ofstream file(path);
  file << json << "\n";
  if (!file) return fail(ErrorCode::kInvalidArgument, "cannot write " + path);
  return {};
}

Result<void> burst(const BenchOptions& options) {
  TAILOR_ASSIGN(auto requests, read_requests(options, options.requests));
  TAILOR_ASSIGN(const auto client, client::connect_to_cluster(options.endpoint, seconds(3)));
  TAILOR_ASSIGN(const auto status, client->status(seconds(3)));
  if (!status.ready)
    return fail(ErrorCode::kUnavailable,
                "the cluster at " + options.endpoint + " is not ready yet");
  std::vector<std::string> titles;
  for (int i = 0; i < std::min<int>(options.show, requests.size()); ++i)
    titles.push_back(title(requests[i]));
  bench::AnswerViewer viewer(std::move(titles), stdout);
  bench::LoadOptions load;
  load.concurrency = options.concurrency;
  load.on_event = [&](const api::ServerEvent& event, size_t index) { viewer.take(event, index); };
  TAILOR_ASSIGN(const auto result, bench::run_load(*client, requests, load));
  std::printf("\n%s", bench::summary_table(result).c_str());
  TAILOR_TRY(write_json(options.json, bench::summary_json(result, status.policy)));
  if (options.against.empty()) return {};
  std::ifstream file(options.against);
  const std::string former{std::istreambuf_iterator<char>(file), {}};
  const auto table = bench::comparison_table(former, result, status.policy);
  if (!table) return fail_with(options.against, table.error());
  std::printf("\n%s", table->c_str());
  return {};
}

Result<void> serve(const BenchOptions& options) {
  bench::ServeComparison comparison;
  comparison.model = options.model;
  comparison.engine = options.engine;
  comparison.reference_python = options.reference_python;
  comparison.levels = options.levels;
  comparison.threads = options.threads;
  comparison.rounds = options.rounds;
  comparison.max_tokens = options.max_tokens;
  BenchOptions fixed = options;
  fixed.ignore_eos = true;
  const int most = *std::max_element(options.levels.begin(), options.levels.end());
  TAILOR_ASSIGN(comparison.requests, read_requests(fixed, 2 * most));
  TAILOR_ASSIGN(const auto report, bench::compare_serving(comparison));
  std::printf("%s", report.table.c_str());
  return write_json(options.json, report.json);
}

Result<void> run_kernels(const bench::KernelBench& bench, const std::string& json) {
  TAILOR_ASSIGN(const bench::KernelReport report, bench::bench_kernels(bench));
  std::printf("%s", report.table.c_str());
  return write_json(json, report.json);
}

Result<void> run_tie(const bench::TieBench& bench, const std::string& json) {
  const bench::TieReport report = bench::bench_tie(bench);
  std::printf("%s", report.table.c_str());
  return write_json(json, report.json);
}

/// Where the checkout this program was built in keeps its prompts, and where set-up keeps the
/// reference; empty when it is not there.
std::string quickstart_prompts() {
  std::error_code error;
  const auto self = std::filesystem::read_symlink("/proc/self/exe", error);
  const auto path = self.parent_path() / "../../../launch/quickstart_prompts.jsonl";
  return std::filesystem::exists(path, error) ? path.lexically_normal().string() : "";
}
std::string reference_python() {
  std::error_code error;
  const std::string path = weights::cache_folder() + "/reference/bin/python3";
  return std::filesystem::exists(path, error) ? path : "";
}

void add_prompt_options(CLI::App& command, BenchOptions& options) {
  options.prompts = quickstart_prompts();
  command.add_option("--prompts", options.prompts,
                     "JSON lines: objects with prompt, messages or token_ids");
  command.add_option("--max-tokens", options.max_tokens, "tokens per answer")
      ->check(CLI::PositiveNumber);
  command.add_option("--json", options.json, "also write every row to this file");
}

}  // namespace

Command add_bench(CLI::App& parent) {
  auto options = std::make_shared<BenchOptions>();
  CLI::App* bench = parent.add_subcommand("bench", "measure a cluster");
  bench->require_subcommand(1);

  CLI::App* burst_command =
      bench->add_subcommand("burst", "send prompts at once to a running cluster, print a table");
  burst_command->add_option("--endpoint", options->endpoint, "of the running cluster");
  add_prompt_options(*burst_command, *options);
  burst_command->add_option("--requests", options->requests,
                            "how many (0 = the whole file; starts over at its end)");
  burst_command->add_option("--concurrency", options->concurrency, "in flight at once (0 = all)");
  burst_command->add_option("--temperature", options->temperature, "0 = greedy");
  burst_command->add_flag("--ignore-eos", options->ignore_eos,
                          "generate to max-tokens whatever the model says");
  burst_command->add_option("--seed", options->seed,
                            "seed of the first request; the next one has the next number");
  burst_command->add_option("--against", options->against,
                            "the --json file of a former run of the same requests: prints the "
                            "ratio of both");
  burst_command->add_option("--show", options->show, "stream this many answers to the terminal");

  options->reference_python = reference_python();
  CLI::App* serve_command = bench->add_subcommand(
      "serve", "against `transformers` one by one on the same threads; the host's share of a step");
  add_prompt_options(*serve_command, *options);
  serve_command->add_option("--model", options->model, "default, a folder or a .gguf file");
  serve_command->add_option("--engine", options->engine, "engine of the replica");
  serve_command->add_option("--levels", options->levels, "concurrent requests")->delimiter(',');
  serve_command->add_option("--threads", options->threads, "math threads of either side");
  serve_command->add_option("--rounds", options->rounds, "alternations; medians are printed");
  serve_command->add_option(
      "--reference-python", options->reference_python,
      "a Python with torch, transformers, gguf (launch/setup --reference makes one)");

  auto kernels = std::make_shared<bench::KernelBench>();
  CLI::App* kernels_command =
      bench->add_subcommand("kernels", "each CPU kernel against this machine's own rates");
  kernels_command->add_option("--instruction-set", kernels->instruction_set,
                              "auto, avx512, avx2 or scalar");
  kernels_command->add_option("--rounds", kernels->rounds, "alternations; medians are printed")
      ->check(CLI::PositiveNumber);
  kernels_command->add_option("--json", options->json, "also write every row to this file");
  auto tie = std::make_shared<bench::TieBench>();
  CLI::App* tie_command = bench->add_subcommand(
      "tie", "length laws, rank tables and the scheduler with many requests waiting");
  tie_command->add_option("--waiting", tie->waiting, "requests that wait in the longest queue")
      ->check(CLI::Range(1, 10'000'000));
  tie_command->add_option("--rounds", tie->rounds, "alternations; medians are printed")
      ->check(CLI::PositiveNumber);
  tie_command->add_option("--json", options->json, "also write every row to this file");
  const std::function<Result<void>()> run_vs_llama = bench::add_vs_llama(*bench);
  const std::function<Result<void>()> run_engine = bench::add_engine_run(*bench);
  return {bench, [=] {
            auto done = burst_command->parsed()               ? burst(*options)
                        : kernels_command->parsed()           ? run_kernels(*kernels, options->json)
                        : tie_command->parsed()               ? run_tie(*tie, options->json)
                        : bench->got_subcommand("vs-llama")   ? run_vs_llama()
                        : bench->got_subcommand("engine-run") ? run_engine()
                                                              : serve(*options);
            return done ? 0 : print_error(done.error());
          }};
}

}  // namespace tailor::launch
