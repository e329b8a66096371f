// What `--predictor auto` comes to: the predictor that was trained for a model, where it and its
// encoder are on this machine.
#pragma once

#include <string>

#include "base/result.h"

namespace tailor::launch {

/// A predictor's folder holds this head; its encoder is found by the head's own word.
inline constexpr const char* kPromptHeadFile = "prompt.safetensors";

/// `asked` is "auto", "none", a folder, or one of the simple predictors. "auto" gives
/// data/predictors/NAME (NAME "default", or the fingerprint of another model) when its head, the
/// encoder and the program are there, else "none". Errors: NotFound (no such folder, no head in
/// it).
Result<std::string> choose_predictor(const std::string& asked, const std::string& model,
                                     const std::string& program_folder);

/// The folder with a probe for `model` (a head on its hidden states), or "" where there is none.
/// `predictor`: what --predictor said; "none" switches the probe off too, a folder is looked into.
std::string choose_probe(const std::string& predictor, const std::string& model);

}  // namespace tailor::launch
