// Sampler: the next token of one sequence, a pure function of (request, sample, emitted ids,
// logits): it does not matter what else is in the batch, and a migrated or restarted sequence draws
// the same. Owner: the leader's main thread; the object holds scratch memory only, no allocation in
// steady state (beside asked-for log-probabilities).
//
// Order of steps:
//   1. logit_bias is added
//   2. repetition penalty over prompt and answer, as in `transformers`: l > 0 ? l / r : l * r, once
//   per token id
//   3. presence and frequency penalties over the answer: l -= presence + frequency * count
//   4. before min_tokens: end tokens (unless ignore_eos) and stop_token_ids are impossible
//   5. temperature 0: the highest logit, of equal ones the lowest id. Otherwise logits are divided
//   by it
//   6. top_k: the k highest (of equal ones the lower ids)
//   7. top_p: the shortest run of the most likely whose share reaches top_p
//   8. min_p: those at least min_p times as likely as the most likely
//   9. draw: the first id, in order of ids, at which the running sum of weights exceeds u * total;
//      u = Philox(seed, sample, position), worker/philox.h
// Log-probabilities that are reported are of the model's own distribution: log-softmax of the
// logits as they came, before step 1.
//
// exp is our own polynomial, in one fixed order of operations, so that a draw depends on no C
// library or CPU.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/messages.h"
#include "base/request.h"
#include "base/result.h"

namespace tailor::worker {

class Sampler {
 public:
  /// `eos_tokens`: the model's end tokens.
  Sampler(int64_t vocab_size, std::vector<TokenId> eos_tokens);

  /// Draws the token that follows `emitted`. `logits` [vocab_size], as the model gave them.
  /// `logprobs`, when not null and the request wants them, receives the chosen and the best ones.
  /// Errors: DeviceFailure (a logit is NaN or infinite), InvalidArgument (step 4 left nothing);
  /// nothing is drawn then. Cost: O(vocab + prompt + answer); only a small head is ever sorted.
  Result<TokenId> sample(const Request& request, uint32_t sample, std::span<const TokenId> emitted,
                         std::span<const float> logits, LogprobEntry* logprobs);

 private:
  struct Candidate {
    float logit;
    TokenId id;
  };
  void adjust(const Request& request, std::span<const TokenId> emitted);
  void fill_logprobs(std::span<const float> logits, TokenId chosen, int32_t count,
                     LogprobEntry& out);
  static bool better(const Candidate& a, const Candidate& b);  // higher logit, then lower id
  static bool lower_id(const Candidate& a, const Candidate& b);
  TokenId draw_from_all(float temperature, float top, double u);
  TokenId draw_from_some(const SamplingParams& p, float top, double u);
  void keep_top_k(int32_t k);
  void keep_top_p(float top_p);

  const int64_t vocab_size_;
  const std::vector<TokenId> eos_tokens_;
  std::vector<float> logits_;    // [vocab_size], after steps 1..4
  std::vector<float> weights_;   // [vocab_size] or of the candidates
  std::vector<int32_t> counts_;  // [vocab_size], all 0 between calls
  std::vector<Candidate> candidates_;
};

/// exp(x) for x <= 0; 0 below about -87. Relative error under 3e-7.
float exp_nonpositive(float x);

}  // namespace tailor::worker
