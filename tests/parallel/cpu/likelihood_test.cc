// How much the stored formats' integer arithmetic costs: the mean log-likelihood of real prompts
// under the default model, computed from each format, against the same weights dequantized to F32
// (which parity_cpu_test compares with transformers). And the tokens the engine gives for the
// default file: a change of arithmetic is a decision, so it must change this file and the
// arithmetic version.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <nlohmann/json.hpp>

#include "parallel/engine_cpu.h"
#include "tests/parallel/cpu/random_model.h"
#include "tests/parallel/greedy.h"
#include "weights/default_model.h"

namespace tailor::parallel::testing {
namespace {

constexpr size_t kPrompts = 52, kMostTokens = 160;

std::vector<std::vector<TokenId>> real_prompts(size_t count, size_t most_tokens) {
  std::ifstream file(weights::fixtures("parity/default.jsonl"));
  std::vector<std::vector<TokenId>> prompts;
  for (std::string line; prompts.size() < count && std::getline(file, line);) {
    prompts.push_back(nlohmann::json::parse(line)["prompt_token_ids"]);
    prompts.back().resize(std::min(prompts.back().size(), most_tokens));
  }
  return prompts;
}

/// How far a prompt begins like one before it: the chat template's words count once, not once a
/// prompt.
size_t seen_before(const std::vector<std::vector<TokenId>>& prompts, size_t index) {
  size_t longest = 0;
  for (size_t other = 0; other < index; ++other) {
    const auto ends = std::mismatch(prompts[index].begin(), prompts[index].end(),
                                    prompts[other].begin(), prompts[other].end());
    longest = std::max<size_t>(longest, ends.first - prompts[index].begin());
  }
  return longest;
}

/// Mean log-likelihood of every token but the first, all prompts side by side, a token a step.
double likelihood(const weights::WeightFiles& files, const std::string& dtype,
                  const std::string& kv_dtype) {
  EngineOptions options;
  options.dtype = dtype;
  options.kv_dtype = kv_dtype;
  options.kv_bytes = 420ull << 20;
  options.threads = 2;
  auto engine = make_cpu_engine(files, {}, options);
  EXPECT_TRUE(engine.has_value()) << to_string(engine.error());
  if (!engine) return 0;
  const auto prompts = real_prompts(kPrompts, kMostTokens);
  std::vector<size_t> first_counted;
  for (size_t p = 0; p < prompts.size(); ++p) first_counted.push_back(seen_before(prompts, p));
  const int64_t vocab = (*engine)->info().vocab_size;
  std::vector<float> logits;
  double sum = 0;
  int64_t count = 0;
  for (size_t position = 0; position + 1 < kMostTokens; ++position) {
    StepInput step;
    std::vector<TokenId> next;
    std::vector<bool> counts;
    for (size_t p = 0; p < prompts.size(); ++p) {
      if (position + 1 >= prompts[p].size()) continue;
      const auto first_block = static_cast<int32_t>(step.block_ids.size());
      const auto blocks = static_cast<int32_t>(position / 16 + 1);
      for (int32_t b = 0; b < blocks; ++b)
        step.block_ids.push_back(static_cast<int32_t>(p) * 10 + b);
      step.chunks.push_back(
          {step.num_rows(), 1, static_cast<int32_t>(position), first_block, blocks, 1});
      step.token_ids.push_back(prompts[p][position]);
      next.push_back(prompts[p][position + 1]);
      counts.push_back(position + 1 >= first_counted[p]);
    }
    logits.resize(next.size() * static_cast<size_t>(vocab));
    auto done = forward(**engine, step, logits);
    EXPECT_TRUE(done.has_value()) << to_string(done.error());
    if (!done) return 0;
    for (size_t i = 0; i < next.size(); ++i) {
      if (!counts[i]) continue;
      const float* row = logits.data() + i * static_cast<size_t>(vocab);
      const double top = *std::max_element(row, row + vocab);
      double total = 0;
      for (int64_t t = 0; t < vocab; ++t) total += std::exp(row[t] - top);
      sum += row[next[i]] - top - std::log(total);
      ++count;
    }
  }
  EXPECT_GT(count, 1000);
  return sum / static_cast<double>(count);
}

uint16_t to_half(float value) {
  const auto half = static_cast<_Float16>(value);
  return std::bit_cast<uint16_t>(half);
}

/// The rows of a matrix in one of the simple formats, as ggml's reference quantizes them.
std::string quantize(const std::vector<float>& values, weights::DataType type) {
  std::string out;
  const auto half = [&](float v) { out += weights::raw(to_half(v)); };
  for (size_t at = 0; at < values.size(); at += 32) {
    const float* x = values.data() + at;
    if (type == weights::DataType::kF16) {
      for (int i = 0; i < 32; ++i) half(x[i]);
    } else if (type == weights::DataType::kQ8_0) {
      float largest = 0;
      for (int i = 0; i < 32; ++i) largest = std::max(largest, std::abs(x[i]));
      const float d = largest / 127;
      half(d);
      for (int i = 0; i < 32; ++i) out += static_cast<char>(d > 0 ? std::lround(x[i] / d) : 0);
    } else {  // Q4_0
      float extreme = 0;
      for (int i = 0; i < 32; ++i)
        if (std::abs(x[i]) > std::abs(extreme)) extreme = x[i];
      const float d = extreme / -8;
      half(d);
      const auto quant = [&](int i) {
        return d != 0 ? std::clamp(static_cast<int>(x[i] / d + 8.5f), 0, 15) : 8;
      };
      for (int i = 0; i < 16; ++i) out += static_cast<char>(quant(i) | quant(i + 16) << 4);
    }
  }
  return out;
}

TEST(Likelihood, OfRealPromptsIsKeptByEveryFormat) {
  auto path = weights::resolve_model("default");
  ASSERT_TRUE(path.has_value()) << to_string(path.error());
  auto files = weights::WeightFiles::open(*path);
  ASSERT_TRUE(files.has_value()) << to_string(files.error());
  const double exact = likelihood(**files, "f32", "f32");
  EXPECT_LT(exact, -1.0);  // per token; a uniform guess would be -10.8
  EXPECT_GT(exact, -5.0);
  // tools/make_likelihood_fixture.py
  std::ifstream file(weights::fixtures("parity/likelihood.json"));
  ASSERT_TRUE(file.good());
  const double transformers = nlohmann::json::parse(file)["mean_log_likelihood"];
  EXPECT_NEAR(exact / transformers, 1, 1e-4);
  const double stored = likelihood(**files, "auto", "auto");
  std::printf("Q4_1 (as stored): %.5f, dequantized %.5f: %.3f %%\n", stored, exact,
              100 * (stored / exact - 1));
  EXPECT_NEAR(stored / transformers, 1, 0.005);

  weights::ScratchFolder folder;
  for (const auto& [name, type, number] : {std::tuple{"Q8_0", weights::DataType::kQ8_0, 8u},
                                           {"Q4_0", weights::DataType::kQ4_0, 2u},
                                           {"F16", weights::DataType::kF16, 1u}}) {
    weights::GgufWriter writer = weights::as_gguf(**files, [&](const std::vector<float>& values) {
      return std::pair{static_cast<uint32_t>(number), quantize(values, type)};
    });
    const std::string file = folder / "converted.gguf";
    weights::write_file(file, writer.bytes());
    auto converted = weights::WeightFiles::open(file);
    ASSERT_TRUE(converted.has_value()) << to_string(converted.error());
    ASSERT_EQ((*converted)->find("model.layers.3.mlp.up_proj.weight")->type, name);
    const double reference = likelihood(**converted, "f32", "f32");
    const double found = likelihood(**converted, "auto", "auto");
    std::printf("%s: %.5f, dequantized %.5f: %.3f %%\n", name, found, reference,
                100 * (found / reference - 1));
    EXPECT_NEAR(found / reference, 1, 0.005) << name;
  }
}

/// The logits of a short greedy run on the random model, as one number.
uint64_t fingerprint(const weights::WeightFiles& files) {
  EngineOptions options;
  options.kv_bytes = 4 << 20;
  auto engine = make_cpu_engine(files, {}, options);
  EXPECT_TRUE(engine.has_value()) << to_string(engine.error());
  uint64_t hash = 14695981039346656037u;
  if (!engine) return hash;
  GreedyServer server(**engine, {});
  Job job{{5, 300, 77, 12, 130, 9, 201, 44, 45, 46, 47, 48, 49, 50, 51, 52, 53, 54}, 8};
  auto answers = server.run({job}, {}, [&](size_t, size_t, std::span<const float> logits) {
    for (std::byte b : std::as_bytes(logits))
      hash = (hash ^ static_cast<uint64_t>(b)) * 1099511628211u;
  });
  EXPECT_TRUE(answers.has_value());
  return hash;
}

/// Everything that is pinned: logits of the random model in every format, and the default model's
/// tokens.
nlohmann::json arithmetic() {
  nlohmann::json out;
  weights::ScratchFolder folder;
  for (const weights::RandomFormat& format : weights::random_formats())
    out["logits"][format.name] = std::to_string(fingerprint(*weights::open_random(folder, format)));
  auto files = weights::WeightFiles::open(weights::default_model_path());
  EXPECT_TRUE(files.has_value()) << to_string(files.error());
  if (!files) return out;
  EngineOptions options;
  options.kv_bytes = 256 << 20;
  options.threads = 2;
  auto engine = make_cpu_engine(**files, {}, options);
  EXPECT_TRUE(engine.has_value()) << to_string(engine.error());
  if (!engine) return out;
  out["arithmetic_version"] = (*engine)->info().arithmetic_version;
  GreedyServer server(**engine, {});
  std::vector<Job> jobs;
  for (auto& prompt : real_prompts(12, 1000)) jobs.push_back({std::move(prompt), 48});
  auto answers = server.run(jobs, {12, 64});
  EXPECT_TRUE(answers.has_value()) << to_string(answers.error());
  if (!answers) return out;
  for (const Answer& answer : *answers) out["default_tokens"].push_back(answer.tokens);
  return out;
}

/// Where a change was decided: raise the engine's arithmetic version, and write the file anew with
/// TAILOR_PIN_TO=tests/fixtures/parity/cpu_arithmetic.json.
TEST(Arithmetic, IsPinned) {
  const nlohmann::json found = arithmetic();
  if (const char* to = std::getenv("TAILOR_PIN_TO")) std::ofstream(to) << found.dump() << "\n";
  std::ifstream file(weights::fixtures("parity/cpu_arithmetic.json"));
  ASSERT_TRUE(file.good());
  const auto pinned = nlohmann::json::parse(file);
  for (const char* what : {"arithmetic_version", "logits", "default_tokens"})
    EXPECT_EQ(pinned[what], found[what]) << what;
}

}  // namespace
}  // namespace tailor::parallel::testing
