// The CPU engine's promise: a request's logits are the same bits alone, in any company, in any
// chunks, recomputed, at tp 1, 2 and 3, with any number of threads, on every instruction set, for
// every weight format. And what it refuses.
#include "parallel/engine_cpu.h"

#include <gtest/gtest.h>

#include <thread>

#include "comm/collective_inprocess.h"
#include "parallel/cpu/kernels_cpu.h"
#include "tests/base/allocation_counter.h"
#include "tests/parallel/cpu/random_model.h"
#include "tests/parallel/greedy.h"

namespace tailor::parallel::testing {
namespace {

using tailor::testing::allocations;
using weights::RandomFormat;

constexpr int32_t kTokens = 6;

struct Way {
  int tp = 1, threads = 1;
  std::string instruction_set = "auto", kv_dtype = "auto";
  Schedule schedule;
  std::string text() const {
    return "tp " + std::to_string(tp) + ", " + std::to_string(threads) + " threads, " +
           instruction_set + ", batch " + std::to_string(schedule.batch) + ", chunks of " +
           std::to_string(schedule.chunk_rows);
  }
};

std::vector<Job> some_jobs(uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<Job> jobs;
  for (int32_t length : {1, 3, 16, 17, 40, 33}) {
    Job job;
    for (int32_t i = 0; i < length; ++i)
      job.prompt.push_back(static_cast<TokenId>(random() % weights::kRandomVocab));
    job.max_tokens = kTokens;
    jobs.push_back(job);
  }
  return jobs;
}

struct Served {
  std::vector<Answer> answers;
  std::vector<std::vector<float>> logits;  ///< a row per (job, token)
};

Served serve_jobs(const weights::WeightFiles& files, const std::vector<Job>& jobs, const Way& way) {
  Served out;
  out.logits.resize(jobs.size() * kTokens);
  comm::InProcessGroup group(way.tp, seconds(60));
  std::vector<std::thread> ranks;
  for (int rank = 0; rank < way.tp; ++rank) {
    ranks.emplace_back([&, rank] {
      const auto collective = group.join(rank);
      const TpContext context{rank, way.tp, collective.get()};
      EngineOptions options;
      options.kv_bytes = 4 << 20;
      options.max_rows = 256;
      options.threads = way.threads;
      options.instruction_set = way.instruction_set;
      options.kv_dtype = way.kv_dtype;
      auto engine = make_cpu_engine(files, context, options);
      ASSERT_TRUE(engine.has_value()) << to_string(engine.error());
      GreedyServer server(**engine, context);
      auto answers = server.run(
          jobs, way.schedule, [&](size_t job, size_t position, std::span<const float> logits) {
            out.logits[job * kTokens + position].assign(logits.begin(), logits.end());
          });
      ASSERT_TRUE(answers.has_value()) << to_string(answers.error());
      if (rank == 0) out.answers = std::move(*answers);
    });
  }
  for (std::thread& rank : ranks) rank.join();
  return out;
}

void expect_same_bits(const std::vector<float>& wanted, const std::vector<float>& found,
                      const std::string& what) {
  ASSERT_EQ(wanted.size(), found.size()) << what;
  ASSERT_EQ(0, std::memcmp(wanted.data(), found.data(), wanted.size() * sizeof(float))) << what;
}

class SameBits : public ::testing::TestWithParam<RandomFormat> {};

TEST_P(SameBits, WhateverElseRunsAndHoweverItIsComputed) {
  weights::ScratchFolder folder;
  const auto files = weights::open_random(folder, GetParam());
  ASSERT_NE(files, nullptr);
  const std::vector<Job> jobs = some_jobs(1);
  const Served alone = serve_jobs(*files, jobs, {});
  double spread = 0;
  for (float value : alone.logits[0]) spread = std::max(spread, std::abs(double{value}));
  ASSERT_GT(spread, 0.1);
  ASSERT_TRUE(std::isfinite(spread));

  std::mt19937 random(29);
  std::vector<Way> ways = {{.tp = 2}, {.tp = 3}, {.threads = 2}, {.schedule = {6, 1024}}};
  for (const char* name : {"scalar", "avx2"})
    if (cpu::cpu_kernels(name)) ways.push_back({.instruction_set = name, .schedule = {6, 13}});
  for (int i = 0; i < 8; ++i) {
    ways.push_back({.tp = 1 + static_cast<int>(random() % 3),
                    .threads = 1 + static_cast<int>(random() % 2),
                    .schedule = {1 + static_cast<int32_t>(random() % 6),
                                 1 + static_cast<int32_t>(random() % 40)}});
  }
  for (const Way& way : ways) {
    const Served other = serve_jobs(*files, jobs, way);
    for (size_t i = 0; i < alone.logits.size(); ++i)
      expect_same_bits(alone.logits[i], other.logits[i],
                       way.text() + ", job " + std::to_string(i / kTokens) + ", token " +
                           std::to_string(i % kTokens));
  }

  // Recomputed: what was generated is prefilled again behind its prompt.
  std::vector<Job> again = jobs;
  constexpr int32_t kKept = 4;
  for (size_t j = 0; j < jobs.size(); ++j) {
    again[j].prompt.insert(again[j].prompt.end(), alone.answers[j].tokens.begin(),
                           alone.answers[j].tokens.begin() + kKept);
    again[j].max_tokens = kTokens - kKept;
  }
  const Served recomputed = serve_jobs(*files, again, {.schedule = {4, 9}});
  for (size_t j = 0; j < jobs.size(); ++j)
    for (int32_t t = 0; t < kTokens - kKept; ++t)
      expect_same_bits(alone.logits[j * kTokens + kKept + t], recomputed.logits[j * kTokens + t],
                       "recomputed");
}

TEST_P(SameBits, WithKeysAndValuesInF32Too) {
  weights::ScratchFolder folder;
  const auto files = weights::open_random(folder, GetParam());
  const std::vector<Job> jobs = some_jobs(2);
  const Served alone = serve_jobs(*files, jobs, {.kv_dtype = "f32"});
  const Served other =
      serve_jobs(*files, jobs, {.tp = 2, .threads = 2, .kv_dtype = "f32", .schedule = {5, 7}});
  const Served halves = serve_jobs(*files, jobs, {});
  for (size_t i = 0; i < alone.logits.size(); ++i)
    expect_same_bits(alone.logits[i], other.logits[i], "KV in F32");
  EXPECT_NE(0, std::memcmp(alone.logits[12].data(), halves.logits[12].data(), 64));
}

INSTANTIATE_TEST_SUITE_P(Formats, SameBits, ::testing::ValuesIn(weights::random_formats()),
                         [](const auto& info) { return std::string(info.param.name); });

/// Hidden states of the last row of one prompt of 20 tokens, prefilled in chunks of `rows`.
std::vector<float> tapped(Engine& engine, std::span<const int32_t> layers, int32_t rows) {
  std::vector<float> out(layers.size() * static_cast<size_t>(engine.info().hidden_size));
  for (int32_t begin = 0; begin < 20; begin += rows) {
    const int32_t end = std::min(20, begin + rows);
    StepInput step;
    for (TokenId t = begin; t < end; ++t) step.token_ids.push_back((t * 11 + 1) % 50);
    step.block_ids = {2, 0};
    step.chunks = {{0, end - begin, begin, 0, (end + 15) / 16, 0}};
    const std::vector<int32_t> last = {end - begin - 1};
    auto done = forward(engine, step, {}, {last, layers, out});
    EXPECT_TRUE(done.has_value()) << to_string(done.error());
  }
  return out;
}

TEST(CpuEngine, HiddenStatesAreTheSameBitsInAnyChunks) {
  weights::ScratchFolder folder;
  const auto files = weights::open_random(folder, weights::random_formats().front());
  ASSERT_NE(files, nullptr);
  EngineOptions options;
  options.kv_bytes = 4 << 20;
  auto engine = make_cpu_engine(*files, {}, options);
  ASSERT_TRUE(engine.has_value()) << to_string(engine.error());
  const auto depth = static_cast<int32_t>((*engine)->info().num_layers);
  const std::vector<int32_t> all = {1, depth}, last = {depth};
  const std::vector<float> whole = tapped(**engine, all, 20);
  expect_same_bits(whole, tapped(**engine, all, 7), "in chunks");
  const std::vector<float> only = tapped(**engine, last, 20);
  expect_same_bits(only, {whole.begin() + static_cast<int64_t>(only.size()), whole.end()},
                   "one layer of two");
  EXPECT_NE(0, std::memcmp(whole.data(), only.data(), only.size() * sizeof(float)));

  // What a plan asks for is checked before anything is written.
  StepInput step;
  step.token_ids = {1, 2};
  step.block_ids = {0};
  step.chunks = {{0, 2, 0, 0, 1, 0}};
  std::vector<float> out(only.size());
  const std::vector<int32_t> row = {1}, outside = {2}, backwards = {depth, 1}, beyond = {depth + 1};
  EXPECT_TRUE(forward(**engine, step, {}, {row, last, out}).has_value());
  EXPECT_FALSE(forward(**engine, step, {}, {outside, last, out}).has_value());
  EXPECT_FALSE(forward(**engine, step, {}, {row, beyond, out}).has_value());
  std::vector<float> two(2 * only.size());
  EXPECT_FALSE(forward(**engine, step, {}, {row, backwards, two}).has_value());
  EXPECT_FALSE(forward(**engine, step, {}, {row, last, two}).has_value());
}

TEST(CpuEngine, HeadsThatNoTileDividesAndBiases) {
  // 2 heads of 16, 12 intermediate columns, a vocabulary of 10, biases: every size is clipped.
  weights::ScratchFolder folder;
  std::string config = weights::kTinyConfig;
  config.replace(config.find("\"hidden_size\": 8"), 16, "\"hidden_size\": 40");
  config.insert(1, "\"head_dim\": 16, ");
  weights::write_file(folder / "config.json", config);
  auto files = weights::WeightFiles::dummy(folder.path(), 3);
  ASSERT_TRUE(files.has_value()) << to_string(files.error());
  std::vector<Job> jobs = {{{1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2}, 5},
                           {{9, 8}, 5}};
  const auto logits = [&](const char* instruction_set, Schedule schedule) {
    EngineOptions options;
    options.kv_bytes = 1 << 20;
    options.instruction_set = instruction_set;
    auto engine = make_cpu_engine(**files, {}, options);
    EXPECT_TRUE(engine.has_value()) << to_string(engine.error());
    std::vector<float> rows;
    if (!engine) return rows;
    rows.resize(100);
    GreedyServer server(**engine, {});
    auto answers =
        server.run(jobs, schedule, [&](size_t job, size_t position, std::span<const float> row) {
          std::copy(row.begin(), row.end(), rows.begin() + (job * 5 + position) * 10);
        });
    EXPECT_TRUE(answers.has_value());
    return rows;
  };
  const std::vector<float> wanted = logits("scalar", {});
  expect_same_bits(wanted, logits("auto", {}), "auto");
  expect_same_bits(wanted, logits("auto", {2, 3}), "in company");
}

TEST(CpuEngine, NothingIsAllocatedInsideAStep) {
  weights::ScratchFolder folder;
  for (const RandomFormat& format : {weights::random_formats()[1], weights::random_formats()[4]}) {
    const auto files = weights::open_random(folder, format);
    for (int threads : {1, 2}) {
      EngineOptions options;
      options.kv_bytes = 4 << 20;
      options.threads = threads;
      auto engine = make_cpu_engine(*files, {}, options);
      ASSERT_TRUE(engine.has_value()) << to_string(engine.error());
      StepInput step;
      for (int32_t row = 0; row < 40; ++row) step.token_ids.push_back(row * 7 % 300);
      step.block_ids = {3, 1, 4, 0, 2};
      step.chunks = {{0, 33, 0, 0, 3, 1}, {33, 1, 5, 3, 1, 1}, {34, 6, 0, 4, 1, 0}};
      std::vector<float> logits(2 * weights::kRandomVocab);
      const int64_t before = allocations.load();
      const bool done = forward(**engine, step, logits).has_value();
      EXPECT_EQ(allocations.load(), before) << format.name << ", " << threads << " threads";
      EXPECT_TRUE(done);
    }
  }
}

TEST(CpuEngine, RefusesWhatItCannotBecome) {
  weights::ScratchFolder folder;
  const auto files = weights::open_random(folder, weights::random_formats()[4]);
  const auto refused = [&](const weights::WeightFiles& model, TpContext tp,
                           const std::function<void(EngineOptions&)>& change, ErrorCode code,
                           const std::string& word) {
    EngineOptions options;
    options.kv_bytes = 4 << 20;
    change(options);
    auto engine = make_cpu_engine(model, tp, options);
    ASSERT_FALSE(engine.has_value()) << word;
    EXPECT_EQ(engine.error().code, code) << engine.error().message;
    EXPECT_NE(engine.error().message.find(word), std::string::npos) << engine.error().message;
  };
  const auto keep = [](EngineOptions&) {};
  refused(*files, {0, 4, nullptr}, keep, ErrorCode::kInvalidArgument, "3 attention units");
  refused(
      *files, {}, [](EngineOptions& o) { o.dtype = "f64"; }, ErrorCode::kInvalidArgument, "f64");
  refused(
      *files, {}, [](EngineOptions& o) { o.kv_dtype = "q8"; }, ErrorCode::kInvalidArgument, "q8");
  refused(
      *files, {}, [](EngineOptions& o) { o.instruction_set = "mmx"; }, ErrorCode::kInvalidArgument,
      "mmx");
  refused(
      *files, {}, [](EngineOptions& o) { o.block_tokens = 32; }, ErrorCode::kInvalidArgument,
      "blocks of 16");
  refused(
      *files, {}, [](EngineOptions& o) { o.max_context = 1 << 20; }, ErrorCode::kInvalidArgument,
      "context");
  refused(
      *files, {}, [](EngineOptions& o) { o.max_context = 512, o.kv_bytes = 100000; },
      ErrorCode::kLimitExceeded, "512 tokens");

  weights::write_file(folder / "config.json", weights::kTinyConfig);  // heads of 4
  auto odd = weights::WeightFiles::dummy(folder / "config.json", 1);
  ASSERT_TRUE(odd.has_value()) << to_string(odd.error());
  refused(**odd, {}, keep, ErrorCode::kInvalidArgument, "--engine torch");
}

TEST(CpuEngine, APlanOutOfBoundsIsAnErrorNotACrash) {
  weights::ScratchFolder folder;
  const auto files = weights::open_random(folder, weights::random_formats()[0]);
  EngineOptions options;
  options.kv_bytes = 4 << 20;
  options.max_rows = 8;
  std::atomic<uint64_t> progress{0};
  options.progress = &progress;
  auto engine = make_cpu_engine(*files, {}, options);
  ASSERT_TRUE(engine.has_value()) << to_string(engine.error());
  const auto good = [] {
    StepInput step;
    step.token_ids = {1, 2, 3};
    step.block_ids = {5};
    step.chunks = {{0, 3, 0, 0, 1, 1}};
    return step;
  };
  std::vector<float> logits(weights::kRandomVocab);
  EXPECT_TRUE(forward(**engine, good(), logits).has_value());
  EXPECT_EQ(progress.load(), 2u);
  const std::vector<std::function<void(StepInput&)>> damages = {
      [](StepInput& s) { s.token_ids[1] = -1; },
      [](StepInput& s) { s.token_ids[1] = weights::kRandomVocab; },
      [](StepInput& s) { s.block_ids[0] = 1 << 20; },
      [](StepInput& s) { s.block_ids[0] = -1; },
      [](StepInput& s) { s.chunks[0].first_position = 14; },
      [](StepInput& s) { s.chunks[0].num_rows = 4; },
      [](StepInput& s) { s.chunks[0].first_block = 1; },
      [](StepInput& s) { s.chunks[0].wants_logits = 0; },
      [](StepInput& s) { s.token_ids.resize(9, 1), s.chunks[0].num_rows = 9; }};
  for (const auto& damage : damages) {
    StepInput step = good();
    damage(step);
    EXPECT_FALSE(forward(**engine, step, logits).has_value());
  }
}

}  // namespace
}  // namespace tailor::parallel::testing
