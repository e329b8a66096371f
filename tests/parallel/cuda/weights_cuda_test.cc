// A rank's shard on the device against the files it was read from: every format to either type,
// rows and columns of the right rank, fused and padded as parallel/cuda/weights_cuda.h says.
#include "parallel/cuda/weights_cuda.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <string>
#include <vector>

#include "parallel/cuda/device_fake.h"
#include "parallel/cuda/llama_step_cuda.h"
#include "tests/parallel/cpu/random_model.h"

namespace tailor::parallel::gpu {
namespace {

using kv::ValueType;

/// Compares what lies at `there` with rows and columns of a tensor, and moves behind it.
void expect_same(const weights::WeightFiles& files, const std::string& name, Range rows,
                 Range columns, ValueType type, const std::byte*& there) {
  const auto count = static_cast<size_t>(rows.size() * columns.size());
  std::vector<float> wanted(count);
  ASSERT_TRUE(
      files.read(name, rows.begin, rows.end, columns.begin, columns.end, wanted).has_value());
  for (size_t i = 0; i < count; ++i) {
    if (type == ValueType::kF32) {
      ASSERT_EQ(reinterpret_cast<const float*>(there)[i], wanted[i]) << name << " " << i;
    } else {
      const uint32_t bits = uint32_t{reinterpret_cast<const uint16_t*>(there)[i]} << 16;
      ASSERT_NEAR(std::bit_cast<float>(bits), wanted[i], std::abs(wanted[i]) / 256) << name;
    }
  }
  there += count * (type == ValueType::kF32 ? 4 : 2);
}

void expect_shard(const weights::WeightFiles& files, int tp, int rank, ValueType type,
                  int threads) {
  const weights::ModelConfig& config = files.config();
  const auto sharding = make_sharding(config, tp);
  ASSERT_TRUE(sharding.has_value());
  const RankShard& shard = sharding->ranks[static_cast<size_t>(rank)];
  const auto device = open_fake_device({});
  double last = 0;
  const LoadOptions options{.type = type,
                            .table_rows = LlamaStep::table_rows(*sharding),
                            .threads = threads,
                            .on_progress = [&](double part) {
                              EXPECT_GE(part, last);
                              last = part;
                            }};
  const auto loaded = load_shard(*device, files, shard, options);
  ASSERT_TRUE(loaded.has_value()) << to_string(loaded.error());
  EXPECT_EQ(last, 1.0);
  EXPECT_EQ(fake_device_use(*device).pinned_bytes, 0u);
  EXPECT_EQ(fake_device_use(*device).device_bytes, shard_bytes(files, shard, options));

  // All of it has arrived: the device's memory is ours.
  const Range hidden{0, config.hidden_size};
  const auto at = [](const void* data) { return static_cast<const std::byte*>(data); };
  const auto times = [&](Range r) {
    return Range{r.begin * config.head_dim, r.end * config.head_dim};
  };
  for (int64_t l = 0; l < config.num_layers; ++l) {
    const LayerWeights& layer = loaded->layers[static_cast<size_t>(l)];
    const std::string prefix = "model.layers." + std::to_string(l) + ".";
    const std::byte* qkv = at(layer.qkv);
    expect_same(files, prefix + "self_attn.q_proj.weight", times(shard.heads), hidden, type, qkv);
    expect_same(files, prefix + "self_attn.k_proj.weight", times(shard.groups), hidden, type, qkv);
    expect_same(files, prefix + "self_attn.v_proj.weight", times(shard.groups), hidden, type, qkv);
    const std::byte* out = at(layer.attention_out);
    expect_same(files, prefix + "self_attn.o_proj.weight", hidden, times(shard.heads), type, out);
    const std::byte* gate_up = at(layer.gate_up);
    expect_same(files, prefix + "mlp.gate_proj.weight", shard.columns, hidden, type, gate_up);
    expect_same(files, prefix + "mlp.up_proj.weight", shard.columns, hidden, type, gate_up);
    const std::byte* down = at(layer.down);
    expect_same(files, prefix + "mlp.down_proj.weight", hidden, shard.columns, type, down);
    const std::byte* norm = at(layer.mlp_norm);
    expect_same(files, prefix + "post_attention_layernorm.weight", {0, 1}, hidden, ValueType::kF32,
                norm);
  }
  const std::byte* table = at(loaded->embedding);
  expect_same(files, "model.embed_tokens.weight", shard.vocab, hidden, type, table);
  for (int64_t row = shard.vocab.size(); row < options.table_rows; ++row)
    for (int64_t i = 0; i < config.hidden_size; ++i) EXPECT_EQ(std::to_integer<int>(table[i]), 0);
  const std::byte* head = at(loaded->head);
  expect_same(files, "lm_head.weight", shard.vocab, hidden, type, head);
}

TEST(CudaWeights, EveryFormatArrivesAsItsShard) {
  for (const size_t format : {size_t{0}, size_t{2}, size_t{11}}) {
    weights::ScratchFolder folder;
    const auto files = weights::open_random(folder, weights::random_formats()[format]);
    ASSERT_NE(files, nullptr);
    for (const ValueType type : {ValueType::kF32, ValueType::kBF16})
      expect_shard(*files, 3, static_cast<int>(format % 3), type, 1);
  }
}

TEST(CudaWeights, ThreadsShareTheLargeOnes) {
  const auto files = weights::WeightFiles::open(std::string(TAILOR_SOURCE_DIR) +
                                                "/tests/fixtures/models/llama31_small");
  ASSERT_TRUE(files.has_value());
  weights::ScratchFolder folder;
  const auto large = weights::open_random(folder, weights::random_formats()[7]);
  ASSERT_NE(large, nullptr);
  for (const int threads : {2, 3}) expect_shard(*large, 1, 0, ValueType::kBF16, threads);
  expect_shard(**files, 2, 1, ValueType::kBF16, 3);
}

TEST(CudaWeights, WhatDoesNotFitIsSaidWithItsSize) {
  weights::ScratchFolder folder;
  const auto files = weights::open_random(folder, weights::random_formats()[2]);
  ASSERT_NE(files, nullptr);
  const auto sharding = make_sharding(files->config(), 1);
  const auto device = open_fake_device({.memory_bytes = 1 << 16});
  const auto refused = load_shard(*device, *files, sharding->ranks[0], {});
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().code, ErrorCode::kLimitExceeded);
}

}  // namespace
}  // namespace tailor::parallel::gpu
