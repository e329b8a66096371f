// The cuda engine on the linked device against the CPU engine, both in F32: the same tokens
// whatever is in flight, on how many ranks, given up and begun again, or moved to the host and back
// in the middle; what its steps give beside tokens; and plans that it refuses.
#include "base/clock.h"
#include "tests/parallel/cpu/random_model.h"
#include "tests/parallel/cuda/engine_rig.h"

namespace tailor::parallel::testing {
namespace {

TEST(CudaEngine, TokensAreThoseOfTheCpuEngineWhateverIsInFlight) {
  const auto files = small_model();
  const Jobs jobs = some_jobs(9, kVocab, 9);
  const Served wanted =
      serve([&](const TpContext&) { return cpu_engine(*files); }, jobs, 1, false, 1);
  int discarded = 0;
  for (const auto& [tp, seed] : {std::pair(1, 3u), {1, 4u}, {2, 5u}}) {
    const auto make = [&, seed = seed](const TpContext& context) {
      return cuda_engine(*files, context, small_options(),
                         gpu::open_test_device(seed * 10 + static_cast<uint64_t>(context.rank)));
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
  const Seen cuda = see(*cuda_engine(*files)), cpu = see(*cpu_engine(*files));
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

TEST(CudaEngine, BlocksGoToTheHostAndBackInTheMiddle) {
  const auto files = small_model();
  const std::vector<TokenId> wanted = decode_greedily(*cpu_engine(*files), 14, {2, 0, 5});
  ASSERT_EQ(wanted.size(), 14u);
  const auto engine = cuda_engine(*files, {}, small_options(), gpu::open_test_device(4), 8);
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
    EXPECT_LT(largest_difference(logits(*cuda_engine(*files)), exact), 2e-3);
    if (format != 0) continue;
    EngineOptions options = small_options();
    options.dtype = options.kv_dtype = "auto";
    const auto half = cuda_engine(*files, {}, options);
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

TEST(CudaEngine, RefusesAPlanThatDoesNotFit) {
  const auto files = small_model();
  EngineOptions options = small_options();
  options.max_context = 64;
  options.max_rows = 32;
  const auto engine = cuda_engine(*files, {}, options);
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

TEST(CudaEngine, LogitsInTheDefaultModelsShapesAreThoseOfTheCpuEngine) {
  weights::ScratchFolder folder;  // two of its layers
  weights::write_file(folder / "config.json", R"({
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
    "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 2,
    "num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49152,
    "rms_norm_eps": 1e-05, "rope_theta": 100000, "max_position_embeddings": 8192,
    "tie_word_embeddings": true, "torch_dtype": "bfloat16"})");
  const auto files = weights::WeightFiles::dummy(folder / "config.json", 5);
  ASSERT_TRUE(files.has_value()) << to_string(files.error());
  StepInput step = prompt_step();
  for (TokenId& id : step.token_ids) id = id * 211 % 49152;
  const auto logits = [&](Engine& engine) {
    std::vector<float> out(49152);
    EXPECT_TRUE(forward(engine, step, out).has_value());
    return out;
  };
  const std::vector<float> wanted = logits(*cpu_engine(**files));
  EXPECT_GT(largest_difference(wanted, std::vector<float>(wanted.size())), 0.1);
  EXPECT_LT(largest_difference(logits(*cuda_engine(**files)), wanted), 1e-3);
}

}  // namespace
}  // namespace tailor::parallel::testing
