// A request as the whole system sees it once it is accepted: tokens, not text. A request's tokens
// depend on (model, arithmetic version, Request) alone; everything here is immutable after
// acceptance.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "base/ids.h"
#include "base/result.h"
#include "base/time.h"

namespace tailor {

using TokenId = int32_t;

/// Answers that one request may ask for.
inline constexpr int32_t kMaxSamples = 64;

/// What a request says about its answers whatever the model: these defaults hold everywhere.
struct AnswerParams {
  float presence_penalty = 0.0f;   ///< over the answer
  float frequency_penalty = 0.0f;  ///< over the answer
  std::vector<std::pair<TokenId, float>> logit_bias;
  uint64_t seed = 0;  ///< fixed at acceptance when the client gave none
  int32_t n = 1;      ///< answers per prompt, at most kMaxSamples
  int32_t max_tokens = 256;
  int32_t min_tokens = 0;  ///< no end token and no stop before that many
  bool ignore_eos = false;
  std::vector<std::string> stop;  ///< the text ends before the first of these
  std::vector<TokenId> stop_token_ids;
  bool include_stop_in_output = false;
  int32_t logprobs = -1;  ///< -1 = none; 0 = the chosen token's; k = and the k best
  bool skip_special_tokens = true;
};

/// How the next token is drawn. Names are the field's; see docs/api.md for the exact order of
/// steps. The values here change nothing; what a client that says nothing gets: SamplingDefaults.
struct SamplingParams : AnswerParams {
  float temperature = 1.0f;         ///< 0 = greedy
  int32_t top_k = 0;                ///< 0 = off
  float top_p = 1.0f;               ///< 1 = off
  float min_p = 0.0f;               ///< 0 = off
  float repetition_penalty = 1.0f;  ///< over prompt and answer; 1 = off
};

/// What stands in where a client says nothing: the model's own advice (generation_config.json), and
/// without one these values. Applied by the coordinator (api::Sampling::resolved).
struct SamplingDefaults {
  float temperature = 0.7f;
  int32_t top_k = 0;
  float top_p = 0.95f;
  float min_p = 0.0f;
  float repetition_penalty = 1.0f;
};

/// Names the first thing wrong with `params` in one sentence. `vocab_size` bounds the token ids.
/// Errors: InvalidArgument.
Result<void> validate(const SamplingParams& params, int64_t vocab_size);

/// Urgency classes, strict in this order. Within a class the policy orders.
enum class PriorityClass : uint8_t { kInteractive = 0, kStandard = 1, kBatch = 2 };
inline constexpr int kNumPriorityClasses = 3;

struct Request {
  RequestId id;
  std::vector<TokenId> prompt;
  SamplingParams sampling;
  PriorityClass priority = PriorityClass::kStandard;
  std::string tenant;
  Time arrival;                         ///< coordinator's clock; not sent to workers
  Duration deadline = Duration::max();  ///< after arrival; max = none
};

enum class FinishReason : uint8_t {
  kNone = 0,    ///< still running
  kStop = 1,    ///< end-of-sequence token, stop token or stop string
  kLength = 2,  ///< max_tokens or the context's end
  kCancelled = 3,
  kFailed = 4,  ///< with an Error
};
const char* to_string(FinishReason reason);

}  // namespace tailor
