// `tailor collect`: samples answers to real prompts and keeps their lengths
// (predict/length_file.h), and with --features the model's hidden states beside them
// (predict/feature_file.h). Offline on an engine of its own, or with --endpoint from a running
// cluster. A killed run is started again with the same command: prompts that are in the file are
// not asked again, and since a prompt's seed follows from its id, the file is the same as that of a
// run that was never killed.
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/clock.h"
#include "client/open_requests.h"
#include "launch/commands/command.h"
#include "launch/commands/terminal.h"
#include "launch/model_text.h"
#include "launch/supervisor/usable_cores.h"
#include "parallel/engine_cpu.h"
#include "predict/feature_file.h"
#include "predict/length_file.h"
#include "weights/default_model.h"
#include "worker/offline_run.h"

namespace tailor::launch {
namespace {

struct Options {
  std::string model = "default", prompts, out, features, endpoint, split = "all";
  std::vector<int32_t> layers;
  int32_t samples = 8, limit = 0, max_tokens = 1024, top_k = 100, slots = 32, threads = 0;
  int32_t prompt_rows = 128;
  float temperature = 0.7f, top_p = 0.95f;
  uint64_t seed = 1;
};

// of the offline engine's pool; less where the model has less
constexpr int32_t kMaxContext = 4096;

/// Prompts of the wanted split that the file does not have yet, in the order of the prompts file.
struct Work {
  std::vector<predict::PromptText> prompts;
  size_t wanted = 0;  ///< those done counted
};

Result<Work> remaining(const Options& o, const std::vector<predict::PromptLengths>& done) {
  TAILOR_ASSIGN(auto prompts, predict::read_prompts_file(o.prompts));
  std::set<std::string> have, seen;
  for (const auto& prompt : done) have.insert(prompt.id);
  Work work;
  for (auto& prompt : prompts) {
    if (!seen.insert(prompt.id).second)
      return fail(ErrorCode::kInvalidArgument,
                  o.prompts + ": the id " + prompt.id + " is there twice");
    const predict::Split split = predict::split_of(prompt.id);
    if (o.split == "test" && split != predict::Split::kTest) continue;
    if (o.split == "train" && split == predict::Split::kTest) continue;
    if (o.limit > 0 && work.wanted == static_cast<size_t>(o.limit)) break;
    ++work.wanted;
    if (!have.contains(prompt.id)) work.prompts.push_back(std::move(prompt));
  }
  return work;
}

SamplingParams sampling_of(const Options& o, const std::string& id) {
  SamplingParams p;
  p.temperature = o.temperature;
  p.top_k = o.top_k;
  p.top_p = o.top_p;
  p.max_tokens = o.max_tokens;
  p.n = o.samples;
  p.seed = o.seed + predict::id_hash(id);
  return p;
}

/// "1,204 of 1,800 prompts, 412,331 tokens, 512 tokens/s, 12 min to go", on one line of a terminal
/// or a line a minute elsewhere.
class ProgressLine {
 public:
  ProgressLine(size_t done, size_t all) : before_(done), done_(done), all_(all), start_(now()) {}
  void add(size_t tokens) { tokens_ += tokens; }
  void prompt_done() { ++done_; }
  void show(bool last = false) {
    const Time at = now();
    const bool terminal = isatty(STDERR_FILENO) != 0;
    if (!last && shown_ && at - *shown_ < (terminal ? milliseconds(200) : seconds(60))) return;
    shown_ = at;
    const double elapsed = std::max(1e-3, to_seconds(at - start_));
    const size_t fresh = done_ - before_;
    std::string eta = "?";
    if (fresh > 0) {
      const double left = elapsed / static_cast<double>(fresh) * static_cast<double>(all_ - done_);
      eta = left < 90 ? std::to_string(static_cast<int>(left)) + " s"
                      : std::to_string(static_cast<int>(left / 60 + 0.5)) + " min";
    }
    std::fprintf(stderr, "%s%zu of %zu prompts, %zu tokens, %.0f tokens/s, %s to go%s",
                 terminal ? "\r\033[K" : "", done_, all_, tokens_,
                 static_cast<double>(tokens_) / elapsed, eta.c_str(),
                 terminal && !last ? "" : "\n");
    std::fflush(stderr);
  }

 private:
  const size_t before_;
  size_t done_, all_, tokens_ = 0;
  const Time start_;
  std::optional<Time> shown_;
};

/// Gathers the answers of prompts under way and writes each prompt when it is whole.
class Gathering {
 public:
  Gathering(predict::LengthWriter& writer, ProgressLine& line) : writer_(writer), line_(line) {}

  void begin(uint64_t key, const std::string& id, int32_t samples) {
    Open& open = open_[key];
    open.prompt.id = id;
    open.prompt.lengths.assign(static_cast<size_t>(samples), 0);
    open.prompt.censored.assign(static_cast<size_t>(samples), false);
    open.missing = samples;
  }
  /// `before_write` runs before the prompt's line is written (its features must be there first).
  template <typename BeforeWrite>
  Result<void> add(uint64_t key, uint32_t sample, uint32_t prompt_tokens, uint32_t length,
                   bool censored, const BeforeWrite& before_write) {
    const auto at = open_.find(key);
    Open& open = at->second;
    open.prompt.prompt_tokens = prompt_tokens;
    open.prompt.lengths[sample] = length;
    open.prompt.censored[sample] = censored;
    line_.add(length);
    if (--open.missing > 0) return {};
    TAILOR_TRY(before_write());
    TAILOR_TRY(writer_.append(open.prompt));
    open_.erase(at);
    line_.prompt_done();
    return {};
  }
  const std::string& id(uint64_t key) const { return open_.at(key).prompt.id; }

 private:
  struct Open {
    predict::PromptLengths prompt;
    int32_t missing = 0;
  };
  std::map<uint64_t, Open> open_;
  predict::LengthWriter& writer_;
  ProgressLine& line_;
};

predict::LengthFile header_of(const Options& o, const std::string& model,
                              const std::string& fingerprint, const std::string& arithmetic) {
  predict::LengthFile header;
  header.model = model;
  header.model_fingerprint = fingerprint;
  header.arithmetic = arithmetic;
  // The shortest decimal of the float: 0.7, not 0.699999988.
  header.temperature = std::stod(CLI::detail::to_string(o.temperature));
  header.top_p = std::stod(CLI::detail::to_string(o.top_p));
  header.top_k = o.top_k;
  header.max_tokens = static_cast<uint32_t>(o.max_tokens);
  header.seed = o.seed;
  header.samples = static_cast<uint32_t>(o.samples);
  return header;
}

Result<std::vector<TokenId>> tokens_of(const ModelText& text, const std::string& prompt) {
  if (!text.chat_template) return text.tokenizer->encode(prompt, true);
  return text::encode_chat(*text.tokenizer, *text.chat_template, {{"user", prompt}},
                           /*parse_special_tokens=*/false);
}

Result<int> collect_offline(const Options& o) {
  InterruptWatch interrupts;
  TAILOR_ASSIGN(const std::string path, weights::resolve_model(o.model));
  TAILOR_ASSIGN(const auto files, weights::WeightFiles::open(path));
  TAILOR_ASSIGN(const ModelText text, load_model_text(*files));
  parallel::EngineOptions engine_options;
  engine_options.threads = o.threads > 0 ? o.threads : usable_cores().count();
  engine_options.max_context =
      static_cast<int32_t>(std::min<int64_t>(kMaxContext, files->config().max_position));
  engine_options.max_rows = worker::max_rows({.slots = o.slots, .token_budget = o.prompt_rows});
  engine_options.slots = o.slots;
  engine_options.end_tokens = text.end_tokens;
  const int64_t blocks =
      int64_t{o.slots} * (engine_options.max_context / engine_options.block_tokens) / 2 + o.slots;
  engine_options.kv_bytes =
      static_cast<uint64_t>(4 * blocks * engine_options.block_tokens * files->config().num_layers *
                            files->config().num_kv_heads * files->config().head_dim);
  if (const std::string cache = weights::cache_folder(); !cache.empty())
    engine_options.packed_folder = cache + "/packed";
  TAILOR_ASSIGN(const auto engine, parallel::make_cpu_engine(*files, {}, engine_options));
  const parallel::EngineInfo& info = engine->info();

  const std::string name = path.substr(path.rfind('/') + 1);
  TAILOR_ASSIGN(auto writer,
                predict::LengthWriter::open(
                    o.out, header_of(o, name, files->fingerprint(), info.arithmetic_version)));
  std::optional<predict::FeatureWriter> features;
  if (!o.features.empty()) {
    TAILOR_ASSIGN(
        auto opened,
        predict::FeatureWriter::open(
            o.features, {files->fingerprint(), static_cast<uint32_t>(info.hidden_size), o.layers}));
    features.emplace(std::move(opened));
  }
  TAILOR_ASSIGN(Work work, remaining(o, writer.done()));

  worker::OfflineOptions run_options;
  run_options.planner = {
      .num_blocks = info.num_blocks, .slots = o.slots, .token_budget = o.prompt_rows};
  run_options.limits = {.eos_tokens = text.end_tokens, .max_context = info.max_context};
  run_options.tokenizer = text.tokenizer;
  if (features) run_options.layers = o.layers;
  worker::OfflineRun run(*engine, run_options);
  ProgressLine line(work.wanted - work.prompts.size(), work.wanted);
  Gathering gathering(writer, line);
  Result<void> kept;
  run.on_hidden = [&](SequenceId sequence, uint32_t generated, std::span<const float> values) {
    if (kept)
      kept = features->append(predict::id_hash(gathering.id(sequence.request.value)),
                              sequence.sample, generated, values);
  };

  size_t next = 0;
  std::vector<worker::OfflineAnswer> ended;
  while (next < work.prompts.size() || run.has_work()) {
    if (interrupts.interrupted() != 0) {
      line.show(true);
      std::fprintf(stderr, "stopped; the same command goes on where this one ended\n");
      return 130;
    }
    while (next < work.prompts.size() && run.sequences() < o.slots + o.samples) {
      const predict::PromptText& prompt = work.prompts[next];
      Request request;
      request.id = RequestId{next + 1};
      TAILOR_ASSIGN(request.prompt, tokens_of(text, prompt.text));
      ++next;
      if (static_cast<int64_t>(request.prompt.size()) + o.max_tokens > info.max_context) {
        std::fprintf(stderr, "%s is left out: its %zu tokens and an answer of %d exceed %d\n",
                     prompt.id.c_str(), request.prompt.size(), o.max_tokens, info.max_context);
        continue;
      }
      request.sampling = sampling_of(o, prompt.id);
      gathering.begin(request.id.value, prompt.id, o.samples);
      run.add(std::move(request));
    }
    ended.clear();
    TAILOR_TRY(run.step(ended));
    TAILOR_TRY(kept);
    for (const worker::OfflineAnswer& answer : ended)
      TAILOR_TRY(gathering.add(
          answer.sequence.request.value, answer.sequence.sample, answer.prompt_tokens,
          static_cast<uint32_t>(answer.tokens.size()), answer.finish == FinishReason::kLength,
          [&]() -> Result<void> { return features ? features->flush() : Result<void>{}; }));
    line.show();
  }
  line.show(true);
  return 0;
}

Result<int> collect_from_cluster(const Options& o) {
  InterruptWatch interrupts;
  TAILOR_ASSIGN(const auto client, client::connect_to_cluster(o.endpoint, seconds(10)));
  TAILOR_ASSIGN(const auto status, client->status(seconds(10)));
  if (status.replicas.empty())
    return fail(ErrorCode::kUnavailable, o.endpoint + " has no replica yet");
  const ReplicaInfo& info = status.replicas.front().info;
  TAILOR_ASSIGN(auto writer, predict::LengthWriter::open(
                                 o.out, header_of(o, status.model, info.model_fingerprint,
                                                  info.arithmetic_version)));
  TAILOR_ASSIGN(Work work, remaining(o, writer.done()));
  ProgressLine line(work.wanted - work.prompts.size(), work.wanted);
  Gathering gathering(writer, line);
  client::OpenRequests requests(*client, o.endpoint, std::nullopt);
  std::set<std::pair<Time, size_t>> again;  // refused for now: when, and which
  size_t next = 0;
  const auto is_due = [&] { return !again.empty() && again.begin()->first <= now(); };
  const auto submit = [&](size_t index) -> Result<void> {
    api::Submit s;
    s.prompt = std::vector<api::ChatMessage>{{"user", work.prompts[index].text}};
    s.sampling = api::Sampling(sampling_of(o, work.prompts[index].id));
    s.has_seed = true;
    return requests.submit(index, std::move(s));
  };
  while (next < work.prompts.size() || requests.size() > 0 || !again.empty()) {
    if (interrupts.interrupted() != 0) {
      requests.cancel_all(seconds(5));
      line.show(true);
      std::fprintf(stderr, "stopped; the same command goes on where this one ended\n");
      return 130;
    }
    while (requests.size() < static_cast<size_t>(std::max(1, o.slots / o.samples + 1)) &&
           (next < work.prompts.size() || is_due())) {
      size_t index = next;
      if (is_due()) {
        index = again.begin()->second;
        again.erase(again.begin());
      } else {
        ++next;
        gathering.begin(index, work.prompts[index].id, o.samples);
      }
      TAILOR_TRY(submit(index));
    }
    TAILOR_ASSIGN(const auto ended, requests.poll(milliseconds(200)));
    for (const client::EndedAnswer& end : ended) {
      if (end.retry_after > Duration{}) {
        again.emplace(now() + end.retry_after, end.tag);
        continue;
      }
      if (end.answer.error().code != ErrorCode::kOk) {
        std::fprintf(stderr, "%s is left out: %s\n", work.prompts[end.tag].id.c_str(),
                     end.answer.error().message.c_str());
        continue;
      }
      for (uint32_t sample = 0; sample < end.answer.samples().size(); ++sample) {
        const client::SampleAnswer& answer = end.answer.samples()[sample];
        TAILOR_TRY(gathering.add(end.tag, sample, end.answer.prompt_tokens(),
                                 static_cast<uint32_t>(answer.token_ids.size()),
                                 answer.reason == FinishReason::kLength,
                                 [] { return Result<void>{}; }));
      }
    }
    line.show();
  }
  line.show(true);
  return 0;
}

Result<int> collect(const Options& o) {
  if (!o.endpoint.empty() && !o.features.empty())
    return fail(ErrorCode::kInvalidArgument,
                "--features needs the offline engine: leave --endpoint out");
  if (!o.features.empty() && o.layers.empty())
    return fail(ErrorCode::kInvalidArgument, "--features needs --layers, such as --layers 15,22");
  return o.endpoint.empty() ? collect_offline(o) : collect_from_cluster(o);
}

}  // namespace

Command add_collect(CLI::App& app) {
  auto o = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand(
      "collect", "Sample answers to prompts and keep their lengths, for fits and predictors");
  command->add_option("--prompts", o->prompts, "JSON lines {\"id\", \"text\"}")->required();
  command->add_option("--out", o->out, "Length file; a run that was killed goes on there")
      ->required();
  command->add_option("--samples", o->samples, "Answers per prompt")->check(CLI::Range(1, 64));
  command
      ->add_option("--split", o->split,
                   "Prompts by the hash of their id: all, train (and validation), test")
      ->check(CLI::IsMember({"all", "train", "test"}));
  command->add_option("--limit", o->limit, "At most so many prompts; 0 = all")
      ->check(CLI::NonNegativeNumber);
  command->add_option("--max-tokens", o->max_tokens, "Longest answer")->check(CLI::PositiveNumber);
  command->add_option("--temperature", o->temperature, "0 = greedy")->check(CLI::NonNegativeNumber);
  command->add_option("--top-k", o->top_k, "0 = off")->check(CLI::NonNegativeNumber);
  command->add_option("--top-p", o->top_p, "1 = off")->check(CLI::Range(0.0, 1.0));
  command->add_option("--seed", o->seed, "Of the whole collection");
  command->add_option("--endpoint", o->endpoint,
                      "Ask a running cluster instead of an engine of its own");
  command->add_option("--model", o->model, "Offline: default, a folder or a .gguf file");
  command->add_option("--threads", o->threads, "Offline: math threads; 0 = one per usable core")
      ->check(CLI::NonNegativeNumber);
  command->add_option("--slots", o->slots, "Answers at once")->check(CLI::Range(1, 1024));
  command->add_option("--features", o->features, "Offline: file for hidden states of --layers");
  command->add_option("--layers", o->layers, "After how many layers, such as 15,22")
      ->delimiter(',');
  return {command, [o] {
            const auto done = collect(*o);
            return done ? *done : print_error(done.error());
          }};
}

}  // namespace tailor::launch
