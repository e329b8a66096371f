#include "coordinator/prompt_text.h"

#include <algorithm>
#include <string>
#include <utility>

namespace tailor::coordinator {
namespace {

/// A normalizer that composes characters (NFC) makes at most so many bytes one.
constexpr size_t kComposedBytes = 3;

/// Text of more bytes cannot fit the context, whatever it says.
size_t most_bytes(const PromptText& text, uint32_t max_context) {
  return text.longest_token_bytes == 0 ? SIZE_MAX
                                       : kComposedBytes * text.longest_token_bytes * max_context;
}

text::ChatMessages role_and_content(const std::vector<api::ChatMessage>& messages) {
  text::ChatMessages pairs;
  for (const auto& message : messages) pairs.emplace_back(message.role, message.content);
  return pairs;
}

Result<std::vector<TokenId>> prompt_tokens(const PromptText& text, uint32_t max_context,
                                           const api::Submit& submit) {
  if (const auto* ids = std::get_if<std::vector<TokenId>>(&submit.prompt)) {
    for (size_t i = 0; i < ids->size(); ++i)
      if ((*ids)[i] < 0 || (*ids)[i] >= text.vocab_size)
        return fail(ErrorCode::kInvalidArgument,
                    "token " + std::to_string(i) + " of the prompt is " +
                        std::to_string((*ids)[i]) + ", but the vocabulary is 0.." +
                        std::to_string(text.vocab_size - 1));
    return *ids;
  }
  if (!text.tokenizer)
    return fail(ErrorCode::kInvalidArgument,
                "this model has no tokenizer; send token ids instead of text");
  if (const auto* written = std::get_if<std::string>(&submit.prompt)) {
    if (written->empty()) return std::vector<TokenId>{};
    if (written->size() > most_bytes(text, max_context))
      return fail(ErrorCode::kLimitExceeded, "the prompt has " + std::to_string(written->size()) +
                                                 " bytes, more than " +
                                                 std::to_string(max_context) +
                                                 " tokens (prompt and answer together) can hold");
    if (submit.parse_special_tokens.value_or(true))
      return text.tokenizer->encode(*written, submit.add_special_tokens);
    TAILOR_ASSIGN(const std::string guarded, text.tokenizer->guard(*written));
    return text.tokenizer->encode_guarded(guarded, submit.add_special_tokens);
  }
  const auto& messages = std::get<std::vector<api::ChatMessage>>(submit.prompt);
  if (messages.empty()) return std::vector<TokenId>{};
  if (!text.chat_template)
    return fail(ErrorCode::kInvalidArgument,
                (text.no_chat.empty() ? "this model has no chat template" : text.no_chat) +
                    "; send text or token ids instead of messages");
  // The template writes its own special tokens, so none are added.
  return text::encode_chat(*text.tokenizer, *text.chat_template, role_and_content(messages),
                           submit.parse_special_tokens.value_or(false),
                           most_bytes(text, max_context));
}

/// The largest `at` not above this one where a character of UTF-8 begins.
size_t character_start(const std::string& text, size_t at) {
  while (at > 0 && at < text.size() && (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80) --at;
  return at;
}

}  // namespace

PromptText with_longest_token(PromptText text) {
  text.longest_token_bytes = 0;
  for (TokenId id = 0; text.tokenizer && id < text.tokenizer->vocab_size(); ++id)
    text.longest_token_bytes =
        std::max(text.longest_token_bytes, text.tokenizer->token_bytes(id).size());
  return text;
}

std::string predictor_words(const api::Submit& submit) {
  std::string words;
  if (const auto* text = std::get_if<std::string>(&submit.prompt)) {
    words = *text;
  } else if (const auto* messages = std::get_if<std::vector<api::ChatMessage>>(&submit.prompt)) {
    for (const auto& message : *messages) {
      if (&message != &messages->front()) words += '\n';
      words += message.content;
    }
  }
  if (words.size() <= kPredictorHeadBytes + kPredictorTailBytes) return words;
  const size_t head = character_start(words, kPredictorHeadBytes);
  const size_t tail = character_start(words, words.size() - kPredictorTailBytes);
  return words.substr(0, head) + words.substr(tail);
}

Result<PreparedPrompt> prepare_prompt(const PromptText& text, uint32_t max_context,
                                      const api::Submit& submit) {
  PreparedPrompt prepared;
  prepared.sampling = submit.sampling.resolved(text.sampling);
  TAILOR_TRY(validate(prepared.sampling, text.vocab_size));
  TAILOR_ASSIGN(prepared.tokens, prompt_tokens(text, max_context, submit));
  if (prepared.tokens.empty()) return fail(ErrorCode::kInvalidArgument, "the prompt is empty");
  if (prepared.tokens.size() >= max_context)
    return fail(ErrorCode::kLimitExceeded, "the prompt has " +
                                               std::to_string(prepared.tokens.size()) +
                                               " tokens, but prompt and answer together may have " +
                                               std::to_string(max_context));
  prepared.words = predictor_words(submit);
  const auto room =
      static_cast<int64_t>(max_context) - static_cast<int64_t>(prepared.tokens.size());
  prepared.sampling.max_tokens =
      static_cast<int32_t>(std::min<int64_t>(prepared.sampling.max_tokens, room));
  prepared.sampling.min_tokens =
      std::min(prepared.sampling.min_tokens, prepared.sampling.max_tokens);
  return prepared;
}

}  // namespace tailor::coordinator
