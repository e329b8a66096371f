#include "parallel/layer_weights_torch.h"

#include <string>

namespace tailor::parallel {
namespace {

/// Reads shards into tensors and counts how far the load has come.
class ShardReader {
 public:
  ShardReader(const weights::WeightFiles& files, at::ScalarType dtype, at::Device device,
              uint64_t total_values, const std::function<void(double)>& on_progress)
      : files_(files),
        dtype_(dtype),
        device_(device),
        total_values_(total_values),
        on_progress_(on_progress) {}

  at::Tensor matrix(int64_t in, int64_t out) const {
    return at::empty({in, out}, at::TensorOptions().dtype(dtype_).device(device_));
  }

  /// Rows x columns of a stored [out, in] matrix, written transposed to `out_columns` [columns,
  /// rows].
  Result<void> read_transposed(const std::string& name, Range rows, Range columns,
                               at::Tensor out_columns) {
    // Pieces of rows keep the staging buffer small on large vocabularies.
    const int64_t step = std::max<int64_t>(1, (int64_t{8} << 20) / columns.size());
    for (int64_t begin = rows.begin; begin < rows.end; begin += step) {
      const int64_t end = std::min(rows.end, begin + step);
      at::Tensor staged = at::empty({end - begin, columns.size()}, at::kFloat);
      TAILOR_TRY(files_.read(name, begin, end, columns.begin, columns.end,
                             {staged.data_ptr<float>(), static_cast<size_t>(staged.numel())}));
      out_columns.narrow(1, begin - rows.begin, end - begin).copy_(staged.t());
      advance(staged.numel());
    }
    return {};
  }

  /// Values [range) of a stored vector, in F32.
  Result<at::Tensor> read_vector(const std::string& name, Range range) {
    at::Tensor staged = at::empty({range.size()}, at::kFloat);
    TAILOR_TRY(files_.read(name, 0, 1, range.begin, range.end,
                           {staged.data_ptr<float>(), static_cast<size_t>(staged.numel())}));
    return staged.to(device_);
  }

  /// One piece per unit: columns of the stored [hidden, in] matrix, as [columns, hidden].
  Result<std::vector<at::Tensor>> read_units(const std::string& name, int64_t hidden,
                                             const std::vector<Range>& unit_columns) {
    std::vector<at::Tensor> pieces;
    for (Range columns : unit_columns) {
      pieces.push_back(matrix(columns.size(), hidden));
      TAILOR_TRY(read_transposed(name, {0, hidden}, columns, pieces.back()));
    }
    return pieces;
  }

 private:
  void advance(int64_t values) {
    done_values_ += static_cast<uint64_t>(values);
    const double done = static_cast<double>(done_values_) / static_cast<double>(total_values_);
    if (on_progress_ && done - reported_ >= 0.01) on_progress_(reported_ = std::min(done, 1.0));
  }

  const weights::WeightFiles& files_;
  const at::ScalarType dtype_;
  const at::Device device_;
  const uint64_t total_values_;
  const std::function<void(double)>& on_progress_;
  uint64_t done_values_ = 0;
  double reported_ = 0;
};

Range times(Range range, int64_t scale) { return {range.begin * scale, range.end * scale}; }

Result<void> load_attention(ShardReader& reader, const weights::ModelConfig& config,
                            const Sharding& sharding, const RankShard& shard,
                            const std::string& prefix, LayerWeights& layer) {
  const int64_t hidden = config.hidden_size, dim = config.head_dim;
  const Range q = times(shard.heads, dim), kv = times(shard.groups, dim);
  layer.qkv = reader.matrix(hidden, q.size() + 2 * kv.size());
  const std::pair<const char*, Range> parts[] = {{"q_proj", q}, {"k_proj", kv}, {"v_proj", kv}};
  std::vector<at::Tensor> biases;
  int64_t at = 0;
  for (const auto& [name, rows] : parts) {
    TAILOR_TRY(reader.read_transposed(prefix + name + ".weight", rows, {0, hidden},
                                      layer.qkv.narrow(1, at, rows.size())));
    at += rows.size();
    if (config.attention_bias) {
      TAILOR_ASSIGN(at::Tensor bias, reader.read_vector(prefix + name + ".bias", rows));
      biases.push_back(bias);
    }
  }
  if (config.attention_bias) {
    layer.qkv_bias = at::cat(biases);
    TAILOR_ASSIGN(layer.attention_out_bias,
                  reader.read_vector(prefix + "o_proj.bias", {0, hidden}));
  }
  TAILOR_ASSIGN(layer.attention_out,
                reader.read_units(prefix + "o_proj.weight", hidden,
                                  unit_columns(sharding.units.attention, shard.attention_units,
                                               config.heads_per_group() * dim)));
  return {};
}

Result<void> load_mlp(ShardReader& reader, const weights::ModelConfig& config,
                      const Sharding& sharding, const RankShard& shard, const std::string& prefix,
                      LayerWeights& layer) {
  const int64_t hidden = config.hidden_size, columns = shard.columns.size();
  layer.gate_up = reader.matrix(hidden, 2 * columns);
  std::vector<at::Tensor> biases;
  int64_t at = 0;
  for (const char* name : {"gate_proj", "up_proj"}) {
    TAILOR_TRY(reader.read_transposed(prefix + name + ".weight", shard.columns, {0, hidden},
                                      layer.gate_up.narrow(1, at, columns)));
    at += columns;
    if (config.mlp_bias) {
      TAILOR_ASSIGN(at::Tensor bias, reader.read_vector(prefix + name + ".bias", shard.columns));
      biases.push_back(bias);
    }
  }
  if (config.mlp_bias) {
    layer.gate_up_bias = at::cat(biases);
    TAILOR_ASSIGN(layer.down_bias, reader.read_vector(prefix + "down_proj.bias", {0, hidden}));
  }
  TAILOR_ASSIGN(layer.down,
                reader.read_units(prefix + "down_proj.weight", hidden,
                                  unit_columns(sharding.units.mlp, shard.mlp_units, 1)));
  return {};
}

}  // namespace

Result<ShardWeights> load_shard(const weights::WeightFiles& files, const Sharding& sharding,
                                int rank, at::ScalarType dtype, at::Device device,
                                const std::function<void(double)>& on_progress) {
  const weights::ModelConfig& config = files.config();
  const RankShard& shard = sharding.ranks[static_cast<size_t>(rank)];
  const Range hidden{0, config.hidden_size};
  const bool tied = has_tied_head(files);
  ShardReader reader(files, dtype, device, shard_values(config, shard, tied), on_progress);

  ShardWeights out;
  out.embedding = reader.matrix(config.hidden_size, shard.vocab.size());
  TAILOR_TRY(
      reader.read_transposed("model.embed_tokens.weight", shard.vocab, hidden, out.embedding));
  out.head = out.embedding;
  for (int64_t l = 0; l < config.num_layers; ++l) {
    const std::string prefix = "model.layers." + std::to_string(l) + ".";
    LayerWeights layer;
    TAILOR_ASSIGN(layer.attention_norm,
                  reader.read_vector(prefix + "input_layernorm.weight", hidden));
    TAILOR_ASSIGN(layer.mlp_norm,
                  reader.read_vector(prefix + "post_attention_layernorm.weight", hidden));
    TAILOR_TRY(load_attention(reader, config, sharding, shard, prefix + "self_attn.", layer));
    TAILOR_TRY(load_mlp(reader, config, sharding, shard, prefix + "mlp.", layer));
    out.layers.push_back(std::move(layer));
  }
  TAILOR_ASSIGN(out.final_norm, reader.read_vector("model.norm.weight", hidden));
  if (!tied) {
    out.head = reader.matrix(config.hidden_size, shard.vocab.size());
    TAILOR_TRY(reader.read_transposed("lm_head.weight", shard.vocab, hidden, out.head));
  }
  if (on_progress) on_progress(1.0);
  return out;
}

}  // namespace tailor::parallel
