#include "predict/model/encoder_config.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>

#include "weights/config_json.h"

namespace tailor::predict {
namespace {

using nlohmann::json;

/// Typed fields of one JSON object; the first wrong one is kept in `error`. Absent and null mean
/// the default.
struct Fields {
  const json& object;
  const std::string& path;
  std::optional<Error> error;

  const json* find(const char* key) const {
    const auto it = object.find(key);
    return it == object.end() || it->is_null() ? nullptr : &*it;
  }
  void wrong(const std::string& key, const std::string& expected, const json& found) {
    if (error) return;
    const std::string text =
        found.dump(-1, ' ', true, json::error_handler_t::replace).substr(0, 60);
    error = Error{ErrorCode::kInvalidArgument,
                  path + ": " + key + ": expected " + expected + ", found " + text};
  }
  int64_t integer(const char* key, int64_t otherwise, int64_t least, int64_t most) {
    const json* found = find(key);
    const json value = found ? *found : json(otherwise);
    const bool fits = value.is_number_integer() &&
                      !(value.is_number_unsigned() && value.get<uint64_t>() > INT64_MAX) &&
                      value.get<int64_t>() >= least && value.get<int64_t>() <= most;
    if (fits) return value.get<int64_t>();
    wrong(key, "a whole number from " + std::to_string(least) + " to " + std::to_string(most),
          value);
    return least;
  }
  double real(const char* key, double otherwise) {
    const json* value = find(key);
    if (!value) return otherwise;
    if (value->is_number() && value->get<double>() >= 0 && value->get<double>() < 1) {
      return value->get<double>();
    }
    wrong(key, "a number from 0 to 1", *value);
    return otherwise;
  }
  bool boolean(const char* key, bool otherwise) {
    const json* value = find(key);
    if (value && value->is_boolean()) return value->get<bool>();
    if (value) wrong(key, "true or false", *value);
    return otherwise;
  }
  std::string text(const char* key, const std::string& otherwise) {
    const json* value = find(key);
    if (value && value->is_string()) return value->get<std::string>();
    if (value) wrong(key, "a text", *value);
    return otherwise;
  }
};

void read_activation(Fields& fields, EncoderConfig& config) {
  const std::string name = fields.text("hidden_act", "gelu");
  if (name == "gelu") {
    config.activation = Activation::kGelu;
  } else if (name == "gelu_new" || name == "gelu_pytorch_tanh") {
    config.activation = Activation::kGeluTanh;
  } else if (name == "relu") {
    config.activation = Activation::kRelu;
  } else {
    fields.wrong("hidden_act", "gelu, gelu_new, gelu_pytorch_tanh or relu", name);
  }
}

void read_bert(Fields& fields, EncoderConfig& config) {
  const std::string positions = fields.text("position_embedding_type", "absolute");
  if (positions != "absolute") fields.wrong("position_embedding_type", "absolute", positions);
  if (fields.boolean("is_decoder", false)) fields.wrong("is_decoder", "false", true);
}

/// pos_att_type is a list or one text with bars: "p2c|c2p".
void read_position_kinds(Fields& fields, EncoderConfig& config) {
  const json* value = fields.find("pos_att_type");
  if (!value) return;
  std::string joined;
  if (value->is_string()) joined = value->get<std::string>();
  if (value->is_array()) {
    for (const json& part : *value)
      joined += "|" + (part.is_string() ? part.get<std::string>() : "?");
  }
  for (size_t begin = 0; begin <= joined.size();) {
    const size_t end = std::min(joined.find('|', begin), joined.size());
    const std::string part = joined.substr(begin, end - begin);
    if (part == "c2p") {
      config.content_to_position = true;
    } else if (part == "p2c") {
      config.position_to_content = true;
    } else if (!part.empty()) {
      fields.wrong("pos_att_type", "c2p and p2c only", *value);
    }
    begin = end + 1;
  }
}

void read_deberta(Fields& fields, EncoderConfig& config) {
  config.absolute_positions = fields.boolean("position_biased_input", true);
  config.relative_attention = fields.boolean("relative_attention", false);
  config.share_att_key = fields.boolean("share_att_key", false);
  read_position_kinds(fields, config);
  const std::string norm = fields.text("norm_rel_ebd", "none");
  config.norm_rel_embedding = norm == "layer_norm";
  if (norm != "layer_norm" && norm != "none")
    fields.wrong("norm_rel_ebd", "layer_norm or none", norm);
  const int64_t most = fields.integer("max_relative_positions", -1, -1, 1 << 20);
  config.max_relative_positions = most < 1 ? config.max_position : most;
  config.position_buckets =
      std::max<int64_t>(0, fields.integer("position_buckets", -1, -1, 1 << 20));
  // The logarithm of the buckets runs from position_buckets / 2 to max_relative_positions - 1.
  if (config.position_buckets > 0 &&
      (config.position_buckets < 4 ||
       config.max_relative_positions <= config.position_buckets / 2 + 1)) {
    fields.wrong("position_buckets", "at least 4 and below twice max_relative_positions",
                 config.position_buckets);
  }
  if (const int64_t kernel = fields.integer("conv_kernel_size", 0, 0, 1 << 20); kernel > 0) {
    fields.wrong("conv_kernel_size", "0 (the convolution of DeBERTa-v2-xlarge is not supported)",
                 kernel);
  }
}

}  // namespace

Result<EncoderConfig> read_encoder_config(const std::string& folder) {
  const std::string path = folder + "/config.json";
  TAILOR_ASSIGN(const json object, weights::load_json_object(path));
  Fields fields{object, path, {}};
  EncoderConfig config;
  const std::string type = fields.text("model_type", "");
  if (type != "bert" && type != "deberta-v2") {
    fields.wrong("model_type", "bert or deberta-v2 (DeBERTa-v3 is of this type)", type);
  }
  config.kind = type == "bert" ? EncoderKind::kBert : EncoderKind::kDebertaV2;
  const bool bert = config.kind == EncoderKind::kBert;
  constexpr int64_t kMost = 1 << 24;
  config.hidden_size = fields.integer("hidden_size", 0, 1, 1 << 16);
  config.embedding_size =
      bert ? config.hidden_size : fields.integer("embedding_size", config.hidden_size, 1, 1 << 16);
  config.intermediate_size = fields.integer("intermediate_size", 0, 1, 1 << 20);
  config.num_layers = fields.integer("num_hidden_layers", 0, 1, 1000);
  config.num_heads = fields.integer("num_attention_heads", 0, 1, 1 << 12);
  if (config.hidden_size % config.num_heads != 0) {
    fields.wrong("num_attention_heads",
                 "a divisor of hidden_size " + std::to_string(config.hidden_size),
                 config.num_heads);
  }
  const int64_t head_dim = config.hidden_size / config.num_heads;
  config.head_dim = bert ? head_dim : fields.integer("attention_head_size", head_dim, 1, 1 << 16);
  config.vocab_size = fields.integer("vocab_size", 0, 1, kMost);
  config.type_vocab_size = fields.integer("type_vocab_size", bert ? 2 : 0, bert ? 1 : 0, kMost);
  config.max_position = fields.integer("max_position_embeddings", 512, 2, kMost);
  config.layer_norm_eps = fields.real("layer_norm_eps", bert ? 1e-12 : 1e-7);
  config.dropout = fields.real("hidden_dropout_prob", 0.1);
  config.attention_dropout = fields.real("attention_probs_dropout_prob", 0.1);
  read_activation(fields, config);
  if (bert) {
    read_bert(fields, config);
  } else {
    read_deberta(fields, config);
  }
  if (fields.error) return fail(std::move(*fields.error));
  return config;
}

}  // namespace tailor::predict
