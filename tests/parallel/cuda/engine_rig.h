// The cuda engine on the linked device and the CPU engine beside it, both in F32, with a small
// model and a step for them.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "parallel/engine_cpu.h"
#include "tests/parallel/cuda/device_engine.h"
#include "tests/parallel/cuda/test_device.h"
#include "tests/parallel/random_server.h"

namespace tailor::parallel::testing {

inline constexpr int64_t kVocab = 384;

inline std::unique_ptr<weights::WeightFiles> small_model() {
  // 6 heads in 3 KV groups, 160 intermediate columns: uneven shards.
  auto files = weights::WeightFiles::open(std::string(TAILOR_SOURCE_DIR) +
                                          "/tests/fixtures/models/llama31_small");
  EXPECT_TRUE(files.has_value()) << to_string(files.error());
  return files ? std::move(*files) : nullptr;
}

inline EngineOptions small_options() {
  EngineOptions options;
  options.dtype = "f32";
  options.kv_dtype = "f32";
  options.kv_bytes = 2 << 20;
  options.max_rows = 128;
  options.slots = kSlots;
  options.end_tokens = {worker::test::kEos};
  return options;
}

inline std::unique_ptr<Engine> cpu_engine(const weights::WeightFiles& files) {
  auto engine = make_cpu_engine(files, {}, small_options());
  EXPECT_TRUE(engine.has_value()) << to_string(engine.error());
  return engine ? std::move(*engine) : nullptr;
}
/// On `device`, or on one of its own.
inline std::unique_ptr<DeviceEngine> cuda_engine(const weights::WeightFiles& files,
                                                 const TpContext& tp = {},
                                                 const EngineOptions& options = small_options(),
                                                 std::unique_ptr<gpu::Device> device = nullptr,
                                                 int32_t host_blocks = 0) {
  if (device == nullptr) device = gpu::open_test_device();
  auto engine = DeviceEngine::make(std::move(device), files, tp, options, host_blocks);
  EXPECT_TRUE(engine.has_value()) << to_string(engine.error());
  return engine ? std::move(*engine) : nullptr;
}

inline double largest_difference(const std::vector<float>& a, const std::vector<float>& b) {
  EXPECT_EQ(a.size(), b.size());
  double worst = 0;
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    const double difference = std::abs(double{a[i]} - double{b[i]});
    worst = std::isfinite(difference) ? std::max(worst, difference) : 1e30;
  }
  return worst;
}

/// 20 tokens of one sequence, in two blocks.
inline StepInput prompt_step() {
  StepInput step;
  for (TokenId t = 0; t < 20; ++t) step.token_ids.push_back(t * 11);
  step.block_ids = {2, 0};
  step.chunks = {{0, 20, 0, 0, 2, 1}};
  return step;
}

inline std::shared_ptr<const Request> request_of(const StepInput& step, SamplingParams sampling) {
  return std::make_shared<const Request>(
      Request{.prompt = step.token_ids, .sampling = std::move(sampling)});
}

/// Greedy tokens of the prompt's sequence; before each decode step `between` may move its blocks.
inline std::vector<TokenId> decode_greedily(
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

}  // namespace tailor::parallel::testing
