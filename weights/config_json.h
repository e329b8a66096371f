// ModelConfig from a Hugging Face config.json (with generation_config.json beside it) and from GGUF
// metadata.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "base/result.h"
#include "weights/gguf_file.h"
#include "weights/model_config.h"

namespace tailor::weights {

/// Errors: NotFound, DataLoss (no JSON object).
Result<nlohmann::json> load_json_object(const std::string& path);

/// `path`: the config.json. Accepts both spellings of RoPE's settings (`rope_theta` +
/// `rope_scaling`, and `rope_parameters`). The end tokens of generation_config.json, where there
/// are any, go before config.json's. Errors: NotFound, DataLoss, InvalidArgument (unsupported
/// architecture or setting, field of a wrong kind).
Result<ModelConfig> config_from_json(const std::string& path);

/// From the llama.* and tokenizer.ggml.* keys and the tensor rope_freqs.weight.
/// Errors: InvalidArgument (unsupported architecture or setting), DataLoss (missing key).
Result<ModelConfig> config_from_gguf(const GgufFile& file);

}  // namespace tailor::weights
