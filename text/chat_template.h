// Chat templates: the Jinja text of tokenizer_config.json or GGUF, rendered by minijinja with the same globals as
// `transformers` (messages, add_generation_prompt, bos_token, eos_token, raise_exception, strftime_now, tojson).
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/result.h"

namespace tailor::text {

class ChatTemplate {
 public:
  /// Errors: InvalidArgument (template syntax: names the line).
  static Result<std::shared_ptr<const ChatTemplate>> compile(const std::string& source, const std::string& bos_token,
                                                             const std::string& eos_token);
  virtual ~ChatTemplate() = default;

  /// `messages`: (role, content) pairs. Any thread. Errors: InvalidArgument (the template's own raise_exception
  /// text, an unknown role, ...).
  virtual Result<std::string> render(const std::vector<std::pair<std::string, std::string>>& messages,
                                     bool add_generation_prompt) const = 0;
};

}  // namespace tailor::text
