// What a Llama-family model is, read from config.json (Hugging Face) or GGUF metadata.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/request.h"
#include "base/result.h"

namespace tailor::weights {

/// The longest context a config may name: sums and roundings of it stay inside 32 bits.
inline constexpr int64_t kMaxPosition = int64_t{1} << 30;

enum class RopeScaling { kNone, kLinear, kLlama3 };

struct ModelConfig {
  std::string name;  ///< for people: folder or general.name
  int64_t hidden_size = 0;
  int64_t intermediate_size = 0;
  int64_t num_layers = 0;
  int64_t num_heads = 0;
  int64_t num_kv_heads = 0;
  int64_t head_dim = 0;
  int64_t vocab_size = 0;
  int64_t max_position = 0;  ///< context length
  float rms_norm_eps = 1e-5f;
  float rope_theta = 10000.0f;
  RopeScaling rope_scaling = RopeScaling::kNone;
  float rope_factor = 1.0f;                                         ///< linear and llama3
  float rope_low_freq_factor = 1.0f, rope_high_freq_factor = 4.0f;  ///< llama3
  int64_t rope_original_max_position = 8192;                        ///< llama3
  /// GGUF's rope_freqs.weight [head_dim / 2], how such files store llama3 scaling: each inverse
  /// frequency is divided by its factor. Empty = none.
  std::vector<float> rope_frequency_factors;
  bool tie_embeddings = false;
  bool attention_bias = false, mlp_bias = false;
  TokenId bos_token = -1;  ///< -1 = none
  /// Of config.json and generation_config.json together, or of a GGUF file's ids and names. The
  /// tokenizer's files and the chat template may name more (launch/model_text.h).
  std::vector<TokenId> eos_tokens;
  /// What the model's makers advise (generation_config.json, GGUF's general.sampling.*).
  SamplingDefaults sampling;

  int64_t heads_per_group() const { return num_heads / num_kv_heads; }
};

/// Inverse frequencies [head_dim / 2] with the config's RoPE scaling applied (Llama 3.1's
/// wavelength bands, as in `transformers`' modeling_rope_utils). Computed in float, as there.
std::vector<float> rope_inverse_frequencies(const ModelConfig& config);

/// One sentence naming the field that does not fit (head counts that do not divide, sizes of 0,
/// ...). Errors: InvalidArgument.
Result<void> validate(const ModelConfig& config);

}  // namespace tailor::weights
