// A rank's shard on the device against the files it was read from: every format to either type,
// rows and columns of the right rank, fused and padded as parallel/cuda/weights_cuda.h says.
#include "parallel/cuda/weights_cuda.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <string>
#include <vector>

#include "parallel/cuda/llama_step_cuda.h"
#include "tests/parallel/cpu/random_model.h"
#include "tests/parallel/cuda/test_device.h"

namespace tailor::parallel::gpu {
namespace {

using kv::ValueType;

/// Memory of the host with what lies at `there` on the device.
Memory fetch(Device& device, const std::byte* there, size_t bytes) {
  auto here = device.allocate_pinned(bytes);
  auto event = device.make_event();
  EXPECT_TRUE(here && event);
  EXPECT_TRUE(device.copy(device.stream(), here->data(), there, bytes));
  EXPECT_TRUE(device.record(event->get(), device.stream()));
  EXPECT_TRUE(device.wait_until(event->get(), seconds(30), "the test"));
  return std::move(*here);
}

/// Compares what lies at `there` with rows and columns of a tensor, and moves behind it.
void expect_same(Device& device, const weights::WeightFiles& files, const std::string& name,
                 Range rows, Range columns, ValueType type, const std::byte*& there) {
  const auto count = static_cast<size_t>(rows.size() * columns.size());
  const size_t bytes = count * (type == ValueType::kF32 ? 4 : 2);
  const Memory here = fetch(device, there, bytes);
  std::vector<float> wanted(count);
  ASSERT_TRUE(
      files.read(name, rows.begin, rows.end, columns.begin, columns.end, wanted).has_value());
  for (size_t i = 0; i < count; ++i) {
    if (type == ValueType::kF32) {
      ASSERT_EQ(here.as<float>()[i], wanted[i]) << name << " " << i;
    } else {
      const uint32_t bits = uint32_t{here.as<uint16_t>()[i]} << 16;
      ASSERT_NEAR(std::bit_cast<float>(bits), wanted[i], std::abs(wanted[i]) / 256) << name;
    }
  }
  there += bytes;
}

void expect_shard(const weights::WeightFiles& files, int tp, int rank, ValueType type,
                  int threads) {
  const weights::ModelConfig& config = files.config();
  const auto sharding = make_sharding(config, tp);
  ASSERT_TRUE(sharding.has_value());
  const RankShard& shard = sharding->ranks[static_cast<size_t>(rank)];
  const auto device = open_test_device();
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
  expect_held(*device, shard_bytes(files, shard, options), 0);

  const Range hidden{0, config.hidden_size};
  const auto at = [](const void* data) { return static_cast<const std::byte*>(data); };
  const auto times = [&](Range r) {
    return Range{r.begin * config.head_dim, r.end * config.head_dim};
  };
  for (int64_t l = 0; l < config.num_layers; ++l) {
    const LayerWeights& layer = loaded->layers[static_cast<size_t>(l)];
    const std::string prefix = "model.layers." + std::to_string(l) + ".";
    const std::byte* qkv = at(layer.qkv);
    expect_same(*device, files, prefix + "self_attn.q_proj.weight", times(shard.heads), hidden,
                type, qkv);
    expect_same(*device, files, prefix + "self_attn.k_proj.weight", times(shard.groups), hidden,
                type, qkv);
    expect_same(*device, files, prefix + "self_attn.v_proj.weight", times(shard.groups), hidden,
                type, qkv);
    const std::byte* out = at(layer.attention_out);
    expect_same(*device, files, prefix + "self_attn.o_proj.weight", hidden, times(shard.heads),
                type, out);
    const std::byte* gate_up = at(layer.gate_up);
    expect_same(*device, files, prefix + "mlp.gate_proj.weight", shard.columns, hidden, type,
                gate_up);
    expect_same(*device, files, prefix + "mlp.up_proj.weight", shard.columns, hidden, type,
                gate_up);
    const std::byte* down = at(layer.down);
    expect_same(*device, files, prefix + "mlp.down_proj.weight", hidden, shard.columns, type, down);
    const std::byte* norm = at(layer.mlp_norm);
    expect_same(*device, files, prefix + "post_attention_layernorm.weight", {0, 1}, hidden,
                ValueType::kF32, norm);
  }
  const std::byte* table = at(loaded->embedding);
  expect_same(*device, files, "model.embed_tokens.weight", shard.vocab, hidden, type, table);
  const auto padding = static_cast<size_t>((options.table_rows - shard.vocab.size()) *
                                           config.hidden_size * (type == ValueType::kF32 ? 4 : 2));
  if (padding > 0) {
    const Memory zeros = fetch(*device, table, padding);
    for (size_t i = 0; i < padding; ++i) EXPECT_EQ(std::to_integer<int>(zeros.data()[i]), 0);
  }
  const std::byte* head = at(loaded->head);
  expect_same(*device, files, "lm_head.weight", shard.vocab, hidden, type, head);
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

}  // namespace
}  // namespace tailor::parallel::gpu
