#include "base/request.h"

#include <charconv>
#include <cmath>

namespace tailor {
namespace {

Unexpected bad(const std::string& message) { return fail(ErrorCode::kInvalidArgument, message); }

std::string shortest(float value) {
  char text[32];
  return {text, std::to_chars(text, text + sizeof text, value).ptr};
}

// Bounds are floats as the values are: 0.01 as a double is above the float that 0.01 becomes.
Result<void> in_range(const char* name, float value, float low, float high) {
  if (std::isfinite(value) && value >= low && value <= high) return {};
  return bad(std::string(name) + " must be a number in [" + shortest(low) + ", " + shortest(high) +
             "], found " + shortest(value));
}

Result<void> token_in_range(const char* name, TokenId id, int64_t vocab_size) {
  if (id >= 0 && id < vocab_size) return {};
  return bad(std::string(name) + " names token " + std::to_string(id) +
             ", but the vocabulary is 0.." + std::to_string(vocab_size - 1));
}

}  // namespace

Result<void> validate(const SamplingParams& p, int64_t vocab_size) {
  TAILOR_TRY(in_range("temperature", p.temperature, 0, 100));
  TAILOR_TRY(in_range("min_p", p.min_p, 0, 1));
  TAILOR_TRY(in_range("repetition_penalty", p.repetition_penalty, 0.01f, 100));
  TAILOR_TRY(in_range("presence_penalty", p.presence_penalty, -100, 100));
  TAILOR_TRY(in_range("frequency_penalty", p.frequency_penalty, -100, 100));
  if (p.top_p <= 0)  // -0 too
    return bad("top_p must be above 0 (1 switches it off), found " + shortest(p.top_p));
  TAILOR_TRY(in_range("top_p", p.top_p, 0, 1));
  if (p.top_k < 0)
    return bad("top_k must be at least 0 (0 switches it off), found " + std::to_string(p.top_k));
  if (p.n < 1 || p.n > kMaxSamples)
    return bad("n must be in 1.." + std::to_string(kMaxSamples) + ", found " + std::to_string(p.n));
  if (p.max_tokens < 1)
    return bad("max_tokens must be at least 1, found " + std::to_string(p.max_tokens));
  if (p.min_tokens < 0 || p.min_tokens > p.max_tokens)
    return bad("min_tokens must be in 0..max_tokens (" + std::to_string(p.max_tokens) +
               "), found " + std::to_string(p.min_tokens));
  if (p.logprobs < -1 || p.logprobs > 20)
    return bad("logprobs must be in -1..20, found " + std::to_string(p.logprobs));
  if (p.stop.size() > 16)
    return bad("at most 16 stop strings, found " + std::to_string(p.stop.size()));
  for (const auto& s : p.stop) {
    if (s.empty()) return bad("a stop string is empty");
    if (s.size() > 256)
      return bad("a stop string has " + std::to_string(s.size()) + " bytes, the limit is 256");
  }
  if (p.stop_token_ids.size() > 64)
    return bad("at most 64 stop_token_ids, found " + std::to_string(p.stop_token_ids.size()));
  for (TokenId id : p.stop_token_ids) TAILOR_TRY(token_in_range("stop_token_ids", id, vocab_size));
  if (p.logit_bias.size() > 1024)
    return bad("at most 1024 entries of logit_bias, found " + std::to_string(p.logit_bias.size()));
  for (const auto& [id, bias] : p.logit_bias) {
    TAILOR_TRY(token_in_range("logit_bias", id, vocab_size));
    TAILOR_TRY(in_range("logit_bias", bias, -100, 100));
  }
  return {};
}

const char* to_string(FinishReason reason) {
  switch (reason) {
    case FinishReason::kNone:
      return "none";
    case FinishReason::kStop:
      return "stop";
    case FinishReason::kLength:
      return "length";
    case FinishReason::kCancelled:
      return "cancelled";
    case FinishReason::kFailed:
      return "failed";
  }
  return "unknown";
}

}  // namespace tailor
