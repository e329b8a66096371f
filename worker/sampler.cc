// Compiled with -O3 -ffp-contract=off (worker/CMakeLists.txt): loops over the vocabulary are
// vectorized, and no multiply-add is fused, so the bits are the same on every x86-64.
#include "worker/sampler.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <string>

#include "worker/philox.h"

namespace tailor::worker {
namespace {

constexpr float kImpossible = -std::numeric_limits<float>::infinity();

/// exp(x) = 2^n exp(r), n = round(x / ln 2), exp(r) by its series to r^6 (|r| <= 0.347).
inline float exp_step(float x) {
  x = x < -87.0f ? -87.0f : x;
  constexpr float kRound =
      12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer in the low bits
  float shifted = x * 1.44269504f + kRound;
  float n = shifted - kRound;
  float r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
  float p = 1.3888889e-3f;
  p = p * r + 8.3333333e-3f;
  p = p * r + 4.1666667e-2f;
  p = p * r + 1.6666667e-1f;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  int32_t exponent = std::bit_cast<int32_t>(shifted) - std::bit_cast<int32_t>(kRound);
  float scale = std::bit_cast<float>((exponent + 127) << 23);
  return p * scale;
}

/// weights[i] = exp((logits[i] - top) * inverse_temperature), exactly 0 where that is below e^-87.
void weigh(std::span<const float> logits, float top, float inverse_temperature,
           std::span<float> weights) {
  const float* in = logits.data();
  float* out = weights.data();
  const size_t n = logits.size();
  for (size_t i = 0; i < n; ++i) {
    float x = (in[i] - top) * inverse_temperature;
    float w = exp_step(x);
    out[i] = x < -87.0f ? 0.0f : w;
  }
}

float highest(std::span<const float> v) {
  float top = kImpossible;
  for (float x : v) top = x > top ? x : top;
  return top;
}

bool all_finite(std::span<const float> v) {
  uint32_t bad = 0;
  for (float x : v) bad |= (std::bit_cast<uint32_t>(x) & 0x7f800000u) == 0x7f800000u;
  return bad == 0;
}

/// 1 / temperature; a temperature so small that this would overflow is as good as greedy.
float inverse(float temperature) { return std::min(1.0f / temperature, 1e30f); }

std::vector<TokenId> within(std::vector<TokenId> ids, int64_t vocab_size) {
  std::erase_if(ids, [&](TokenId id) { return id < 0 || id >= vocab_size; });
  return ids;
}

}  // namespace

float exp_nonpositive(float x) { return x < -87.0f ? 0.0f : exp_step(x); }

Sampler::Sampler(int64_t vocab_size, std::vector<TokenId> eos_tokens)
    : vocab_size_(vocab_size),
      eos_tokens_(within(std::move(eos_tokens), vocab_size)),
      logits_(vocab_size),
      weights_(vocab_size),
      counts_(vocab_size, 0) {
  candidates_.reserve(vocab_size);
}

Result<TokenId> Sampler::sample(const Request& request, uint32_t sample,
                                std::span<const TokenId> emitted, std::span<const float> logits,
                                LogprobEntry* logprobs) {
  if (!all_finite(logits)) {
    return fail(ErrorCode::kDeviceFailure,
                "the model gave a logit that is not a finite number for token " +
                    std::to_string(emitted.size()) + " of sample " + std::to_string(sample));
  }
  const SamplingParams& p = request.sampling;
  std::copy(logits.begin(), logits.end(), logits_.begin());
  adjust(request, emitted);

  const float top = highest(logits_);
  if (top == kImpossible)
    return fail(ErrorCode::kInvalidArgument,
                "min_tokens and stop_token_ids leave no token that may be drawn");
  if (!std::isfinite(top))
    return fail(ErrorCode::kDeviceFailure, "penalties made a logit infinite");

  TokenId chosen;
  if (p.temperature == 0) {
    chosen =
        static_cast<TokenId>(std::max_element(logits_.begin(), logits_.end()) - logits_.begin());
  } else {
    double u = uniform(p.seed, sample, request.prompt.size() + emitted.size());
    bool truncated = p.top_k > 0 || p.top_p < 1 || p.min_p > 0;
    chosen = truncated ? draw_from_some(p, top, u) : draw_from_all(p.temperature, top, u);
  }
  if (logprobs != nullptr && p.logprobs >= 0) fill_logprobs(logits, chosen, p.logprobs, *logprobs);
  return chosen;
}

void Sampler::adjust(const Request& request, std::span<const TokenId> emitted) {
  const SamplingParams& p = request.sampling;
  for (const auto& [id, bias] : p.logit_bias) logits_[id] += bias;

  if (p.repetition_penalty != 1.0f) {
    auto penalize = [&](std::span<const TokenId> ids) {
      for (TokenId id : ids) {
        if (counts_[id]++ != 0) continue;  // once per id
        float& l = logits_[id];
        l = l > 0 ? l / p.repetition_penalty : l * p.repetition_penalty;
      }
    };
    penalize(request.prompt);
    penalize(emitted);
    for (TokenId id : request.prompt) counts_[id] = 0;
    for (TokenId id : emitted) counts_[id] = 0;
  }
  if (p.presence_penalty != 0 || p.frequency_penalty != 0) {
    for (TokenId id : emitted) ++counts_[id];
    for (TokenId id : emitted) {
      if (counts_[id] == 0) continue;
      logits_[id] -= p.presence_penalty + p.frequency_penalty * static_cast<float>(counts_[id]);
      counts_[id] = 0;
    }
  }
  if (static_cast<int64_t>(emitted.size()) < p.min_tokens) {
    if (!p.ignore_eos)
      for (TokenId id : eos_tokens_) logits_[id] = kImpossible;
    for (TokenId id : p.stop_token_ids) logits_[id] = kImpossible;
  }
}

TokenId Sampler::draw_from_all(float temperature, float top, double u) {
  weigh(logits_, top, inverse(temperature), weights_);
  double total = 0;
  for (float w : weights_) total += w;
  const double target = u * total;
  double sum = 0;
  TokenId last = 0;
  for (int64_t id = 0; id < vocab_size_; ++id) {
    if (weights_[id] == 0) continue;
    sum += weights_[id];
    last = static_cast<TokenId>(id);
    if (sum > target) break;
  }
  return last;
}

TokenId Sampler::draw_from_some(const SamplingParams& p, float top, double u) {
  weigh(logits_, top, inverse(p.temperature), weights_);
  candidates_.clear();
  for (int64_t id = 0; id < vocab_size_; ++id)
    if (weights_[id] > 0) candidates_.push_back({logits_[id], static_cast<TokenId>(id)});
  if (p.top_k > 0) keep_top_k(p.top_k);
  if (p.top_p < 1) keep_top_p(p.top_p);
  if (p.min_p > 0)
    std::erase_if(candidates_, [&](const Candidate& c) { return weights_[c.id] < p.min_p; });

  std::sort(candidates_.begin(), candidates_.end(), lower_id);
  double total = 0;
  for (const Candidate& c : candidates_) total += weights_[c.id];
  const double target = u * total;
  double sum = 0;
  for (const Candidate& c : candidates_) {
    sum += weights_[c.id];
    if (sum > target) return c.id;
  }
  return candidates_.back().id;
}

bool Sampler::better(const Candidate& a, const Candidate& b) {
  return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
}
bool Sampler::lower_id(const Candidate& a, const Candidate& b) { return a.id < b.id; }

void Sampler::keep_top_k(int32_t k) {
  if (static_cast<size_t>(k) >= candidates_.size()) return;
  std::nth_element(candidates_.begin(), candidates_.begin() + k, candidates_.end(), better);
  candidates_.resize(k);
}

/// The sum over the candidates is taken in order of ids, the share in order of likelihood: both the
/// same whatever was dropped on the way.
void Sampler::keep_top_p(float top_p) {
  // After top_k the order is nth_element's: put it back.
  if (!std::is_sorted(candidates_.begin(), candidates_.end(), lower_id))
    std::sort(candidates_.begin(), candidates_.end(), lower_id);
  double total = 0;
  for (const Candidate& c : candidates_) total += weights_[c.id];
  const double wanted = static_cast<double>(top_p) * total;

  // Those that are each below half the share left over, spread over all, can not be needed to reach
  // top_p.
  const double floor = 0.5 * (total - wanted) / static_cast<double>(candidates_.size());
  std::erase_if(candidates_, [&](const Candidate& c) { return weights_[c.id] < floor; });

  size_t sorted = 0;
  double share = 0;
  for (size_t head = 64;; head *= 8) {
    size_t end = std::min(head, candidates_.size());
    if (end < candidates_.size())
      std::nth_element(candidates_.begin() + sorted, candidates_.begin() + end, candidates_.end(),
                       better);
    std::sort(candidates_.begin() + sorted, candidates_.begin() + end, better);
    for (; sorted < end; ++sorted) {
      share += weights_[candidates_[sorted].id];
      if (share >= wanted) {
        candidates_.resize(sorted + 1);
        return;
      }
    }
    if (end == candidates_.size()) return;
  }
}

void Sampler::fill_logprobs(std::span<const float> logits, TokenId chosen, int32_t count,
                            LogprobEntry& out) {
  const float top = highest(logits);
  weigh(logits, top, 1.0f, weights_);
  double total = 0;
  for (float w : weights_) total += w;
  const double log_total = std::log(total) + top;
  auto entry = [&](TokenId id) {
    return TokenLogprob{id, static_cast<float>(logits[id] - log_total)};
  };
  out.chosen = entry(chosen);
  out.top.clear();
  if (count == 0) return;

  candidates_.clear();  // a heap of the best so far, the worst of them in front
  for (int64_t id = 0; id < vocab_size_; ++id) {
    Candidate c{logits[id], static_cast<TokenId>(id)};
    if (static_cast<int32_t>(candidates_.size()) < count) {
      candidates_.push_back(c);
      std::push_heap(candidates_.begin(), candidates_.end(), better);
    } else if (better(c, candidates_.front())) {
      std::pop_heap(candidates_.begin(), candidates_.end(), better);
      candidates_.back() = c;
      std::push_heap(candidates_.begin(), candidates_.end(), better);
    }
  }
  std::sort_heap(candidates_.begin(), candidates_.end(), better);
  for (const Candidate& c : candidates_) out.top.push_back(entry(c.id));
}

}  // namespace tailor::worker
