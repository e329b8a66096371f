#include "parallel/sampler.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <string>

#include "parallel/philox.h"

namespace tailor::parallel {
namespace {

using cpu::kVocabularyChunk;

constexpr float kImpossible = -std::numeric_limits<float>::infinity();

/// 1 / temperature; a temperature so small that this would overflow is as good as greedy.
float inverse(float temperature) { return std::min(1.0f / temperature, 1e30f); }

const cpu::CpuKernels& best_kernels() { return **cpu::cpu_kernels("auto"); }

std::vector<TokenId> within(std::vector<TokenId> ids, int64_t vocab_size) {
  std::erase_if(ids, [&](TokenId id) { return id < 0 || id >= vocab_size; });
  return ids;
}

}  // namespace

float exp_nonpositive(float x) {
  float out, sum;
  best_kernels().weigh(&x, 1, 0.0f, 1.0f, &out, &sum);
  return out;
}

Sampler::Sampler(int64_t vocab_size, std::vector<TokenId> eos_tokens)
    : vocab_size_(vocab_size),
      eos_tokens_(within(std::move(eos_tokens), vocab_size)),
      kernels_(best_kernels()),
      logits_(vocab_size),
      weights_(vocab_size),
      maxima_((vocab_size + kVocabularyChunk - 1) / kVocabularyChunk),
      sums_(maxima_.size()),
      best_maxima_(maxima_.size()),
      counts_(vocab_size, 0) {
  candidates_.reserve(vocab_size);
}

Result<TokenId> Sampler::sample(const Request& request, uint32_t sample,
                                std::span<const TokenId> emitted, std::span<const float> given,
                                LogprobEntry* logprobs) {
  if (!kernels_.chunk_maxima(given.data(), vocab_size_, maxima_.data())) {
    return fail(ErrorCode::kDeviceFailure,
                "the model gave a logit that is not a finite number for token " +
                    std::to_string(emitted.size()) + " of sample " + std::to_string(sample));
  }
  const SamplingParams& p = request.sampling;
  std::span<const float> logits = given;
  if (changes_logits(p, emitted)) {
    std::copy(given.begin(), given.end(), logits_.begin());
    adjust(request, emitted);
    kernels_.chunk_maxima(logits_.data(), vocab_size_, maxima_.data());
    logits = logits_;
  }

  const float top = *std::max_element(maxima_.begin(), maxima_.end());
  if (top == kImpossible)
    return fail(ErrorCode::kInvalidArgument,
                "min_tokens and stop_token_ids leave no token that may be drawn");
  if (!std::isfinite(top))
    return fail(ErrorCode::kDeviceFailure, "penalties made a logit infinite");

  const TokenId chosen =
      p.temperature == 0
          ? first_of(logits, top)
          : draw(p, logits, top, uniform(p.seed, sample, request.prompt.size() + emitted.size()));
  if (logprobs != nullptr && p.logprobs >= 0) fill_logprobs(given, chosen, p.logprobs, *logprobs);
  return chosen;
}

bool Sampler::changes_logits(const SamplingParams& p, std::span<const TokenId> emitted) {
  return !p.logit_bias.empty() || p.repetition_penalty != 1.0f || p.presence_penalty != 0 ||
         p.frequency_penalty != 0 || static_cast<int64_t>(emitted.size()) < p.min_tokens;
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

TokenId Sampler::first_of(std::span<const float> logits, float top) const {
  const auto chunk = std::find(maxima_.begin(), maxima_.end(), top) - maxima_.begin();
  const auto from = logits.begin() + chunk * kVocabularyChunk;
  return static_cast<TokenId>(std::find(from, logits.end(), top) - logits.begin());
}

TokenId Sampler::draw(const SamplingParams& p, std::span<const float> logits, float top, double u) {
  const float factor = inverse(p.temperature);
  double total = 0;
  if (p.top_k > 0 && p.top_k < vocab_size_) {
    collect_top_k(logits, p.top_k, top, factor);
    std::erase_if(candidates_, [](const Candidate& c) { return c.weight == 0; });
    for (const Candidate& c : candidates_) total += c.weight;
  } else {
    kernels_.weigh(logits.data(), vocab_size_, top, factor, weights_.data(), sums_.data());
    if (p.top_p >= 1 && p.min_p <= 0) return draw_from_all(u);
    for (float sum : sums_) total += sum;
    // Tokens that are each below half the share left over, spread over all, are not needed to reach
    // top_p.
    const double spare = p.top_p < 1 ? (1.0 - p.top_p) * total : 0.0;
    collect_likely(logits, std::max(static_cast<float>(0.5 * spare / vocab_size_), p.min_p));
  }
  if (p.top_p < 1) keep_top_p(p.top_p, total);
  if (p.min_p > 0)
    std::erase_if(candidates_, [&](const Candidate& c) { return c.weight < p.min_p; });

  std::sort(candidates_.begin(), candidates_.end(), lower_id);
  double left = 0;
  for (const Candidate& c : candidates_) left += c.weight;
  const double target = u * left;
  double sum = 0;
  for (const Candidate& c : candidates_) {
    sum += c.weight;
    if (sum > target) return c.id;
  }
  return candidates_.back().id;
}

TokenId Sampler::draw_from_all(double u) const {
  double total = 0;
  for (float sum : sums_) total += sum;
  const double target = u * total;
  double before = 0;
  size_t chunk = 0,
         last = 0;  // `last`: the last chunk that holds anything, should rounding pass it
  for (; chunk < sums_.size(); ++chunk) {
    if (sums_[chunk] > 0) last = chunk;
    if (before + sums_[chunk] > target) break;
    before += sums_[chunk];
  }
  chunk = std::min(chunk, last);
  const auto begin = static_cast<int64_t>(chunk) * kVocabularyChunk;
  const int64_t end = std::min(begin + kVocabularyChunk, vocab_size_);
  TokenId found = 0;
  for (int64_t id = begin; id < end; ++id) {
    if (weights_[id] == 0) continue;
    before += weights_[id];
    found = static_cast<TokenId>(id);
    if (before > target) break;
  }
  return found;
}

/// k chunks have a maximum of at least the k-th largest maximum, so the best k are no smaller.
void Sampler::collect_top_k(std::span<const float> logits, int32_t k, float top, float factor) {
  float least = kImpossible;
  if (static_cast<size_t>(k) < maxima_.size()) {
    std::copy(maxima_.begin(), maxima_.end(), best_maxima_.begin());
    std::nth_element(best_maxima_.begin(), best_maxima_.begin() + (k - 1), best_maxima_.end(),
                     std::greater<>());
    least = best_maxima_[k - 1];
  }
  candidates_.clear();
  for (size_t chunk = 0; chunk < maxima_.size(); ++chunk) {
    if (maxima_[chunk] < least) continue;
    const auto begin = static_cast<int64_t>(chunk) * kVocabularyChunk;
    const int64_t end = std::min(begin + kVocabularyChunk, vocab_size_);
    for (int64_t id = begin; id < end; ++id)
      if (logits[id] >= least) candidates_.push_back({logits[id], static_cast<TokenId>(id), 0});
  }
  if (static_cast<size_t>(k) < candidates_.size()) {
    std::nth_element(candidates_.begin(), candidates_.begin() + k, candidates_.end(), better);
    candidates_.resize(k);
    std::sort(candidates_.begin(), candidates_.end(), lower_id);
  }
  // logits_ may be what `logits` is: the candidates' own go where weights are kept.
  std::vector<float>& packed = weights_;
  for (size_t i = 0; i < candidates_.size(); ++i) packed[i] = candidates_[i].logit;
  kernels_.weigh(packed.data(), static_cast<int64_t>(candidates_.size()), top, factor,
                 packed.data(), sums_.data());
  for (size_t i = 0; i < candidates_.size(); ++i) candidates_[i].weight = packed[i];
}

/// All with a weight of at least `least`, and above 0, in order of ids.
void Sampler::collect_likely(std::span<const float> logits, float least) {
  candidates_.clear();
  for (size_t chunk = 0; chunk < sums_.size(); ++chunk) {
    if (sums_[chunk] < least || sums_[chunk] == 0) continue;  // none can be
    const auto begin = static_cast<int64_t>(chunk) * kVocabularyChunk;
    const int64_t end = std::min(begin + kVocabularyChunk, vocab_size_);
    for (int64_t id = begin; id < end; ++id)
      if (weights_[id] > 0 && weights_[id] >= least)
        candidates_.push_back({logits[id], static_cast<TokenId>(id), weights_[id]});
  }
}

bool Sampler::better(const Candidate& a, const Candidate& b) {
  return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
}
bool Sampler::lower_id(const Candidate& a, const Candidate& b) { return a.id < b.id; }

/// The share is taken in order of likelihood; only as much of a head as reaches it is sorted.
void Sampler::keep_top_p(float top_p, double total) {
  const double wanted = static_cast<double>(top_p) * total;
  size_t sorted = 0;
  double share = 0;
  for (size_t head = 64;; head *= 8) {
    size_t end = std::min(head, candidates_.size());
    if (end < candidates_.size())
      std::nth_element(candidates_.begin() + sorted, candidates_.begin() + end, candidates_.end(),
                       better);
    std::sort(candidates_.begin() + sorted, candidates_.begin() + end, better);
    for (; sorted < end; ++sorted) {
      share += candidates_[sorted].weight;
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
  kernels_.chunk_maxima(logits.data(), vocab_size_, maxima_.data());
  const float top = *std::max_element(maxima_.begin(), maxima_.end());
  kernels_.weigh(logits.data(), vocab_size_, top, 1.0f, weights_.data(), sums_.data());
  double total = 0;
  for (float sum : sums_) total += sum;
  const double log_total = std::log(total) + top;
  auto entry = [&](TokenId id) {
    return TokenLogprob{id, static_cast<float>(logits[id] - log_total)};
  };
  out.chosen = entry(chosen);
  out.top.clear();
  if (count == 0) return;

  collect_top_k(logits, count, top, 1.0f);
  std::sort(candidates_.begin(), candidates_.end(), better);
  for (const Candidate& c : candidates_) out.top.push_back(entry(c.id));
}

}  // namespace tailor::parallel
