// Chat templates: the Jinja text of tokenizer_config.json or GGUF, rendered by minijinja with the
// same globals as `transformers` (messages, add_generation_prompt, bos_token, eos_token,
// raise_exception, strftime_now, tojson; tools and documents are None), its whitespace rules,
// Python's string and dict methods, break and continue. A rendering is bounded: 10 million template
// steps and 120 calls inside calls. Memory is not: a template is trusted like the model it comes
// with; what users write is only ever data to it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/result.h"
#include "text/tokenizer.h"

namespace tailor::text {

using ChatMessages = std::vector<std::pair<std::string, std::string>>;  ///< (role, content)

class ChatTemplate {
 public:
  /// An empty token is undefined to the template. Errors: InvalidArgument (template syntax: names
  /// the line).
  static Result<std::shared_ptr<const ChatTemplate>> compile(const std::string& source,
                                                             const std::string& bos_token,
                                                             const std::string& eos_token);
  virtual ~ChatTemplate() = default;

  /// `messages`: (role, content) pairs. The text holds the begin token where the template writes
  /// it: encode it with add_special_tokens = false. Any thread. Cost: about 4 us and 1.3 us a
  /// message. Errors: InvalidArgument (the template's own raise_exception text, not UTF-8: names
  /// the message, too many steps, ...).
  virtual Result<std::string> render(const ChatMessages& messages,
                                     bool add_generation_prompt) const = 0;
};

/// The tokens of a chat that waits for an answer. Special tokens written in roles and contents are
/// words unless `parse_special_tokens`: nobody ends another's turn by writing "<|im_end|>". A
/// template that looks for such a token in a content does not find it then. Errors: render()'s and
/// encode()'s; LimitExceeded (rendered, they have more than `max_bytes`, which is not tokenized).
Result<std::vector<TokenId>> encode_chat(const Tokenizer& tokenizer,
                                         const ChatTemplate& chat_template,
                                         const ChatMessages& messages, bool parse_special_tokens,
                                         size_t max_bytes = SIZE_MAX);

/// The token that the template writes behind an answer: the end of a turn. -1 when none is
/// special or written as a mark ("<end>").
TokenId turn_end(const Tokenizer& tokenizer, const ChatTemplate& chat_template);

}  // namespace tailor::text
