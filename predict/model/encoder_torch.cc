#include "predict/model/encoder_torch.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <optional>
#include <string_view>

#include "base/check.h"
#include "weights/mix.h"
#include "weights/safetensors_file.h"

namespace tailor::predict {
namespace {

using weights::StoredTensor;

/// "LayerNorm.weight" was "LayerNorm.gamma" once, ".bias" was ".beta".
std::string old_norm_name(const std::string& name) {
  for (const auto& [now, then] : {std::pair{".weight", ".gamma"}, std::pair{".bias", ".beta"}}) {
    const std::string end = std::string("LayerNorm") + now;
    if (name.ends_with(end)) return name.substr(0, name.size() - std::string(now).size()) + then;
  }
  return name;
}

void copy_stored(const StoredTensor& stored, at::Tensor& out) {
  if (stored.bytes == 0) return;
  weights::dequantize_row(stored.type, stored.data, 0, out.numel(), out.data_ptr<float>());
}

at::Tensor linear(const Affine& affine, const at::Tensor& x) {
  return at::linear(x, affine.weight, affine.bias);
}

}  // namespace

TokenBatch pad_tokens(std::span<const std::vector<TokenId>> rows) {
  TAILOR_CHECK(!rows.empty(), "a batch has at least one prompt");
  size_t longest = 0, shortest = SIZE_MAX;
  for (const auto& row : rows) {
    longest = std::max(longest, row.size());
    shortest = std::min(shortest, row.size());
  }
  TAILOR_CHECK(shortest > 0, "every prompt has its special tokens");
  const auto batch = static_cast<int64_t>(rows.size()), tokens = static_cast<int64_t>(longest);
  TokenBatch out{at::zeros({batch, tokens}, at::kLong), {}};
  if (shortest < longest) out.mask = at::zeros({batch, tokens}, at::kBool);
  for (size_t r = 0; r < rows.size(); ++r) {
    std::copy(rows[r].begin(), rows[r].end(), out.ids.data_ptr<int64_t>() + r * longest);
    if (out.mask.defined()) {
      std::fill_n(out.mask.data_ptr<bool>() + r * longest, rows[r].size(), true);
    }
  }
  return out;
}

at::Tensor pool(const at::Tensor& hidden, const at::Tensor& mask) {
  const at::Tensor first = hidden.select(1, 0);
  if (!mask.defined()) return at::cat({first, hidden.mean(1), hidden.amax(1)}, -1);
  const at::Tensor padding = mask.logical_not().unsqueeze(-1);
  const at::Tensor count = mask.sum(1, /*keepdim=*/true).to(hidden.scalar_type());
  const at::Tensor mean = hidden.masked_fill(padding, 0).sum(1) / count;
  const at::Tensor most =
      hidden.masked_fill(padding, -std::numeric_limits<float>::infinity()).amax(1);
  return at::cat({first, mean, most}, -1);
}

/// Reads tensors by name and keeps the first error, so that the list of a model's tensors reads as
/// a list.
class EncoderNet::Reader {
 public:
  Reader(EncoderNet& net, const std::vector<weights::SafetensorsFile>& files,
         const std::string& folder)
      : net_(net), folder_(folder) {
    const std::string prefix = net.config_.kind == EncoderKind::kBert ? "bert." : "deberta.";
    for (const auto& file : files) {
      for (const StoredTensor& tensor : file.tensors()) {
        const bool prefixed = tensor.name.starts_with(prefix);
        by_name_.emplace(prefixed ? tensor.name.substr(prefix.size()) : tensor.name, &tensor);
      }
    }
  }

  at::Tensor tensor(const std::string& name, const std::vector<int64_t>& shape) {
    auto it = by_name_.find(name);
    if (it == by_name_.end()) it = by_name_.find(old_norm_name(name));
    if (error) return {};
    if (it == by_name_.end()) {
      error = Error{ErrorCode::kInvalidArgument, folder_ + ": its safetensors hold no tensor " +
                                                     name + " " + weights::shape_string(shape) +
                                                     ", which config.json asks for"};
      return {};
    }
    if (it->second->shape != shape) {
      error = Error{ErrorCode::kInvalidArgument,
                    folder_ + ": tensor " + name + ": expected " + weights::shape_string(shape) +
                        " from config.json, found " + weights::shape_string(it->second->shape)};
      return {};
    }
    at::Tensor out = at::empty(shape, at::kFloat);
    copy_stored(*it->second, out);
    net_.named_.emplace_back(name, out);
    return out;
  }
  Affine linear(const std::string& name, int64_t in, int64_t out) {
    at::Tensor weight = tensor(name + ".weight", {out, in});
    return {weight, tensor(name + ".bias", {out})};
  }
  Affine norm(const std::string& name, int64_t size) {
    at::Tensor weight = tensor(name + ".weight", {size});
    return {weight, tensor(name + ".bias", {size})};
  }
  EncoderLayer layer(int64_t index) {
    const EncoderConfig& c = net_.config_;
    const bool bert = c.kind == EncoderKind::kBert;
    const std::string p = "encoder.layer." + std::to_string(index) + ".";
    const std::string self = p + "attention.self.";
    const int64_t all_heads = c.num_heads * c.head_dim;
    EncoderLayer out;
    out.query = linear(self + (bert ? "query" : "query_proj"), c.hidden_size, all_heads);
    out.key = linear(self + (bert ? "key" : "key_proj"), c.hidden_size, all_heads);
    out.value = linear(self + (bert ? "value" : "value_proj"), c.hidden_size, all_heads);
    if (c.relative_attention && !c.share_att_key) {
      if (c.content_to_position) {
        out.position_key = linear(self + "pos_key_proj", c.hidden_size, all_heads);
      }
      if (c.position_to_content) {
        out.position_query = linear(self + "pos_query_proj", c.hidden_size, all_heads);
      }
    }
    out.attention_output = linear(p + "attention.output.dense", all_heads, c.hidden_size);
    out.attention_norm = norm(p + "attention.output.LayerNorm", c.hidden_size);
    out.up = linear(p + "intermediate.dense", c.hidden_size, c.intermediate_size);
    out.down = linear(p + "output.dense", c.intermediate_size, c.hidden_size);
    out.output_norm = norm(p + "output.LayerNorm", c.hidden_size);
    return out;
  }

  std::optional<Error> error;

 private:
  EncoderNet& net_;
  const std::string& folder_;
  std::map<std::string, const StoredTensor*> by_name_;
};

Result<std::shared_ptr<EncoderNet>> EncoderNet::load(const std::string& folder) {
  TAILOR_ASSIGN(const EncoderConfig config, read_encoder_config(folder));
  TAILOR_ASSIGN(const auto files, weights::open_safetensors_folder(folder));
  auto net = std::make_shared<EncoderNet>();
  net->config_ = config;
  Reader reader(*net, files, folder);
  const int64_t embedding = config.embedding_size, hidden = config.hidden_size;
  net->word_embedding_ =
      reader.tensor("embeddings.word_embeddings.weight", {config.vocab_size, embedding});
  if (config.absolute_positions) {
    net->position_embedding_ =
        reader.tensor("embeddings.position_embeddings.weight", {config.max_position, embedding});
  }
  if (config.type_vocab_size > 0) {
    net->type_embedding_ = reader.tensor("embeddings.token_type_embeddings.weight",
                                         {config.type_vocab_size, embedding});
  }
  if (embedding != hidden) {
    net->embedding_projection_ = reader.tensor("embeddings.embed_proj.weight", {hidden, embedding});
  }
  net->embedding_norm_ = reader.norm("embeddings.LayerNorm", hidden);
  if (config.relative_attention) {
    net->relative_embedding_ =
        reader.tensor("encoder.rel_embeddings.weight", {2 * config.relative_span(), hidden});
    if (config.norm_rel_embedding) net->relative_norm_ = reader.norm("encoder.LayerNorm", hidden);
  }
  for (int64_t i = 0; i < config.num_layers && !reader.error; ++i) {
    net->layers_.push_back(reader.layer(i));
  }
  if (reader.error) return fail(std::move(*reader.error));
  net->update_fingerprint();
  return net;
}

void EncoderNet::update_fingerprint() {
  weights::Hasher hasher;
  for (const auto& [name, tensor] : named_) {
    hasher.add(name);
    for (const int64_t size : tensor.sizes()) hasher.add(static_cast<uint64_t>(size));
    const auto* values = static_cast<const char*>(tensor.const_data_ptr());
    const size_t bytes = tensor.nbytes(), step = std::max<size_t>(64, bytes / 64 / 64 * 64);
    for (size_t at = 0; at < bytes; at += step) {
      hasher.add(std::string_view(values + at, std::min<size_t>(64, bytes - at)));
    }
  }
  fingerprint_ = hasher.hex();
}

at::Tensor EncoderNet::norm(const Affine& affine, const at::Tensor& x) const {
  return at::layer_norm(x, {config_.hidden_size}, affine.weight, affine.bias,
                        config_.layer_norm_eps);
}

at::Tensor EncoderNet::embed(const at::Tensor& ids, const at::Tensor& mask, bool training) const {
  at::Tensor x = at::embedding(word_embedding_, ids);
  if (position_embedding_.defined()) x = x + position_embedding_.narrow(0, 0, ids.size(1));
  if (type_embedding_.defined()) x = x + type_embedding_.select(0, 0);
  if (embedding_projection_.defined()) x = at::linear(x, embedding_projection_);
  x = norm(embedding_norm_, x);
  if (config_.kind == EncoderKind::kDebertaV2 && mask.defined()) {
    x = x.masked_fill(mask.logical_not().unsqueeze(-1), 0);
  }
  return training ? at::dropout(x, config_.dropout, true) : x;
}

/// Signed distance (query - key), [tokens, tokens]: near distances stand for themselves, far ones
/// for buckets on a log scale. Source: make_log_bucket_position of `transformers`, the same float
/// operations, so that no distance rounds into another bucket.
at::Tensor EncoderNet::relative_distance(int64_t tokens) const {
  const at::Tensor place = at::arange(tokens, at::kLong);
  const at::Tensor distance = place.unsqueeze(1) - place.unsqueeze(0);
  if (config_.position_buckets == 0) return distance;
  const int64_t mid = config_.position_buckets / 2;
  const double most = static_cast<double>(config_.max_relative_positions - 1);
  const at::Tensor near = distance.lt(mid).logical_and(distance.gt(-mid));
  const at::Tensor size = at::where(near, at::full({}, mid - 1, at::kLong), distance.abs());
  const at::Tensor whole = at::log(at::full({}, most / static_cast<double>(mid), at::kFloat));
  const at::Tensor log_place = at::ceil(at::log(size / mid) / whole * (mid - 1)) + mid;
  return at::where(size.le(mid), distance.to(at::kFloat), log_place * distance.sign())
      .to(at::kLong);
}

EncoderNet::Relative EncoderNet::relative(int64_t tokens) const {
  if (!config_.relative_attention) return {};
  const int64_t span = config_.relative_span();
  const at::Tensor distance = relative_distance(tokens);
  return {
      config_.norm_rel_embedding ? norm(relative_norm_, relative_embedding_) : relative_embedding_,
      (distance + span).clamp(0, 2 * span - 1), (span - distance).clamp(0, 2 * span - 1)};
}

at::Tensor EncoderNet::heads(const at::Tensor& projected) const {
  return projected.unflatten(-1, {config_.num_heads, config_.head_dim}).transpose(-2, -3);
}

/// The content-to-position and position-to-content parts of the attention scores, unscaled:
/// [batch, heads, tokens, tokens]; undefined where the model has neither. Source: DeBERTa, eq. 4.
at::Tensor EncoderNet::position_bias(const EncoderLayer& layer, const at::Tensor& query,
                                     const at::Tensor& key, const Relative& relative) const {
  const int64_t tokens = query.size(2);
  const std::vector<int64_t> shape = {query.size(0), query.size(1), tokens, tokens};
  at::Tensor bias;
  if (relative.embedding.defined() && config_.content_to_position) {
    const Affine& project = config_.share_att_key ? layer.key : layer.position_key;
    const at::Tensor places = heads(linear(project, relative.embedding));
    bias = at::matmul(query, places.transpose(-1, -2)).gather(-1, relative.of_query.expand(shape));
  }
  if (relative.embedding.defined() && config_.position_to_content) {
    const Affine& project = config_.share_att_key ? layer.query : layer.position_query;
    const at::Tensor places = heads(linear(project, relative.embedding));
    const at::Tensor part = at::matmul(key, places.transpose(-1, -2))
                                .gather(-1, relative.of_key.expand(shape))
                                .transpose(-1, -2);
    bias = bias.defined() ? bias + part : part;
  }
  return bias;
}

at::Tensor EncoderNet::attend(const EncoderLayer& layer, const at::Tensor& hidden,
                              const at::Tensor& mask, const Relative& relative,
                              bool training) const {
  const at::Tensor query = heads(linear(layer.query, hidden));
  const at::Tensor key = heads(linear(layer.key, hidden));
  const at::Tensor value = heads(linear(layer.value, hidden));
  // DeBERTa divides the sum of its parts by one more square root for each of them.
  const int parts = 1 + config_.content_to_position + config_.position_to_content;
  const double scale = 1 / std::sqrt(static_cast<double>(config_.head_dim * parts));
  std::optional<at::Tensor> bias;
  if (const at::Tensor places = position_bias(layer, query, key, relative); places.defined()) {
    bias = places * scale;
    if (mask.defined()) {
      bias->masked_fill_(mask.logical_not().unsqueeze(1).unsqueeze(1),
                         -std::numeric_limits<float>::infinity());
    }
  } else if (mask.defined()) {
    bias = mask.unsqueeze(1).unsqueeze(1).expand({-1, -1, hidden.size(1), -1});
  }
  const at::Tensor mixed = at::scaled_dot_product_attention(
      query, key, value, bias, training ? config_.attention_dropout : 0.0, /*is_causal=*/false,
      scale);
  return linear(layer.attention_output, mixed.transpose(1, 2).flatten(2));
}

at::Tensor EncoderNet::forward_from(int64_t first, at::Tensor hidden, const at::Tensor& mask,
                                    bool training, int64_t last) const {
  if (last < 0) last = config_.num_layers;
  TAILOR_CHECK(0 <= first && first <= last && last <= config_.num_layers, "layers of this net");
  const auto drop = [&](at::Tensor x) {
    return training ? at::dropout(x, config_.dropout, true) : x;
  };
  const Relative places = relative(hidden.size(1));
  for (int64_t i = first; i < last; ++i) {
    const EncoderLayer& layer = layers_[static_cast<size_t>(i)];
    hidden =
        norm(layer.attention_norm, hidden + drop(attend(layer, hidden, mask, places, training)));
    at::Tensor inner = linear(layer.up, hidden);
    if (config_.activation == Activation::kRelu) {
      inner = at::relu(inner);
    } else {
      inner = at::gelu(inner, config_.activation == Activation::kGelu ? "none" : "tanh");
    }
    hidden = norm(layer.output_norm, hidden + drop(linear(layer.down, inner)));
  }
  return hidden;
}

std::vector<std::pair<std::string, at::Tensor>> EncoderNet::parameters(int64_t first) const {
  std::vector<std::pair<std::string, at::Tensor>> out;
  for (const auto& [name, tensor] : named_) {
    constexpr std::string_view kLayer = "encoder.layer.";
    if (first < 0 ||
        (name.starts_with(kLayer) && std::stoll(name.substr(kLayer.size())) >= first)) {
      out.emplace_back(name, tensor);
    }
  }
  return out;
}

Result<void> EncoderNet::overlay(const std::string& safetensors) {
  TAILOR_ASSIGN(const auto file, weights::SafetensorsFile::open(safetensors));
  std::vector<std::pair<const StoredTensor*, at::Tensor>> found;
  for (const StoredTensor& stored : file.tensors()) {
    const auto it = std::find_if(named_.begin(), named_.end(),
                                 [&](const auto& entry) { return entry.first == stored.name; });
    if (it == named_.end() || it->second.sizes() != at::IntArrayRef(stored.shape)) {
      return fail(ErrorCode::kInvalidArgument,
                  safetensors + ": tensor " + weights::printable(stored.name) + " " +
                      weights::shape_string(stored.shape) +
                      (it == named_.end() ? " is none of this encoder"
                                          : ": this encoder expects " +
                                                weights::shape_string(it->second.sizes().vec())));
    }
    found.emplace_back(&stored, it->second);
  }
  for (auto& [stored, tensor] : found) copy_stored(*stored, tensor);
  update_fingerprint();
  return {};
}

}  // namespace tailor::predict
