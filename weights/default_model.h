// Where models live on this machine: the per-user cache that launch/setup fills.
#pragma once

#include <string>

#include "base/result.h"

namespace tailor::weights {

/// `$TAILOR_CACHE`, else `$XDG_CACHE_HOME/tailor`, else `~/.cache/tailor`; no trailing slash.
std::string cache_folder();

/// The default model's file, whether it is there or not: cache_folder() + /models/default/...gguf.
std::string default_model_path();

/// What `--model` means: "default" is the default model's file, anything else is a path. Checks
/// only that it exists. Errors: NotFound, with what to do.
Result<std::string> resolve_model(const std::string& model);

/// What `--encoder` means: "minilm" is the folder of all-MiniLM-L6-v2 that launch/setup fills,
/// anything else is a Hugging Face folder. Checks only that it exists. Errors: NotFound, with what
/// to do.
Result<std::string> resolve_encoder(const std::string& encoder);

}  // namespace tailor::weights
