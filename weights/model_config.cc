#include "weights/model_config.h"

#include <cmath>
#include <numbers>

namespace tailor::weights {

std::vector<float> rope_inverse_frequencies(const ModelConfig& config) {
  std::vector<float> out(static_cast<size_t>(config.head_dim / 2));
  for (size_t i = 0; i < out.size(); ++i) {
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(config.head_dim);
    float& frequency = out[i];
    frequency = 1.0f / std::pow(config.rope_theta, exponent);
    if (config.rope_scaling == RopeScaling::kLinear) {
      frequency /= config.rope_factor;
    } else if (config.rope_scaling == RopeScaling::kLlama3) {
      // Long wavelengths are stretched by the factor, short ones stay, those between are blended.
      const auto original = static_cast<float>(config.rope_original_max_position);
      const float low = config.rope_low_freq_factor, high = config.rope_high_freq_factor;
      const float wavelength = 2.0f * std::numbers::pi_v<float> / frequency;
      if (wavelength > original / low) {
        frequency /= config.rope_factor;
      } else if (wavelength >= original / high) {
        const float smooth = (original / wavelength - low) / (high - low);
        frequency = (1.0f - smooth) * frequency / config.rope_factor + smooth * frequency;
      }
    }
    if (!config.rope_frequency_factors.empty()) frequency /= config.rope_frequency_factors[i];
  }
  return out;
}

Result<void> validate(const ModelConfig& config) {
  const auto wrong = [](const std::string& field, const std::string& expected, auto found) {
    return fail(ErrorCode::kInvalidArgument,
                field + ": expected " + expected + ", found " + std::to_string(found));
  };
  const struct {
    const char* name;
    int64_t value, max;
  } sizes[] = {
      {"hidden_size", config.hidden_size, 1 << 20},
      {"intermediate_size", config.intermediate_size, 1 << 24},
      {"num_hidden_layers", config.num_layers, 1 << 12},
      {"num_attention_heads", config.num_heads, 1 << 14},
      {"num_key_value_heads", config.num_kv_heads, 1 << 14},
      {"head_dim", config.head_dim, 1 << 14},
      {"vocab_size", config.vocab_size, 1 << 26},
      {"max_position_embeddings", config.max_position, kMaxPosition},
  };
  for (const auto& [name, value, max] : sizes) {
    if (value < 1 || value > max) return wrong(name, "1 to " + std::to_string(max), value);
  }
  if (config.num_heads % config.num_kv_heads != 0) {
    return wrong("num_attention_heads",
                 "a multiple of num_key_value_heads = " + std::to_string(config.num_kv_heads),
                 config.num_heads);
  }
  if (config.head_dim % 2 != 0) return wrong("head_dim", "an even number", config.head_dim);
  if (!(config.rms_norm_eps > 0 && config.rms_norm_eps < 1)) {
    return wrong("rms_norm_eps", "a number between 0 and 1", config.rms_norm_eps);
  }
  if (!(config.rope_theta >= 1 && std::isfinite(config.rope_theta))) {
    return wrong("rope_theta", "at least 1", config.rope_theta);
  }
  if (config.rope_scaling != RopeScaling::kNone &&
      !(config.rope_factor >= 1 && std::isfinite(config.rope_factor))) {
    return wrong("rope factor", "at least 1", config.rope_factor);
  }
  if (config.rope_scaling == RopeScaling::kLlama3) {
    if (!(config.rope_low_freq_factor > 0 &&
          config.rope_high_freq_factor > config.rope_low_freq_factor &&
          std::isfinite(config.rope_high_freq_factor))) {
      return wrong("rope high_freq_factor",
                   "more than low_freq_factor = " + std::to_string(config.rope_low_freq_factor) +
                       ", which must be above 0",
                   config.rope_high_freq_factor);
    }
    if (config.rope_original_max_position < 1) {
      return wrong("rope original_max_position_embeddings", "at least 1",
                   config.rope_original_max_position);
    }
  }
  for (float factor : config.rope_frequency_factors) {
    if (!(factor > 0 && std::isfinite(factor)))
      return wrong("rope_freqs.weight", "factors above 0", factor);
  }
  for (TokenId token : config.eos_tokens) {
    if (token < 0 || token >= config.vocab_size) {
      return wrong("eos_token_id", "below vocab_size = " + std::to_string(config.vocab_size),
                   token);
    }
  }
  return {};
}

}  // namespace tailor::weights
