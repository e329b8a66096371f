#include "weights/config_json.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <optional>
#include <sstream>

#include "base/api.h"
#include "base/json_text.h"
#include "weights/safetensors_file.h"

namespace tailor::weights {
namespace {

using nlohmann::json;

constexpr const char* kSupported =
    "LlamaForCausalLM (Llama 2, 3, 3.1, 3.2 and models of that layout) or MistralForCausalLM "
    "without sliding window";

// Reads typed fields of one JSON object; the first wrong one is kept in `error`. Absent and null
// mean the default.
struct Fields {
  const json& object;
  const std::string& path;
  std::optional<Error> error;

  const json* find(const char* key) const {
    auto it = object.find(key);
    return it == object.end() || it->is_null() ? nullptr : &*it;
  }
  void wrong(const char* key, const std::string& expected, const json& found) {
    if (!error) {
      std::string text = found.dump(-1, ' ', true, json::error_handler_t::replace).substr(0, 40);
      error = Error{ErrorCode::kInvalidArgument,
                    path + ": " + key + ": expected " + expected + ", found " + text};
    }
  }
  int64_t integer(const char* key, int64_t otherwise) {
    const json* value = find(key);
    if (!value) return otherwise;
    if (value->is_number_unsigned() && value->get<uint64_t>() > INT64_MAX) {
      wrong(key, "a smaller number", *value);
      return otherwise;
    }
    if (value->is_number_integer()) return value->get<int64_t>();
    wrong(key, "a whole number", *value);
    return otherwise;
  }
  float real(const char* key, double otherwise) {
    const json* value = find(key);
    if (value && value->is_number()) return value->get<float>();
    if (value) wrong(key, "a number", *value);
    return static_cast<float>(otherwise);
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
    if (value) wrong(key, "a string", *value);
    return otherwise;
  }
  std::vector<TokenId> tokens(const char* key) {
    const json* value = find(key);
    if (!value) return {};
    const auto is_token = [](const json& j) {
      return j.is_number_integer() && j.get<int64_t>() >= 0 && j.get<int64_t>() <= INT32_MAX;
    };
    std::vector<TokenId> out;
    for (const json& token : value->is_array() ? *value : json::array({*value})) {
      if (!is_token(token)) {
        wrong(key, "a token id or a list of token ids", *value);
        return {};
      }
      out.push_back(token.get<TokenId>());
    }
    return out;
  }
};

/// The makers' advice on how to sample; `do_sample: false` advises greedy answers.
void read_sampling(Fields& fields, SamplingDefaults& out) {
  out.temperature = fields.real("temperature", out.temperature);
  if (!fields.boolean("do_sample", true)) out.temperature = 0;
  const int64_t top_k = fields.integer("top_k", out.top_k);
  out.top_k = static_cast<int32_t>(std::clamp<int64_t>(top_k, INT32_MIN, INT32_MAX));
  out.top_p = fields.real("top_p", out.top_p);
  out.min_p = fields.real("min_p", out.min_p);
  out.repetition_penalty = fields.real("repetition_penalty", out.repetition_penalty);
}

/// The same by llama.cpp's names (its converter copies generation_config.json into the file).
void read_gguf_sampling(const GgufFile& file, SamplingDefaults& out) {
  const auto real = [&](const char* key, float otherwise) {
    return static_cast<float>(file.number(key).value_or(otherwise));
  };
  out.temperature = real("general.sampling.temp", out.temperature);
  const double top_k = file.number("general.sampling.top_k").value_or(out.top_k);
  // What is no number becomes a value that check_sampling() refuses.
  out.top_k = std::isnan(top_k)
                  ? INT32_MIN
                  : static_cast<int32_t>(std::clamp<double>(top_k, INT32_MIN, INT32_MAX));
  out.top_p = real("general.sampling.top_p", out.top_p);
  out.min_p = real("general.sampling.min_p", out.min_p);
  out.repetition_penalty = real("general.sampling.penalty_repeat", out.repetition_penalty);
}

/// Refused now and by the file's name, not at every request that relies on it.
Result<void> check_sampling(const ModelConfig& config, const std::string& path) {
  auto valid = tailor::validate(api::Sampling().resolved(config.sampling), config.vocab_size);
  if (!valid) return fail_with(path, std::move(valid.error()));
  return {};
}

Result<void> check_architecture(Fields& fields) {
  const auto refuse = [&](const std::string& what, const std::string& expected,
                          const std::string& found) {
    return fail(ErrorCode::kInvalidArgument, fields.path + ": unsupported " + what + ": expected " +
                                                 expected + ", found " + printable(found));
  };
  std::string architecture;
  if (const json* list = fields.find("architectures");
      list && list->is_array() && !list->empty() && list->front().is_string()) {
    architecture = list->front().get<std::string>();
  } else {
    const std::string type = fields.text("model_type", "");
    architecture = type == "llama"     ? "LlamaForCausalLM"
                   : type == "mistral" ? "MistralForCausalLM"
                                       : type;
  }
  if (architecture != "LlamaForCausalLM" && architecture != "MistralForCausalLM") {
    return refuse("architecture", kSupported, architecture.empty() ? "none named" : architecture);
  }
  if (architecture == "MistralForCausalLM" && fields.find("sliding_window")) {
    return refuse("sliding_window", "none", fields.find("sliding_window")->dump());
  }
  if (const std::string act = fields.text("hidden_act", "silu"); act != "silu") {
    return refuse("hidden_act", "silu", act);
  }
  if (const json* quantization = fields.find("quantization_config")) {
    const auto method =
        quantization->is_object() ? quantization->find("quant_method") : quantization->end();
    return refuse(
        "quantization_config", "unquantized weights (or a GGUF file)",
        quantization->is_object() && method != quantization->end() ? method->dump() : "one");
  }
  if (fields.real("partial_rotary_factor", 1.0) != 1.0f) {
    return refuse("partial_rotary_factor", "1", fields.find("partial_rotary_factor")->dump());
  }
  return {};
}

/// The rope settings of one object, spelled `rope_scaling` or `rope_parameters`.
Result<void> read_rope_settings(Fields& rope, const std::string& name, ModelConfig& config) {
  const auto refuse = [&](const std::string& expected, const std::string& found) {
    return fail(ErrorCode::kInvalidArgument, rope.path + ": unsupported " + name + ": expected " +
                                                 expected + ", found " + found);
  };
  const auto needs = [&](const std::string& type,
                         std::initializer_list<const char*> keys) -> Result<void> {
    for (const char* key : keys)
      if (!rope.find(key)) return refuse("\"" + std::string(key) + "\" with type " + type, "none");
    return {};
  };
  config.rope_theta = rope.real("rope_theta", config.rope_theta);
  const std::string type = rope.text("rope_type", rope.text("type", "default"));
  if (type == "default") {
    const bool named = rope.find("rope_type") || rope.find("type");
    if (!named && rope.find("factor")) return refuse("a \"rope_type\" beside \"factor\"", "none");
  } else if (type == "linear") {
    TAILOR_TRY(needs(type, {"factor"}));
    config.rope_scaling = RopeScaling::kLinear;
  } else if (type == "dynamic") {
    // Stretches beyond max_position_embeddings only, where nobody is served: up to there the
    // frequencies are the plain ones.
    TAILOR_TRY(needs(type, {"factor"}));
    const int64_t original = rope.integer("original_max_position_embeddings", config.max_position);
    if (original != config.max_position)
      return refuse("dynamic with original_max_position_embeddings = max_position_embeddings = " +
                        std::to_string(config.max_position),
                    std::to_string(original));
    if (rope.find("alpha")) return refuse("dynamic without \"alpha\"", rope.find("alpha")->dump());
  } else if (type == "llama3") {
    TAILOR_TRY(needs(type, {"factor", "low_freq_factor", "high_freq_factor",
                            "original_max_position_embeddings"}));
    config.rope_scaling = RopeScaling::kLlama3;
    config.rope_low_freq_factor = rope.real("low_freq_factor", 1.0);
    config.rope_high_freq_factor = rope.real("high_freq_factor", 4.0);
    config.rope_original_max_position =
        rope.integer("original_max_position_embeddings", config.max_position);
  } else {
    return refuse("the rope_type default, linear, dynamic or llama3", printable(type));
  }
  if (config.rope_scaling != RopeScaling::kNone) config.rope_factor = rope.real("factor", 1.0);
  if (rope.real("partial_rotary_factor", 1.0) != 1.0f)
    return refuse("partial_rotary_factor 1", rope.find("partial_rotary_factor")->dump());
  return {};
}

/// The settings themselves where they are given by kind of layer and every layer is of that kind.
Result<const json*> same_for_all_layers(const Fields& fields, const std::string& name,
                                        const json* settings) {
  const auto is_nested = [](const json& value) { return value.is_object(); };
  if (std::none_of(settings->begin(), settings->end(), is_nested)) return settings;
  const json* layers = fields.find("layer_types");
  const auto full = settings->find("full_attention");
  const bool all_full =
      !layers ||
      (layers->is_array() && std::all_of(layers->begin(), layers->end(),
                                         [](const json& l) { return l == "full_attention"; }));
  if (settings->size() == 1 && full != settings->end() && all_full) return &*full;
  std::vector<std::string> kinds;
  for (const auto& [kind, value] : settings->items())
    if (is_nested(value)) kinds.push_back(kind);
  return fail(ErrorCode::kInvalidArgument,
              fields.path + ": unsupported " + name +
                  ": expected the same for all layers, found settings by kind of layer (" +
                  some_names(kinds) + ")");
}

// `rope_parameters` (transformers 5) holds theta and scaling; before, `rope_theta` stood beside
// `rope_scaling`. A file that has both must mean one thing.
Result<void> read_rope(Fields& fields, ModelConfig& config) {
  config.rope_theta = fields.real("rope_theta", 10000.0);
  std::optional<ModelConfig> before;
  for (const char* name : {"rope_scaling", "rope_parameters"}) {
    const json* settings = fields.find(name);
    if (!settings) continue;
    if (!settings->is_object()) {
      fields.wrong(name, "an object", *settings);
      return {};
    }
    TAILOR_ASSIGN(settings, same_for_all_layers(fields, name, settings));
    Fields rope{*settings, fields.path, {}};
    ModelConfig read = config;
    TAILOR_TRY(read_rope_settings(rope, name, read));
    if (!fields.error) fields.error = rope.error;
    if (before &&
        (before->rope_scaling != read.rope_scaling || before->rope_factor != read.rope_factor ||
         before->rope_low_freq_factor != read.rope_low_freq_factor ||
         before->rope_high_freq_factor != read.rope_high_freq_factor ||
         before->rope_original_max_position != read.rope_original_max_position)) {
      return fail(ErrorCode::kInvalidArgument,
                  fields.path + ": rope_scaling and rope_parameters say different things");
    }
    before = std::move(read);
  }
  if (before) config = std::move(*before);
  return {};
}

// Metadata of a GGUF file with the file's name in every error; the first is kept. Absent means the
// default, another kind of value is an error.
struct Keys {
  const GgufFile& file;
  std::optional<Error> error;

  void wrong(const std::string& key, const std::string& expected) {
    if (!error)
      error = Error{ErrorCode::kInvalidArgument, file.path() + ": metadata " + key + ": expected " +
                                                     expected + ", found another kind of value"};
  }
  std::optional<double> real(const std::string& key) {
    const auto value = file.number(key);
    if (!value && file.has(key)) wrong(key, "a number");
    return value;
  }
  std::string text(const std::string& key, const std::string& otherwise) {
    const auto* value = file.find<std::string>(key);
    if (!value && file.has(key)) wrong(key, "a text");
    return value ? *value : otherwise;
  }
  int64_t integer(const std::string& key, std::optional<int64_t> otherwise = {}) {
    if (const auto* value = file.find<int64_t>(key)) return *value;
    if (const auto* list = file.find<std::vector<int64_t>>(key); list && !list->empty()) {
      if (std::all_of(list->begin(), list->end(), [&](int64_t v) { return v == list->front(); })) {
        return list->front();
      }
      error = Error{ErrorCode::kInvalidArgument,
                    file.path() + ": " + key +
                        ": expected the same number in all layers, found different ones"};
      return 0;
    }
    if (file.has(key)) wrong(key, "a whole number");
    if (!otherwise && !error) {
      error = Error{ErrorCode::kDataLoss, file.path() + ": metadata " + key + " is missing"};
    }
    return otherwise.value_or(0);
  }
  TokenId token(const std::string& key) {
    const int64_t value = integer(key, -1);
    return value >= 0 && value <= INT32_MAX ? static_cast<TokenId>(value) : -1;
  }
};

void add_end_token(TokenId token, ModelConfig& config) {
  auto& all = config.eos_tokens;
  if (token >= 0 && std::find(all.begin(), all.end(), token) == all.end()) all.push_back(token);
}

// Control tokens whose name says that an answer or a turn ends, beside those the file names by id.
constexpr const char* kTurnEndNames[] = {"<|eot_id|>", "<|eom_id|>",    "<|end_of_text|>",
                                         "<|im_end|>", "<end_of_turn>", "<|end|>"};

void add_gguf_end_tokens(const GgufFile& file, ModelConfig& config) {
  Keys keys{file, {}};
  for (const char* key : {"eos", "eot", "eom"}) {
    add_end_token(keys.token("tokenizer.ggml." + std::string(key) + "_token_id"), config);
  }
  const auto* tokens = file.find<std::vector<std::string>>("tokenizer.ggml.tokens");
  const auto* types = file.find<std::vector<int64_t>>("tokenizer.ggml.token_type");
  if (!tokens || !types || types->size() != tokens->size()) return;
  for (const char* name : kTurnEndNames) {
    const auto it = std::find(tokens->begin(), tokens->end(), name);
    const auto index = it - tokens->begin();
    if (it != tokens->end() && (*types)[index] == 3)
      add_end_token(static_cast<TokenId>(index), config);
  }
}

Result<void> read_gguf_rope(const GgufFile& file, Keys& keys, ModelConfig& config) {
  const auto refuse = [&](const std::string& key, const std::string& expected,
                          const std::string& found) {
    return fail(ErrorCode::kInvalidArgument, file.path() + ": unsupported llama.rope." + key +
                                                 ": expected " + expected + ", found " + found);
  };
  config.rope_theta = static_cast<float>(keys.real("llama.rope.freq_base").value_or(10000.0));
  const int64_t rotated = keys.integer("llama.rope.dimension_count", config.head_dim);
  if (rotated != config.head_dim)
    return refuse("dimension_count", "the head size " + std::to_string(config.head_dim),
                  std::to_string(rotated));
  const std::string type = keys.text("llama.rope.scaling.type", "");
  auto factor = keys.real("llama.rope.scaling.factor");
  if (!factor) factor = keys.real("llama.rope.scale_linear");
  const double attention = keys.real("llama.rope.scaling.attn_factor").value_or(1.0);
  if (keys.error) return fail(*keys.error);
  if (!type.empty() && type != "none" && type != "linear")
    return refuse("scaling.type", "none or linear", printable(type));
  if (type == "linear" && !factor) return refuse("scaling.factor", "a number with linear", "none");
  if (attention != 1.0) return refuse("scaling.attn_factor", "1", std::to_string(attention));
  if (factor && *factor != 1.0 && type != "none") {
    config.rope_scaling = RopeScaling::kLinear;
    config.rope_factor = static_cast<float>(*factor);
  }
  for (const StoredTensor& tensor : file.tensors()) {
    if (tensor.name != "rope_freqs.weight") continue;
    if (tensor.shape != std::vector<int64_t>{config.head_dim / 2}) {
      return fail(ErrorCode::kInvalidArgument, file.path() +
                                                   ": tensor rope_freqs.weight: expected shape " +
                                                   shape_string({config.head_dim / 2}) +
                                                   ", found " + shape_string(tensor.shape));
    }
    config.rope_frequency_factors.resize(static_cast<size_t>(config.head_dim / 2));
    dequantize_row(tensor.type, tensor.data, 0, config.head_dim / 2,
                   config.rope_frequency_factors.data());
  }
  return {};
}

}  // namespace

Result<json> load_json_object(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::error_code ignored;
  if (!in || !std::filesystem::is_regular_file(path, ignored)) {
    return fail(ErrorCode::kNotFound, "cannot open " + path);
  }
  std::ostringstream text;
  text << in.rdbuf();
  auto parsed = parse_json(text.str());
  if (!parsed) return fail(ErrorCode::kDataLoss, path + ": " + parsed.error().message);
  if (!parsed->is_object()) return fail(ErrorCode::kDataLoss, path + ": expected a JSON object");
  return parsed;
}

Result<ModelConfig> config_from_json(const std::string& path) {
  TAILOR_ASSIGN(const json object, load_json_object(path));
  Fields fields{object, path, {}};
  TAILOR_TRY(check_architecture(fields));
  ModelConfig config;
  const auto folder = std::filesystem::absolute(path).parent_path();
  config.name = folder.filename().string();
  config.hidden_size = fields.integer("hidden_size", 0);
  config.intermediate_size = fields.integer("intermediate_size", 0);
  config.num_layers = fields.integer("num_hidden_layers", 0);
  config.num_heads = fields.integer("num_attention_heads", 0);
  config.num_kv_heads = fields.integer("num_key_value_heads", config.num_heads);
  config.head_dim =
      fields.integer("head_dim", config.num_heads > 0 ? config.hidden_size / config.num_heads : 0);
  config.vocab_size = fields.integer("vocab_size", 0);
  config.max_position = fields.integer("max_position_embeddings", 2048);
  config.rms_norm_eps = fields.real("rms_norm_eps", 1e-6);
  config.tie_embeddings = fields.boolean("tie_word_embeddings", false);
  config.attention_bias = fields.boolean("attention_bias", false);
  config.mlp_bias = fields.boolean("mlp_bias", false);
  const auto bos = fields.tokens("bos_token_id");
  config.bos_token = bos.empty() ? -1 : bos.front();
  config.eos_tokens = fields.tokens("eos_token_id");
  TAILOR_TRY(read_rope(fields, config));
  if (fields.error) return fail(*fields.error);

  const std::string generation_path = (folder / "generation_config.json").string();
  std::error_code ignored;
  if (std::filesystem::exists(generation_path, ignored)) {
    TAILOR_ASSIGN(const json generation, load_json_object(generation_path));
    Fields more{generation, generation_path, {}};
    for (const TokenId token : more.tokens("eos_token_id")) add_end_token(token, config);
    read_sampling(more, config.sampling);
    if (more.error) return fail(*more.error);
    TAILOR_TRY(check_sampling(config, generation_path));
  }
  if (auto valid = validate(config); !valid) return fail_with(path, valid.error());
  return config;
}

Result<ModelConfig> config_from_gguf(const GgufFile& file) {
  const auto* architecture = file.find<std::string>("general.architecture");
  if (!architecture || *architecture != "llama") {
    return fail(ErrorCode::kInvalidArgument,
                file.path() + ": unsupported general.architecture: expected llama, found " +
                    (architecture ? printable(*architecture) : "none"));
  }
  Keys keys{file, {}};
  if (const int64_t experts = keys.integer("llama.expert_count", 0); experts > 0) {
    return fail(ErrorCode::kInvalidArgument,
                file.path() + ": unsupported llama.expert_count: expected 0, found " +
                    std::to_string(experts));
  }
  ModelConfig config;
  const auto* name = file.find<std::string>("general.name");
  config.name = name ? *name : std::filesystem::path(file.path()).stem().string();
  config.hidden_size = keys.integer("llama.embedding_length");
  config.intermediate_size = keys.integer("llama.feed_forward_length");
  config.num_layers = keys.integer("llama.block_count");
  config.num_heads = keys.integer("llama.attention.head_count");
  config.num_kv_heads = keys.integer("llama.attention.head_count_kv", config.num_heads);
  config.max_position = keys.integer("llama.context_length");
  const int64_t even_split = config.num_heads > 0 ? config.hidden_size / config.num_heads : 0;
  config.head_dim = keys.integer("llama.attention.key_length", even_split);
  const int64_t value_length = keys.integer("llama.attention.value_length", config.head_dim);
  if (keys.error) return fail(*keys.error);
  if (value_length != config.head_dim) {
    return fail(ErrorCode::kInvalidArgument,
                file.path() + ": llama.attention.value_length: expected the key length " +
                    std::to_string(config.head_dim) + ", found " + std::to_string(value_length));
  }
  const auto eps = keys.real("llama.attention.layer_norm_rms_epsilon");
  if (keys.error) return fail(*keys.error);
  if (!eps) {
    return fail(ErrorCode::kDataLoss,
                file.path() + ": metadata llama.attention.layer_norm_rms_epsilon is missing");
  }
  config.rms_norm_eps = static_cast<float>(*eps);
  config.tie_embeddings = true;
  for (const StoredTensor& tensor : file.tensors()) {
    if (tensor.name == "output.weight") config.tie_embeddings = false;
    if (tensor.name == "blk.0.attn_q.bias") config.attention_bias = true;
    if (tensor.name == "blk.0.ffn_gate.bias") config.mlp_bias = true;
    if (tensor.name == "token_embd.weight" && tensor.shape.size() == 2)
      config.vocab_size = tensor.shape[0];
  }
  if (config.vocab_size == 0) {
    return fail(ErrorCode::kDataLoss,
                file.path() + ": tensor token_embd.weight is missing or has no two dimensions");
  }
  config.bos_token = keys.token("tokenizer.ggml.bos_token_id");
  add_gguf_end_tokens(file, config);
  read_gguf_sampling(file, config.sampling);
  TAILOR_TRY(check_sampling(config, file.path()));
  if (auto valid = validate(config); !valid) return fail_with(file.path(), valid.error());
  TAILOR_TRY(read_gguf_rope(file, keys, config));
  if (auto valid = validate(config); !valid) return fail_with(file.path(), valid.error());
  return config;
}

}  // namespace tailor::weights
