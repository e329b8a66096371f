#include "parallel/cuda/llama_step_cuda.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <span>
#include <string>
#include <utility>

#include "base/check.h"
#include "parallel/cuda/places.h"

namespace tailor::parallel::gpu {
namespace {

using kv::value_bytes;

std::span<const std::byte> bytes_of(const float* data, int64_t count) {
  return {reinterpret_cast<const std::byte*>(data), static_cast<size_t>(count) * sizeof(float)};
}
std::span<std::byte> bytes_of(float* data, int64_t count) {
  return {reinterpret_cast<std::byte*>(data), static_cast<size_t>(count) * sizeof(float)};
}

/// Values of each buffer of a step.
struct Sizes {
  int64_t hidden, qkv, q, gate_up, columns, angles, logits, frequencies;

  Sizes(const LlamaStepParts& parts, const RankShard& shard) {
    const weights::ModelConfig& c = parts.config;
    hidden = parts.max_rows * c.hidden_size;
    q = parts.max_rows * shard.heads.size() * c.head_dim;
    qkv = q + parts.max_rows * 2 * shard.groups.size() * c.head_dim;
    columns = parts.max_rows * shard.columns.size();
    gate_up = 2 * columns;
    angles = parts.max_rows * c.head_dim;
    logits = parts.logit_rows * LlamaStep::table_rows(parts.sharding);
    frequencies = c.head_dim / 2;
  }
};

const RankShard& own_shard(const LlamaStepParts& parts) {
  return parts.sharding.ranks[static_cast<size_t>(parts.tp.rank)];
}

}  // namespace

int64_t LlamaStep::table_rows(const Sharding& sharding) {
  int64_t most = 0;
  for (const RankShard& rank : sharding.ranks) most = std::max(most, rank.vocab.size());
  return most;
}

uint64_t LlamaStep::bytes(const LlamaStepParts& parts, kv::ValueType type) {
  const Sizes sizes(parts, own_shard(parts));
  const int64_t tp = parts.tp.size;
  const int64_t floats =
      sizes.hidden * (tp == 1 ? 2 : 2 + tp) + sizes.angles + sizes.frequencies +
      (tp == 1 ? 0 : sizes.logits + (parts.tp.rank == 0 ? tp * sizes.logits : 0)) +
      (parts.tp.rank == 0 ? parts.logit_rows * parts.config.vocab_size : 0);
  const int64_t values = sizes.hidden + sizes.qkv + 2 * sizes.q + sizes.gate_up + sizes.columns;
  // 16 buffers, each rounded up.
  return static_cast<uint64_t>(floats) * 4 + static_cast<uint64_t>(values) * value_bytes(type) +
         static_cast<uint64_t>(tp + 1) * 8 + 16 * Places::kAlignment;
}

LlamaStep::LlamaStep(Device& device, LlamaStepParts parts)
    : device_(device),
      parts_(std::move(parts)),
      shard_(own_shard(parts_)),
      type_(parts_.weights.type),
      stream_(device.stream()) {}

Result<std::unique_ptr<LlamaStep>> LlamaStep::make(Device& device, LlamaStepParts parts) {
  const weights::ModelConfig& config = parts.config;
  if (config.head_dim > kMaxHeadDim || config.head_dim % 2 != 0 ||
      config.heads_per_group() > kMaxHeadsPerGroup)
    return fail(ErrorCode::kInvalidArgument,
                "the cuda engine takes even head sizes up to " + std::to_string(kMaxHeadDim) +
                    " and up to " + std::to_string(kMaxHeadsPerGroup) +
                    " heads per KV head; the model has " + std::to_string(config.head_dim) +
                    " and " + std::to_string(config.heads_per_group()));
  std::unique_ptr<LlamaStep> step(new LlamaStep(device, std::move(parts)));
  TAILOR_TRY(step->reserve());
  TAILOR_TRY(step->prepare());
  return step;
}

Result<void> LlamaStep::reserve() {
  const Sizes sizes(parts_, shard_);
  const int64_t tp = parts_.tp.size;
  const bool leads = parts_.tp.rank == 0;
  TAILOR_ASSIGN(memory_, device_.allocate(bytes(parts_, type_)));
  Places places(memory_.data());
  const auto floats = [&](int64_t count) { return places.take<float>(static_cast<size_t>(count)); };
  const auto values = [&](int64_t count) -> void* {
    return places.take_bytes(static_cast<size_t>(count) * value_bytes(type_));
  };
  x_ = floats(sizes.hidden);
  mine_ = floats(sizes.hidden);
  partials_ = tp == 1 ? mine_ : floats(sizes.hidden * tp);
  angles_ = floats(sizes.angles);
  frequencies_ = floats(sizes.frequencies);
  h_ = values(sizes.hidden);
  qkv_ = values(sizes.qkv);
  q_ = values(sizes.q);
  attended_ = values(sizes.q);
  gate_up_ = values(sizes.gate_up);
  activated_ = values(sizes.columns);
  if (leads) logits_ = floats(parts_.logit_rows * parts_.config.vocab_size);
  shard_logits_ = tp == 1 ? logits_ : floats(sizes.logits);
  if (tp > 1 && leads) all_logits_ = floats(tp * sizes.logits);
  vocab_begins_ = places.take<int64_t>(static_cast<size_t>(tp + 1));
  TAILOR_CHECK(places.used() <= memory_.bytes(), "a step's buffers lie in its memory");

  // What never changes goes there once.
  const std::vector<float> frequencies = weights::rope_inverse_frequencies(parts_.config);
  std::vector<int64_t> begins;
  for (const RankShard& rank : parts_.sharding.ranks) begins.push_back(rank.vocab.begin);
  begins.push_back(parts_.config.vocab_size);
  const size_t frequency_bytes = frequencies.size() * sizeof(float);
  const size_t begin_bytes = begins.size() * sizeof(int64_t);
  TAILOR_ASSIGN(const Memory staged, device_.allocate_pinned(frequency_bytes + begin_bytes));
  TAILOR_ASSIGN(const OwnedEvent there, device_.make_event());
  std::memcpy(staged.data(), begins.data(), begin_bytes);
  std::memcpy(staged.data() + begin_bytes, frequencies.data(), frequency_bytes);
  TAILOR_TRY(device_.copy(stream_, vocab_begins_, staged.data(), begin_bytes));
  TAILOR_TRY(device_.copy(stream_, frequencies_, staged.data() + begin_bytes, frequency_bytes));
  TAILOR_TRY(device_.record(there.get(), stream_));
  return device_.wait_until(there.get(), seconds(60), "the engine's constants");
}

Result<void> LlamaStep::prepare() {
  TAILOR_ASSIGN(gemm_, Gemm::make(device_, stream_));
  const weights::ModelConfig& config = parts_.config;
  const int64_t hidden = config.hidden_size, dim = config.head_dim;
  const int64_t q = shard_.heads.size() * dim, columns = shard_.columns.size();
  const auto shape = [&](int64_t outputs, int64_t inputs, ValueType out, int64_t rows,
                         int& index) -> Result<void> {
    sizes_.push_back({outputs, inputs, type_, out, rows});
    TAILOR_ASSIGN(index, gemm_->prepare(sizes_.back()));
    return {};
  };
  const int64_t rows = parts_.max_rows, table = table_rows(parts_.sharding);
  TAILOR_TRY(shape(q + 2 * shard_.groups.size() * dim, hidden, type_, rows, shapes_.qkv));
  TAILOR_TRY(shape(hidden, q, ValueType::kF32, rows, shapes_.attention_out));
  TAILOR_TRY(shape(2 * columns, hidden, type_, rows, shapes_.gate_up));
  TAILOR_TRY(shape(hidden, columns, ValueType::kF32, rows, shapes_.down));
  return shape(table, hidden, ValueType::kF32, parts_.logit_rows, shapes_.head);
}

// ---- a step -------------------------------------------------------------------------------------

Result<void> LlamaStep::layers(const StepRows& step, const kv::BlockLayout& layout, void* pool,
                               bool last, const AfterLayer& after_layer) {
  const weights::ModelConfig& config = parts_.config;
  const int64_t hidden = config.hidden_size;
  const bool alone = parts_.tp.size == 1;
  rows_ = step.rows;
  TAILOR_TRY(embed(stream_, {.type = type_,
                             .table = parts_.weights.embedding,
                             .tokens = step.tokens,
                             .drawn = step.drawn,
                             .vocab_begin = shard_.vocab.begin,
                             .vocab_local = shard_.vocab.size(),
                             .rows = rows_,
                             .hidden = hidden,
                             .out = alone ? x_ : mine_}));
  pending_ = {};
  if (!alone) {
    TAILOR_TRY(device_.fill(stream_, x_, 0, static_cast<size_t>(rows_ * hidden) * sizeof(float)));
    TAILOR_TRY(gather_partials(rows_, nullptr));
  }
  TAILOR_TRY(rope_angles(stream_, {.positions = step.positions,
                                   .inverse_frequencies = frequencies_,
                                   .rows = rows_,
                                   .half = config.head_dim / 2,
                                   .out = angles_}));
  for (int64_t l = 0; l < config.num_layers; ++l) {
    const LayerWeights& layer = parts_.weights.layers[static_cast<size_t>(l)];
    TAILOR_TRY(add_and_norm(layer.attention_norm, nullptr, rows_));
    if (l > 0) TAILOR_TRY(after_layer(l));
    TAILOR_TRY(attend(layer, l, step, layout, pool));
    TAILOR_TRY(add_and_norm(layer.mlp_norm, nullptr, rows_));
    TAILOR_TRY(feed_forward(layer, rows_));
  }
  if (!last) return {};
  TAILOR_TRY(add_and_norm(nullptr, nullptr, rows_));
  return after_layer(config.num_layers);
}

/// Adds what is pending to the stream, of the named rows or all, and leaves them normalized in h_.
Result<void> LlamaStep::add_and_norm(const float* weight, const int32_t* row_index, int64_t rows) {
  TAILOR_TRY(add_rms_norm(stream_, {.type = type_,
                                    .x = x_,
                                    .partials = partials_,
                                    .num_partials = pending_.partials,
                                    .partial_rows = rows_,
                                    .bias = pending_.bias,
                                    .weight = weight,
                                    .eps = parts_.config.rms_norm_eps,
                                    .row_index = row_index,
                                    .rows = rows,
                                    .hidden = parts_.config.hidden_size,
                                    .out = h_}));
  // Rows of the head come in pieces: what the others have pending stays.
  if (row_index == nullptr) pending_ = {};
  return {};
}

Result<void> LlamaStep::attend(const LayerWeights& layer, int64_t index, const StepRows& step,
                               const kv::BlockLayout& layout, void* pool) {
  const int64_t heads = shard_.heads.size();
  TAILOR_TRY(product(shapes_.qkv, h_, layer.qkv, qkv_, rows_));
  TAILOR_TRY(
      rope_append(stream_, {.type = type_,
                            .qkv = qkv_,
                            .bias = layer.qkv_bias,
                            .angles = angles_,
                            .slots = step.slots,
                            .rows = rows_,
                            .heads = heads,
                            .layer = index,
                            .layout = layout,
                            .pool = pool,
                            .scale = 1.0f / std::sqrt(static_cast<float>(parts_.config.head_dim)),
                            .q = q_}));
  TAILOR_TRY(paged_attention(stream_, {.type = type_,
                                       .q = q_,
                                       .pool = pool,
                                       .layout = layout,
                                       .layer = index,
                                       .first_block = step.first_block,
                                       .positions = step.positions,
                                       .block_ids = step.block_ids,
                                       .rows = rows_,
                                       .heads = heads,
                                       .out = attended_}));
  TAILOR_TRY(product(shapes_.attention_out, attended_, layer.attention_out, mine_, rows_));
  return gather_partials(rows_, layer.attention_out_bias);
}

Result<void> LlamaStep::feed_forward(const LayerWeights& layer, int64_t rows) {
  TAILOR_TRY(product(shapes_.gate_up, h_, layer.gate_up, gate_up_, rows));
  TAILOR_TRY(silu_mul(stream_, {.type = type_,
                                .gate_up = gate_up_,
                                .bias = layer.gate_up_bias,
                                .rows = rows,
                                .columns = shard_.columns.size(),
                                .out = activated_}));
  TAILOR_TRY(product(shapes_.down, activated_, layer.down, mine_, rows));
  return gather_partials(rows, layer.down_bias);
}

/// Few rows: our own kernel, which reads the weights once at the speed of memory.
Result<void> LlamaStep::product(int shape, const void* x, const void* w, void* y, int64_t rows) {
  if (rows > kGemvRows) return gemm_->run(shape, {x, w, y, rows});
  const GemmShape& size = sizes_[static_cast<size_t>(shape)];
  return gemv(stream_, {.type = type_,
                        .weights = w,
                        .x = x,
                        .rows = rows,
                        .inputs = size.k,
                        .outputs = size.n,
                        .out_type = size.out,
                        .out = y});
}

/// The others' partials beside this rank's; they wait to be added, with the bias.
Result<void> LlamaStep::gather_partials(int64_t rows, const float* bias) {
  pending_ = {parts_.tp.size, bias};
  if (parts_.tp.size == 1) return {};
  const int64_t count = rows * parts_.config.hidden_size;
  return parts_.tp.collective->all_gather(bytes_of(static_cast<const float*>(mine_), count),
                                          bytes_of(partials_, count * parts_.tp.size));
}

Result<void> LlamaStep::head(const int32_t* rows, int64_t count) {
  TAILOR_TRY(add_and_norm(parts_.weights.final_norm, rows, count));
  TAILOR_TRY(product(shapes_.head, h_, parts_.weights.head, shard_logits_, count));
  const int64_t tp = parts_.tp.size;
  if (tp == 1) return {};
  const int64_t stride = table_rows(parts_.sharding), values = count * stride;
  const bool leads = parts_.tp.rank == 0;
  TAILOR_TRY(parts_.tp.collective->gather(
      bytes_of(static_cast<const float*>(shard_logits_), values),
      leads ? bytes_of(all_logits_, values * tp) : std::span<std::byte>(), 0));
  if (!leads) return {};
  return join_shards(stream_, {.shards = all_logits_,
                               .begins = vocab_begins_,
                               .ranks = tp,
                               .rows = count,
                               .stride = stride,
                               .columns = parts_.config.vocab_size,
                               .out = logits_});
}

}  // namespace tailor::parallel::gpu
