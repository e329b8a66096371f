// The text side of a model: its tokenizer and chat template, from wherever its files carry them.
// text/ knows no weight files and weights no text, so the launcher joins them here.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/api.h"
#include "base/result.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"
#include "weights/weight_files.h"

namespace tailor::launch {

struct ModelText {
  std::shared_ptr<const text::Tokenizer> tokenizer;
  std::shared_ptr<const text::ChatTemplate> chat_template;  ///< null: no chat
  std::string no_chat;  ///< then: why (there is none, or it is broken), for people
  /// What ends an answer: the end tokens of config and generation_config (or of a GGUF file), the
  /// tokenizer's own, and what the template writes behind an answer. Each once, in that order.
  std::vector<TokenId> end_tokens;
};

/// From the vocabulary inside a GGUF file; else from the model's folder: tokenizer.json, and for
/// the template chat_template.jinja or tokenizer_config.json's chat_template (a string, or a list
/// of named ones: "default", else the only one). `template_file`: a Jinja file instead of the
/// model's own template; empty = none. A model's template that is broken costs only chat. Cost:
/// about 0.2 s. Errors: NotFound (no tokenizer.json, as with random weights of a bare config; no
/// `template_file`), InvalidArgument (names the file and what is wrong, `template_file` broken, or
/// a tokenizer with words past the model's vocabulary).
Result<ModelText> load_model_text(const weights::WeightFiles& files,
                                  const std::string& template_file = "");

/// The end tokens and how they are written.
std::vector<api::EndToken> written_end_tokens(const ModelText& text);

/// "2 <|im_end|>, 0 <|endoftext|>"; "none" without any.
std::string end_tokens_text(const std::vector<api::EndToken>& end_tokens);

}  // namespace tailor::launch
