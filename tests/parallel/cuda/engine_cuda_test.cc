// The cuda engine on the fake device against the CPU engine, both in F32: the same tokens whatever
// is in flight, on how many ranks, given up and begun again, or moved to the host and back in the
// middle; what its steps give beside tokens; and what it refuses.
#include "parallel/cuda/engine_cuda.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "parallel/engine_cpu.h"
#include "tests/parallel/cpu/random_model.h"
#include "tests/parallel/cuda/fake_engine.h"
#include "tests/parallel/random_server.h"

namespace tailor::parallel::testing {
namespace {

constexpr int64_t kVocab = 384;

std::unique_ptr<weights::WeightFiles> small_model() {
  // 6 heads in 3 KV groups, 160 intermediate columns: uneven shards.
  auto files = weights::WeightFiles::open(std::string(TAILOR_SOURCE_DIR) +
                                          "/tests/fixtures/models/llama31_small");
  EXPECT_TRUE(files.has_value()) << to_string(files.error());
  return files ? std::move(*files) : nullptr;
}

EngineOptions small_options() {
  EngineOptions options;
  options.dtype = "f32";
  options.kv_dtype = "f32";
  options.kv_bytes = 2 << 20;
  options.max_rows = 128;
  options.slots = kSlots;
  options.end_tokens = {worker::test::kEos};
  return options;
}

std::unique_ptr<Engine> cpu_engine(const weights::WeightFiles& files) {
  auto engine = make_cpu_engine(files, {}, small_options());
  EXPECT_TRUE(engine.has_value()) << to_string(engine.error());
  return engine ? std::move(*engine) : nullptr;
}
std::unique_ptr<FakeDeviceEngine> fake_engine(const weights::WeightFiles& files,
                                              const TpContext& tp = {},
                                              const EngineOptions& options = small_options(),
                                              const gpu::FakeDeviceOptions& device = {},
                                              int32_t host_blocks = 0) {
  auto engine = FakeDeviceEngine::make(files, tp, options, device, host_blocks);
  EXPECT_TRUE(engine.has_value()) << to_string(engine.error());
  return engine ? std::move(*engine) : nullptr;
}

double largest_difference(const std::vector<float>& a, const std::vector<float>& b) {
  EXPECT_EQ(a.size(), b.size());
  double worst = 0;
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    const double difference = std::abs(double{a[i]} - double{b[i]});
    worst = std::isfinite(difference) ? std::max(worst, difference) : 1e30;
  }
  return worst;
}

/// 20 tokens of one sequence, in two blocks.
StepInput prompt_step() {
  StepInput step;
  for (TokenId t = 0; t < 20; ++t) step.token_ids.push_back(t * 11);
  step.block_ids = {2, 0};
  step.chunks = {{0, 20, 0, 0, 2, 1}};
  return step;
}

std::shared_ptr<const Request> request_of(const StepInput& step, SamplingParams sampling) {
  return std::make_shared<const Request>(
      Request{.prompt = step.token_ids, .sampling = std::move(sampling)});
}

TEST(CudaEngine, TokensAreThoseOfTheCpuEngineWhateverIsInFlight) {
  const auto files = small_model();
  const Jobs jobs = some_jobs(9, kVocab, 9);
  const Served wanted =
      serve([&](const TpContext&) { return cpu_engine(*files); }, jobs, 1, false, 1);
  int discarded = 0;
  for (const auto& [tp, seed] : {std::pair(1, 3u), {1, 4u}, {2, 5u}}) {
    const auto make = [&, seed = seed](const TpContext& context) {
      return fake_engine(*files, context, small_options(),
                         {.seed = seed * 10 + static_cast<uint64_t>(context.rank)});
    };
    const Served served = serve(make, jobs, tp, false, seed);
    EXPECT_EQ(served.ahead_most, 2u);
    discarded += served.discarded;
    for (size_t job = 0; job < jobs.size(); ++job) {
      EXPECT_EQ(served.answers[job].failed, wanted.answers[job].failed) << job;
      EXPECT_EQ(served.answers[job].tokens, wanted.answers[job].tokens)
          << "job " << job << ", tp " << tp << ", seed " << seed;
    }
  }
  EXPECT_GT(discarded, 0);
}

TEST(CudaEngine, LogitsHiddenStatesAndLogProbabilitiesAreThoseOfTheCpuEngine) {
  const auto files = small_model();
  const StepInput step = prompt_step();
  SamplingParams sampling;
  sampling.temperature = 0;
  sampling.logprobs = 3;
  sampling.logit_bias = {{7, 1.5f}, {300, -2.0f}};
  const auto request = request_of(step, sampling);
  const std::vector<SlotId> slots = {3};
  struct Seen {
    std::vector<float> logits, hidden;
    LogprobEntry logprobs;
    TokenId token = -1;
  };
  const auto see = [&](Engine& engine) {
    const auto depth = static_cast<int32_t>(engine.info().num_layers);
    const std::vector<int32_t> rows = {19, 3}, layers = {1, depth};
    Seen seen;
    seen.logits.resize(kVocab);
    seen.hidden.resize(4 * static_cast<size_t>(engine.info().hidden_size));
    engine.open_slot({3, request, 0, {}});
    EXPECT_TRUE(engine.submit(step, {slots, seen.logits, {rows, layers, seen.hidden}}).has_value());
    auto outcome = engine.collect();
    EXPECT_TRUE(outcome.has_value() && outcome->tokens[0].has_value());
    if (!outcome || !outcome->tokens[0]) return seen;
    seen.token = *outcome->tokens[0];
    seen.logprobs = outcome->logprobs[0];
    engine.close_slot(3);
    return seen;
  };
  const Seen cuda = see(*fake_engine(*files)), cpu = see(*cpu_engine(*files));
  EXPECT_LT(largest_difference(cuda.logits, cpu.logits), 1e-3);
  EXPECT_LT(largest_difference(cuda.hidden, cpu.hidden), 1e-3);
  EXPECT_GT(largest_difference(cuda.hidden, std::vector<float>(cuda.hidden.size())), 0.01);
  EXPECT_EQ(cuda.token, cpu.token);
  EXPECT_EQ(cuda.logprobs.chosen.token, cuda.token);
  EXPECT_NEAR(cuda.logprobs.chosen.logprob, cpu.logprobs.chosen.logprob, 1e-3);
  ASSERT_EQ(cuda.logprobs.top.size(), 3u);
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(cuda.logprobs.top[i].token, cpu.logprobs.top[i].token);
    EXPECT_NEAR(cuda.logprobs.top[i].logprob, cpu.logprobs.top[i].logprob, 1e-3);
  }
}

/// Greedy tokens of the prompt's sequence; before each decode step `between` may move its blocks.
std::vector<TokenId> decode_greedily(
    Engine& engine, int count, std::vector<int32_t> blocks,
    const std::function<void(int, std::vector<int32_t>&)>& between = {}) {
  StepInput step = prompt_step();
  SamplingParams sampling;
  sampling.temperature = 0;
  sampling.max_tokens = count;
  engine.open_slot({0, request_of(step, sampling), 0, {}});
  const std::vector<SlotId> slots = {0};
  std::vector<TokenId> tokens;
  step.block_ids.assign(blocks.begin(), blocks.begin() + 2);
  for (int i = 0; i < count; ++i) {
    if (!engine.submit(step, {.slots = slots})) break;
    const auto outcome = engine.collect();
    if (!outcome || !outcome->tokens[0]) break;
    tokens.push_back(*outcome->tokens[0]);
    if (between) between(i, blocks);
    const int32_t position = 20 + i;
    step.clear();
    step.token_ids = {tokens.back()};
    step.block_ids.assign(blocks.begin(), blocks.begin() + position / 16 + 1);
    step.chunks = {{0, 1, position, 0, position / 16 + 1, 1}};
  }
  engine.close_slot(0);
  return tokens;
}

TEST(CudaEngine, BlocksGoToTheHostAndBackInTheMiddle) {
  const auto files = small_model();
  const std::vector<TokenId> wanted = decode_greedily(*cpu_engine(*files), 14, {2, 0, 5});
  ASSERT_EQ(wanted.size(), 14u);
  const auto engine = fake_engine(*files, {}, small_options(), {.seed = 4}, 8);
  kv::BlockStore& store = engine->store();
  uint64_t moves = 0;
  const auto move = [&](kv::BlockMove move) {
    ASSERT_TRUE(store.begin(std::span(&move, 1)));
    ++moves;
    for (const Time begin = now(); store.status(0).done < moves;)
      ASSERT_LT(now() - begin, seconds(30));
    ASSERT_EQ(store.status(0).failed, 0u);
  };
  const auto between = [&](int step, std::vector<int32_t>& blocks) {
    if (step % 4 != 1) return;
    // All of it leaves, what it leaves is written over, and it comes back elsewhere.
    for (size_t i = 0; i < blocks.size(); ++i)
      move({.from = blocks[i],
            .to = static_cast<int32_t>(7 - i),
            .from_tier = kv::kDeviceTier,
            .to_tier = gpu::kHostTier});
    for (const int32_t block : blocks)
      ASSERT_TRUE(engine->device().fill(engine->device().stream(),
                                        store.device_data() + block * store.layout().block_bytes(),
                                        0xff, static_cast<size_t>(store.layout().block_bytes())));
    for (size_t i = 0; i < blocks.size(); ++i) {
      blocks[i] += 6;
      move({.from = static_cast<int32_t>(7 - i),
            .to = blocks[i],
            .from_tier = gpu::kHostTier,
            .to_tier = kv::kDeviceTier});
    }
  };
  EXPECT_EQ(decode_greedily(*engine, 14, {2, 0, 5}, between), wanted);
  EXPECT_EQ(moves, 24u);
}

TEST(CudaEngine, TakesEveryWeightFormatAndRunsNearItInBf16) {
  for (const size_t format : {size_t{0}, size_t{11}}) {
    weights::ScratchFolder folder;
    const auto files = weights::open_random(folder, weights::random_formats()[format]);
    ASSERT_NE(files, nullptr);
    StepInput step = prompt_step();
    for (TokenId& id : step.token_ids) id %= weights::kRandomVocab;
    const auto logits = [&](Engine& engine) {
      std::vector<float> out(weights::kRandomVocab);
      EXPECT_TRUE(forward(engine, step, out).has_value());
      return out;
    };
    const std::vector<float> exact = logits(*cpu_engine(*files));
    EXPECT_LT(largest_difference(logits(*fake_engine(*files)), exact), 2e-3);
    if (format != 0) continue;
    EngineOptions options = small_options();
    options.dtype = options.kv_dtype = "auto";
    const auto half = fake_engine(*files, {}, options);
    EXPECT_EQ(half->info().arithmetic_version, "cuda-bf16-1");
    double difference = 0, norm = 0;
    const std::vector<float> near = logits(*half);
    for (size_t i = 0; i < near.size(); ++i) {
      difference += (near[i] - exact[i]) * (near[i] - exact[i]);
      norm += exact[i] * exact[i];
    }
    EXPECT_LT(std::sqrt(difference / norm), 0.05);
    EXPECT_GT(difference, 0);
  }
}

TEST(CudaEngine, AllocatesNothingAfterItsFirstSteps) {
  const auto files = small_model();
  std::atomic<uint64_t> progress{0};
  EngineOptions options = small_options();
  options.progress = &progress;
  const auto engine = fake_engine(*files, {}, options);
  decode_greedily(*engine, 2, {2, 0, 5});
  const auto before = gpu::fake_device_use(engine->device());
  const uint64_t layers = progress;
  decode_greedily(*engine, 6, {2, 0, 5});
  const auto after = gpu::fake_device_use(engine->device());
  EXPECT_EQ(before.device_bytes, after.device_bytes);
  EXPECT_EQ(before.pinned_bytes, after.pinned_bytes);
  EXPECT_EQ(progress, layers + 6 * static_cast<uint64_t>(engine->info().num_layers));
}

TEST(CudaEngine, RefusesAPlanThatDoesNotFit) {
  const auto files = small_model();
  EngineOptions options = small_options();
  options.max_context = 64;
  options.max_rows = 32;
  const auto engine = fake_engine(*files, {}, options);
  std::vector<float> logits(kVocab);
  StepInput good;
  good.token_ids = {1, 2, 3};
  good.block_ids = {0};
  good.chunks = {{0, 3, 0, 0, 1, 1}};
  ASSERT_TRUE(forward(*engine, good, logits).has_value());
  const int32_t blocks = engine->info().num_blocks;
  const std::vector<std::function<void(StepInput&)>> changes = {
      [](StepInput& s) { s.token_ids[0] = kVocab; },
      [](StepInput& s) { s.token_ids[0] = drawn_in_row(0); },
      [&](StepInput& s) { s.block_ids[0] = blocks; },
      [](StepInput& s) { s.chunks[0].first_position = 62; },
      [](StepInput& s) { s.chunks[0].first_position = 14; },  // beyond its one block
      [](StepInput& s) { s.chunks[0].num_rows = 2; },
      [](StepInput& s) { s.chunks[0].num_blocks = 2; },
      [](StepInput& s) { s.chunks[0].wants_logits = 0; },  // room for logits nobody wants
      [](StepInput& s) { s.token_ids.resize(33), s.chunks[0].num_rows = 33; },
      [](StepInput& s) { s.block_ids.resize(100000); },
  };
  for (size_t i = 0; i < changes.size(); ++i) {
    StepInput step = good;
    changes[i](step);
    const auto refused = forward(*engine, step, logits);
    ASSERT_FALSE(refused.has_value()) << i;
    EXPECT_EQ(refused.error().code, ErrorCode::kInvalidArgument) << i;
  }
  EXPECT_TRUE(forward(*engine, good, logits).has_value());
  EXPECT_TRUE(forward(*engine, {}, {}).has_value());
}

TEST(CudaEngine, RefusesWhatItCannotBecome) {
  const auto files = small_model();
  const auto refused = [&](TpContext tp, const std::function<void(EngineOptions&)>& change,
                           ErrorCode code, uint64_t memory_bytes = 1 << 28) {
    EngineOptions options = small_options();
    change(options);
    const auto device = gpu::open_fake_device({.memory_bytes = memory_bytes});
    auto engine = make_cuda_engine(*device, *files, tp, options);
    EXPECT_FALSE(engine.has_value());
    if (!engine) {
      EXPECT_EQ(engine.error().code, code) << engine.error().message;
    }
  };
  const auto as_it_is = [](EngineOptions&) {};
  refused({0, 4, nullptr}, as_it_is, ErrorCode::kInvalidArgument);  // 3 groups
  refused(
      {}, [](EngineOptions& o) { o.dtype = "f64"; }, ErrorCode::kInvalidArgument);
  refused(
      {}, [](EngineOptions& o) { o.kv_dtype = "f16"; }, ErrorCode::kInvalidArgument);
  refused(
      {}, [](EngineOptions& o) { o.max_context = 1 << 20; }, ErrorCode::kInvalidArgument);
  refused(
      {}, [](EngineOptions& o) { o.max_context = 512, o.kv_bytes = 100000; },
      ErrorCode::kLimitExceeded);
  refused({}, as_it_is, ErrorCode::kLimitExceeded, 1 << 20);
}

TEST(CudaEngine, ADeviceThatHangsEndsTheRankAtTheDeadline) {
  const auto files = small_model();
  EngineOptions options = small_options();
  options.device_deadline = milliseconds(300);
  // Loading takes some pieces of work; the hang comes in the middle of a later step.
  const auto engine =
      fake_engine(*files, {}, options, {.late_by = Duration(0), .hangs_after = 150});
  std::vector<float> logits(kVocab);
  for (int i = 0; i < 100; ++i) {
    const auto done = forward(*engine, prompt_step(), logits);
    if (done) continue;
    EXPECT_EQ(done.error().code, ErrorCode::kTimeout) << done.error().message;
    const auto again = engine->submit(prompt_step(), {.logits = logits});
    EXPECT_EQ(again.error().code, ErrorCode::kTimeout);
    return;
  }
  ADD_FAILURE() << "a hang was not noticed";
}

}  // namespace
}  // namespace tailor::parallel::testing
