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
//      u = Philox(seed, sample, position), parallel/philox.h
// Log-probabilities that are reported are of the model's own distribution: log-softmax of the
// logits as they came, before step 1.
//
// Nothing sorts the vocabulary: the largest logit of every 64 says where the best k can be, and
// sums of weights over every 64 say where a draw falls. Both come from parallel/cpu's kernels,
// whose exp is the same bits on every instruction set, so that a draw depends on no C library or
// CPU.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/messages.h"
#include "base/request.h"
#include "base/result.h"
#include "parallel/cpu/kernels_cpu.h"

namespace tailor::parallel {

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
    float weight;  ///< relative to the most likely
  };
  static bool changes_logits(const SamplingParams& p, std::span<const TokenId> emitted);
  void adjust(const Request& request, std::span<const TokenId> emitted);
  void fill_logprobs(std::span<const float> logits, TokenId chosen, int32_t count,
                     LogprobEntry& out);
  static bool better(const Candidate& a, const Candidate& b);  // higher logit, then lower id
  static bool lower_id(const Candidate& a, const Candidate& b);
  /// Of logits whose chunk maxima are known; `top` is the largest.
  TokenId first_of(std::span<const float> logits, float top) const;
  TokenId draw(const SamplingParams& p, std::span<const float> logits, float top, double u);
  TokenId draw_from_all(double u) const;
  void collect_top_k(std::span<const float> logits, int32_t k, float top, float factor);
  void collect_likely(std::span<const float> logits, float least);
  void keep_top_p(float top_p, double total);

  const int64_t vocab_size_;
  const std::vector<TokenId> eos_tokens_;
  const cpu::CpuKernels& kernels_;
  std::vector<float> logits_;   // [vocab_size], after steps 1..4, where they change anything
  std::vector<float> weights_;  // [vocab_size] or of the candidates
  std::vector<float> maxima_, sums_, best_maxima_;  // a chunk each
  std::vector<int32_t> counts_;                     // [vocab_size], all 0 between calls
  std::vector<Candidate> candidates_;
};

/// exp(x) for x <= 0; 0 below about -87. Relative error under 3e-7.
float exp_nonpositive(float x);

}  // namespace tailor::parallel
