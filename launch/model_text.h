// The text side of a model: its tokenizer and chat template, from wherever its files carry them.
// text/ knows no weight files and parallel/weights no text, so the launcher joins them here.
#pragma once

#include <memory>

#include "base/result.h"
#include "parallel/weights/weight_files.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace tailor::launch {

struct ModelText {
  std::shared_ptr<const text::Tokenizer> tokenizer;
  std::shared_ptr<const text::ChatTemplate> chat_template;  ///< null when the model has none
};

/// From the vocabulary inside a GGUF file; else from the model's folder: tokenizer.json, and for
/// the template chat_template.jinja or tokenizer_config.json's chat_template (a string, or a list
/// of named ones: "default", else the only one). Cost: about 0.2 s. Errors: NotFound (no
/// tokenizer.json, as with random weights of a bare config), InvalidArgument (names the file and
/// what is wrong, or a tokenizer with words past the model's vocabulary).
Result<ModelText> load_model_text(const weights::WeightFiles& files);

}  // namespace tailor::launch
