#include "bench/engine_run.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/clock.h"
#include "parallel/engine_cpu.h"
#include "weights/default_model.h"
#include "weights/weight_files.h"

namespace tailor::bench {
namespace {

/// The first of the largest values, as the sampler's greedy choice. In lanes, so that it
/// vectorizes.
TokenId largest(std::span<const float> logits) {
  constexpr size_t kLanes = 16;
  float lanes[kLanes];
  std::fill(std::begin(lanes), std::end(lanes), logits[0]);
  size_t i = 0;
  for (; i + kLanes <= logits.size(); i += kLanes) {
    for (size_t lane = 0; lane < kLanes; ++lane)
      lanes[lane] = logits[i + lane] > lanes[lane] ? logits[i + lane] : lanes[lane];
  }
  float best = *std::max_element(std::begin(lanes), std::end(lanes));
  for (; i < logits.size(); ++i) best = std::max(best, logits[i]);
  return static_cast<TokenId>(std::find(logits.begin(), logits.end(), best) - logits.begin());
}

/// One fixed batch: where each sequence stands and what the next step feeds.
class Batch {
 public:
  Batch(parallel::Engine& engine, const FixedBatchShape& shape, int32_t block_tokens)
      : engine_(engine),
        shape_(shape),
        block_tokens_(block_tokens),
        blocks_each_(blocks_needed(shape, block_tokens) / shape.batch),
        vocab_(static_cast<size_t>(engine.info().vocab_size)),
        logits_(vocab_ * static_cast<size_t>(shape.batch)),
        next_(static_cast<size_t>(shape.batch)) {}

  /// All prompts, in steps of at most `prompt_rows` rows; a prompt goes on in the next step where
  /// one is full.
  Result<void> prefill() {
    int room = shape_.prompt_rows;
    for (int sequence = 0; sequence < shape_.batch; ++sequence) {
      for (int done = 0; done < shape_.prompt_tokens;) {
        const int rows = std::min(room, shape_.prompt_tokens - done);
        const bool last = done + rows == shape_.prompt_tokens;
        begin_chunk(sequence, done, rows, last);
        for (int i = done; i < done + rows; ++i)
          input_.token_ids.push_back(prompt_token(sequence, i));
        done += rows;
        room -= rows;
        if (room > 0 && !(last && sequence + 1 == shape_.batch)) continue;
        TAILOR_TRY(step());
        room = shape_.prompt_rows;
      }
    }
    return {};
  }

  Result<void> decode(int index) {
    for (int sequence = 0; sequence < shape_.batch; ++sequence) {
      begin_chunk(sequence, shape_.prompt_tokens + index, 1, true);
      input_.token_ids.push_back(next_[sequence]);
    }
    return step();
  }

 private:
  TokenId prompt_token(int sequence, int index) const {
    // Knuth's multiplicative hash: distinct prompts, the same in every run.
    const uint32_t mixed = (static_cast<uint32_t>(sequence) * 8191u + index + 1) * 2654435761u;
    return static_cast<TokenId>((mixed >> 8) % vocab_);
  }

  void begin_chunk(int sequence, int position, int rows, bool wants_logits) {
    const int32_t blocks = (position + rows + block_tokens_ - 1) / block_tokens_;
    input_.chunks.push_back({.first_row = input_.num_rows(),
                             .num_rows = rows,
                             .first_position = position,
                             .first_block = static_cast<int32_t>(input_.block_ids.size()),
                             .num_blocks = blocks,
                             .wants_logits = wants_logits});
    for (int32_t block = 0; block < blocks; ++block)
      input_.block_ids.push_back(sequence * blocks_each_ + block);
    if (wants_logits) wanting_.push_back(sequence);
  }

  Result<void> step() {
    TAILOR_TRY(
        parallel::forward(engine_, input_, std::span(logits_).first(vocab_ * wanting_.size())));
    for (size_t i = 0; i < wanting_.size(); ++i)
      next_[wanting_[i]] = largest(std::span(logits_).subspan(vocab_ * i, vocab_));
    input_.clear();
    input_.step = ++steps_;
    wanting_.clear();
    return {};
  }

  parallel::Engine& engine_;
  const FixedBatchShape shape_;
  const int32_t block_tokens_, blocks_each_;
  const size_t vocab_;
  parallel::StepInput input_;
  std::vector<int> wanting_;  ///< sequences whose logits this step gives, in chunk order
  std::vector<float> logits_;
  std::vector<TokenId> next_;
  uint64_t steps_ = 0;
};

struct Options {
  std::string model = "default";
  std::vector<int> batches = {1, 8, 32};
  int prompt_tokens = 64, decode_tokens = 32, prompt_rows = 512, threads = 1;
};

Result<void> engine_run(const Options& o) {
  TAILOR_ASSIGN(const std::string path, weights::resolve_model(o.model));
  TAILOR_ASSIGN(const auto files, weights::WeightFiles::open(path));
  const weights::ModelConfig& config = files->config();
  parallel::EngineOptions engine_options;
  engine_options.threads = o.threads;
  engine_options.max_context = o.prompt_tokens + o.decode_tokens;
  int32_t blocks = 0;
  for (int batch : o.batches) {
    engine_options.max_rows = std::max({engine_options.max_rows, batch, o.prompt_rows});
    blocks = std::max(blocks, blocks_needed({o.prompt_tokens, o.decode_tokens, batch},
                                            engine_options.block_tokens));
  }
  // As if KV were F32: enough for any type.
  engine_options.kv_bytes = uint64_t{4} * 2 * blocks * engine_options.block_tokens *
                            config.num_layers * config.num_kv_heads * config.head_dim;
  TAILOR_ASSIGN(const auto engine, parallel::make_cpu_engine(*files, {}, engine_options));

  // Once around before the clock counts, as llama-batched-bench does: 16 rows.
  TAILOR_TRY(run_fixed_batch(*engine, {.prompt_tokens = 16, .decode_tokens = 1},
                             engine_options.block_tokens, o.threads));
  for (int batch : o.batches) {
    const FixedBatchShape shape{o.prompt_tokens, o.decode_tokens, batch, o.prompt_rows};
    TAILOR_ASSIGN(const FixedBatch measured,
                  run_fixed_batch(*engine, shape, engine_options.block_tokens, o.threads));
    std::printf("%s\n", fixed_batch_line(measured).c_str());
    std::fflush(stdout);
  }
  return {};
}

}  // namespace

int32_t blocks_needed(const FixedBatchShape& shape, int32_t block_tokens) {
  const int32_t tokens = shape.prompt_tokens + shape.decode_tokens;
  return shape.batch * ((tokens + block_tokens - 1) / block_tokens);
}

Result<FixedBatch> run_fixed_batch(parallel::Engine& engine, const FixedBatchShape& shape,
                                   int32_t block_tokens, int threads) {
  if (std::min({shape.prompt_tokens, shape.decode_tokens, shape.batch, shape.prompt_rows}) < 1)
    return fail(ErrorCode::kInvalidArgument, "the numbers of a fixed batch must be at least 1");
  if (const int32_t needed = blocks_needed(shape, block_tokens); needed > engine.info().num_blocks)
    return fail(ErrorCode::kOutOfBlocks, "the batch needs " + std::to_string(needed) +
                                             " KV blocks, and the pool has " +
                                             std::to_string(engine.info().num_blocks));
  Batch batch(engine, shape, block_tokens);
  const Time start = now();
  TAILOR_TRY(batch.prefill());
  const Time prefilled = now();
  for (int i = 0; i < shape.decode_tokens; ++i) TAILOR_TRY(batch.decode(i));
  const Time decoded = now();
  return FixedBatch{threads,
                    shape.prompt_tokens,
                    shape.decode_tokens,
                    shape.batch,
                    shape.batch * shape.prompt_tokens / to_seconds(prefilled - start),
                    shape.batch * shape.decode_tokens / to_seconds(decoded - prefilled)};
}

std::function<Result<void>()> add_engine_run(CLI::App& bench) {
  auto options = std::make_shared<Options>();
  CLI::App* app = bench.add_subcommand(
      "engine-run", "fixed batches on the CPU engine alone; a line of JSON for each");
  app->group("");  // not in --help: `vs-llama` starts it
  app->add_option("--model", options->model, "default, a folder or a .gguf file");
  app->add_option("--threads", options->threads, "math threads")->check(CLI::PositiveNumber);
  app->add_option("--batches", options->batches, "sequences at once")
      ->delimiter(',')
      ->check(CLI::PositiveNumber);
  app->add_option("--prompt-tokens", options->prompt_tokens, "of each sequence")
      ->check(CLI::PositiveNumber);
  app->add_option("--decode-tokens", options->decode_tokens, "steps after the prompts")
      ->check(CLI::PositiveNumber);
  app->add_option("--prompt-rows", options->prompt_rows, "rows of a prompt step")
      ->check(CLI::PositiveNumber);
  return [options] { return engine_run(*options); };
}

}  // namespace tailor::bench
