// From what a client submits to what the cluster runs: template, tokens, checks, limits. A pure
// function; the pool of tokenizer threads calls it (tokenizer_pool.h).
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/api.h"
#include "base/result.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace tailor::coordinator {

/// The text side of the served model. Immutable; shared by threads.
struct PromptText {
  /// null: token ids only (random weights of a bare config)
  std::shared_ptr<const text::Tokenizer> tokenizer;
  std::shared_ptr<const text::ChatTemplate> chat_template;  ///< null: no chat
  std::string no_chat;                                      ///< then: why, for clients
  int64_t vocab_size = 0;     ///< of the model's output: bounds token ids
  SamplingDefaults sampling;  ///< where the client says nothing
  /// with_longest_token(); 0: no prompt is refused by its bytes alone.
  size_t longest_token_bytes = 0;
};

/// `text`, with the bytes of its longest token looked up. Cost: linear in the vocabulary.
PromptText with_longest_token(PromptText text);

struct PreparedPrompt {
  std::vector<TokenId> tokens;
  std::string words;  ///< what the predictor is shown: predictor_words()
  /// Complete: with the model's defaults, max_tokens (and min_tokens) cut to what the context
  /// leaves.
  SamplingParams sampling;
};

inline constexpr size_t kPredictorHeadBytes = 12u << 10, kPredictorTailBytes = 4u << 10;

/// The client's own words, before any template: the text, or all messages' contents joined by
/// newlines; nothing for token ids. Of more than head + tail bytes (16 KiB) the middle is left out,
/// cut between characters.
std::string predictor_words(const api::Submit& submit);

/// Renders, tokenizes and checks. `max_context` = prompt and answer together.
/// Errors: InvalidArgument (a sampling field, an empty prompt, no chat template, a token id outside
/// the vocabulary, text that is not UTF-8), LimitExceeded (longer than the context; text that its
/// bytes alone show to be is not tokenized); the message names what was found and what is possible.
/// Cost: linear in the prompt; megabytes take seconds, so never on the main thread.
Result<PreparedPrompt> prepare_prompt(const PromptText& text, uint32_t max_context,
                                      const api::Submit& submit);

}  // namespace tailor::coordinator
