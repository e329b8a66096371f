#include "bench/llama_bench.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <memory>
#include <utility>

#include "bench/measured_child.h"
#include "weights/default_model.h"

namespace tailor::bench {
namespace {

namespace fs = std::filesystem;

const std::map<std::string, std::string> kConverted = {
    {"q4_0", "Q4_0"}, {"q8_0", "Q8_0"}, {"f16", "F16"}};
constexpr Duration kLongestRun = seconds(900);

struct Options {
  std::vector<std::string> formats = {"q4_1", "q4_0", "q8_0", "f16"};
  std::vector<int> threads = {1, 2}, batches = {1, 8, 32};
  int rounds = 5;
  int prompt_tokens = 64, decode_tokens = 32, long_prompt = 512, prompt_rows = 512;
  std::string flash_attention = "best", peer, json;
  bool server = false;
  ServerComparison through_servers;
};

/// What one pair of children runs.
struct Work {
  std::string our_format, their_format;
  int threads = 1;
  std::vector<int> batches;
  int prompt_tokens = 64, decode_tokens = 32, prompt_rows = 512;

  std::string name() const {
    return our_format == their_format ? our_format : our_format + " vs " + their_format;
  }
};

std::string joined(const std::vector<int>& numbers) {
  std::string text;
  for (int number : numbers) text += (text.empty() ? "" : ",") + std::to_string(number);
  return text;
}

using Batches = std::map<int, FixedBatch>;  // by batch

Result<Batches> run_child(const CommandLine& command, const Work& work) {
  TAILOR_ASSIGN(const std::string output, run_to_end(command, kLongestRun));
  TAILOR_ASSIGN(const auto measured, read_fixed_batches(output));
  Batches by_batch;
  for (const FixedBatch& batch : measured) by_batch[batch.batch] = batch;
  for (int batch : work.batches) {
    if (by_batch.count(batch) == 0)
      return fail(ErrorCode::kProtocol, command.argv.front() + " did not measure batch " +
                                            std::to_string(batch) +
                                            "; its last line was: " + last_line(output));
  }
  return by_batch;
}

Result<Batches> run_ours(const PeerFolder& peer, const Work& work) {
  TAILOR_ASSIGN(const std::string model, peer.model(work.our_format));
  std::error_code ignored;
  const std::string program = fs::read_symlink("/proc/self/exe", ignored).string();
  return run_child(
      {{program, "bench", "engine-run", "--model", model, "--threads", std::to_string(work.threads),
        "--batches", joined(work.batches), "--prompt-tokens", std::to_string(work.prompt_tokens),
        "--decode-tokens", std::to_string(work.decode_tokens), "--prompt-rows",
        std::to_string(work.prompt_rows)},
       {}},
      work);
}

Result<Batches> run_theirs(const PeerFolder& peer, const Work& work,
                           const std::string& flash_attention) {
  TAILOR_ASSIGN(const std::string model, peer.model(work.their_format));
  const int most = *std::max_element(work.batches.begin(), work.batches.end());
  // Each sequence has a context of its own, in steps of 256 (their padding).
  const int each = (work.prompt_tokens + work.decode_tokens + 255) / 256 * 256;
  const std::string threads = std::to_string(work.threads);
  return run_child({{peer.program("llama-batched-bench"),
                     "-m",
                     model,
                     "-c",
                     std::to_string(most * each),
                     "-b",
                     "2048",
                     "-ub",
                     "512",
                     "-t",
                     threads,
                     "-tb",
                     threads,
                     "-fa",
                     flash_attention,
                     "-npp",
                     std::to_string(work.prompt_tokens),
                     "-ntg",
                     std::to_string(work.decode_tokens),
                     "-npl",
                     joined(work.batches),
                     "--output-format",
                     "jsonl"},
                    {}},
                   work);
}

void say(const Work& work, const std::string& what) {
  std::fprintf(stderr, "tailor: %s, %d thread%s, %d in, %d out, batch %s: %s\n",
               work.name().c_str(), work.threads, work.threads == 1 ? "" : "s", work.prompt_tokens,
               work.decode_tokens, joined(work.batches).c_str(), what.c_str());
}

/// Flash attention on or off, whichever gives the larger geometric mean of all rates. Two runs
/// each, of which the better one counts for each rate: a neighbour's burst must not choose.
Result<std::string> best_flash_attention(const PeerFolder& peer, const Work& work) {
  std::map<std::string, std::vector<Batches>> runs;
  for (const char* setting : {"on", "off", "off", "on"}) {
    TAILOR_ASSIGN(auto measured, run_theirs(peer, work, setting));
    runs[setting].push_back(std::move(measured));
  }
  const auto score = [&](const std::string& setting) {
    const Batches &one = runs[setting][0], &other = runs[setting][1];
    double sum = 0;
    for (int batch : work.batches) {
      const FixedBatch &a = one.at(batch), &b = other.at(batch);
      sum += std::log(std::max(a.prompt_per_s, b.prompt_per_s)) +
             std::log(std::max(a.decode_per_s, b.decode_per_s));
    }
    return sum;
  };
  const std::string best = score("on") >= score("off") ? "on" : "off";
  say(work, "llama.cpp is at its best with -fa " + best);
  return best;
}

/// What was found best, by their format and threads: tried once.
using Settings = std::map<std::pair<std::string, int>, std::string>;

/// A row for each batch and phase; one step of decoding is no measurement, so no row.
Result<std::vector<PeerRow>> compare(const PeerFolder& peer, const Options& options,
                                     const Work& work, Settings& best) {
  std::string flash_attention = options.flash_attention;
  if (flash_attention == "best") {
    std::string& found = best[{work.their_format, work.threads}];
    if (found.empty()) {
      TAILOR_ASSIGN(found, best_flash_attention(peer, work));
    }
    flash_attention = found;
  }
  std::vector<Batches> ours, theirs;
  for (int round = 0; round < options.rounds; ++round) {
    for (const bool our_turn : {round % 2 == 0, round % 2 != 0}) {
      auto measured = our_turn ? run_ours(peer, work) : run_theirs(peer, work, flash_attention);
      if (!measured) return fail(std::move(measured.error()));
      (our_turn ? ours : theirs).push_back(std::move(*measured));
    }
    say(work, "round " + std::to_string(round + 1) + " of " + std::to_string(options.rounds));
  }
  std::vector<PeerRow> rows;
  for (int batch : work.batches) {
    PeerRow decode{work.name(), work.threads,       batch,
                   "decode",    work.prompt_tokens, "-fa " + flash_attention};
    PeerRow prompt = decode;
    prompt.phase = "prompt";
    for (const auto& round : ours) {
      decode.ours.push_back(round.at(batch).decode_per_s);
      prompt.ours.push_back(round.at(batch).prompt_per_s);
    }
    for (const auto& round : theirs) {
      decode.theirs.push_back(round.at(batch).decode_per_s);
      prompt.theirs.push_back(round.at(batch).prompt_per_s);
    }
    if (work.decode_tokens > 1) rows.push_back(std::move(decode));
    rows.push_back(std::move(prompt));
  }
  return rows;
}

std::vector<Work> plan(const Options& options) {
  std::vector<Work> all;
  for (int threads : options.threads) {
    for (const std::string& format : options.formats) {
      Work work{format,
                format,
                threads,
                options.batches,
                options.prompt_tokens,
                options.decode_tokens,
                options.prompt_rows};
      all.push_back(work);
      work.batches = {1};
      work.prompt_tokens = options.long_prompt;
      work.decode_tokens = 1;
      all.push_back(work);
    }
    if (std::count(options.formats.begin(), options.formats.end(), "q4_1") == 0) continue;
    // Against their repacked format too, which is faster.
    const int most = *std::max_element(options.batches.begin(), options.batches.end());
    all.push_back({"q4_1",
                   "q4_0",
                   threads,
                   {most},
                   options.prompt_tokens,
                   options.decode_tokens,
                   options.prompt_rows});
  }
  return all;
}

Result<void> write_rows(const Options& options, const std::vector<PeerRow>& rows) {
  if (options.json.empty()) return {};
  std::ofstream file(options.json);
  file << peer_json(rows) << "\n";
  if (!file.flush()) return fail(ErrorCode::kInvalidArgument, "cannot write " + options.json);
  return {};
}

/// What is measured is written at once: a long run that is cut short keeps its rows.
Result<std::vector<PeerRow>> measure(const PeerFolder& peer, const Options& options) {
  std::vector<PeerRow> rows;
  if (!options.server) {
    Settings best;
    for (const Work& work : plan(options)) {
      TAILOR_ASSIGN(auto more, compare(peer, options, work, best));
      std::move(more.begin(), more.end(), std::back_inserter(rows));
      TAILOR_TRY(write_rows(options, rows));
    }
    return rows;
  }
  for (int threads : options.threads) {
    for (const std::string& format : options.formats) {
      ServerComparison servers = options.through_servers;
      servers.format = format;
      servers.threads = threads;
      servers.rounds = options.rounds;
      if (options.flash_attention != "best") servers.flash_attention = options.flash_attention;
      TAILOR_ASSIGN(auto row, compare_servers(peer, servers));
      rows.push_back(std::move(row));
      TAILOR_TRY(write_rows(options, rows));
    }
  }
  return rows;
}

Result<void> vs_llama(const Options& options) {
  const PeerFolder peer{options.peer};
  std::vector<std::string> formats = options.formats;
  if (std::count(formats.begin(), formats.end(), "q4_1") > 0) formats.push_back("q4_0");
  TAILOR_TRY(check_peer(peer, formats));
  double busy = 0;
  if (getloadavg(&busy, 1) == 1 && busy > 0.5)
    std::fprintf(
        stderr,
        "tailor: the load average of the last minute is %.1f; figures with as many threads as "
        "cores mean little on a machine that does something else\n",
        busy);
  TAILOR_ASSIGN(const auto rows, measure(peer, options));
  std::printf("%s", peer_table(rows).c_str());
  return {};
}

}  // namespace

Result<std::string> PeerFolder::model(const std::string& format) const {
  if (format == "q4_1") return weights::default_model_path();
  const auto converted = kConverted.find(format);
  if (converted == kConverted.end())
    return fail(ErrorCode::kInvalidArgument,
                "a format is q4_1, q4_0, q8_0 or f16, found " + format);
  return path + "/models/SmolLM2-135M-Instruct." + converted->second + ".gguf";
}

Result<void> check_peer(const PeerFolder& peer, const std::vector<std::string>& formats) {
  const auto check = [](const std::string& file) -> Result<void> {
    std::error_code ignored;
    if (fs::exists(file, ignored)) return {};
    return fail(ErrorCode::kNotFound, "there is no " + file +
                                          ": run launch/peer-llama, which builds llama.cpp and "
                                          "converts the model, or name its folder with --peer");
  };
  for (const char* name : {"llama-batched-bench", "llama-server"})
    TAILOR_TRY(check(peer.program(name)));
  TAILOR_TRY(weights::resolve_model("default"));
  for (const std::string& format : formats) {
    TAILOR_ASSIGN(const std::string file, peer.model(format));
    TAILOR_TRY(check(file));
  }
  return {};
}

std::function<Result<void>()> add_vs_llama(CLI::App& bench) {
  auto options = std::make_shared<Options>();
  options->peer = weights::cache_folder() + "/peer";
  CLI::App* app = bench.add_subcommand(
      "vs-llama", "the CPU engine beside llama.cpp: same file, threads, batch; in turn");
  app->add_option("--formats", options->formats, "of the default model: q4_1, q4_0, q8_0, f16")
      ->delimiter(',')
      ->check(CLI::IsMember({"q4_1", "q4_0", "q8_0", "f16"}));
  const auto number = [&](const char* name, auto& value, const char* what) {
    return app->add_option(name, value, what)->check(CLI::PositiveNumber);
  };
  number("--threads", options->threads, "math threads of either side")->delimiter(',');
  number("--batches", options->batches, "sequences at once")->delimiter(',');
  number("--rounds", options->rounds, "alternations; medians are printed");
  number("--prompt-tokens", options->prompt_tokens, "of each sequence");
  number("--decode-tokens", options->decode_tokens, "steps after the prompts");
  number("--long-prompt", options->long_prompt, "tokens of the prompt at batch 1");
  number("--prompt-rows", options->prompt_rows, "rows of one of our prompt steps");
  app->add_option("--flash-attention", options->flash_attention,
                  "of llama.cpp; best = tried first (with --server: on)")
      ->check(CLI::IsMember({"best", "on", "off"}));
  app->add_option("--peer", options->peer, "where launch/peer-llama put bin/ and models/");
  app->add_option("--json", options->json, "also write every row to this file");
  app->add_flag("--server", options->server,
                "through the servers instead: llama-server and a replica of ours");
  ServerComparison& servers = options->through_servers;
  number("--slots", servers.slots, "with --server: sequences at once");
  number("--requests", servers.requests, "with --server: of each round");
  number("--max-tokens", servers.max_tokens, "with --server: of each answer");
  number("--rate", servers.rate, "with --server: arrivals per second (Poisson)");
  app->add_option("--prefill-budget", servers.prefill_budget,
                  "with --server: of our replica; 0 = measured at its start");
  return [options] { return vs_llama(*options); };
}

}  // namespace tailor::bench
