// HashEngine: a small, exact implementation of the engine's face for tests of the loops. Its "KV"
// are the token ids themselves, kept in a paged pool by block and slot; the logits behind a row are
// a hash of all tokens that the row's block table leads back to. A wrong table, position, order or
// a block reused too early gives other tokens at once.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "comm/collective.h"
#include "parallel/synchronous_engine.h"

namespace tailor::worker::test {

inline constexpr int64_t kVocab = 64;
inline constexpr TokenId kEos = 0;
/// a prompt that begins with it gives NaN after `kPoisonAt` tokens
inline constexpr TokenId kPoison = 63;
inline constexpr size_t kPoisonAt = 12;
inline constexpr TokenId kBroken = 62;  ///< a prompt that begins with it breaks the device

inline uint64_t mix(uint64_t h, uint64_t v) {
  h ^= v + 0x9E3779B97F4A7C15ull + (h << 6) + (h >> 2);
  h ^= h >> 31;
  return h * 0xBF58476D1CE4E5B9ull;
}

inline uint64_t hash_of(const std::vector<TokenId>& tokens) {
  uint64_t h = 1;
  for (TokenId t : tokens) h = mix(h, static_cast<uint64_t>(t) + 17);
  return h;
}

inline std::vector<float> logits_of(const std::vector<TokenId>& tokens) {
  uint64_t h = hash_of(tokens);
  std::vector<float> logits(kVocab);
  for (int64_t v = 0; v < kVocab; ++v)
    logits[v] = static_cast<float>(mix(mix(h, v), 5) >> 44) * (6.0f / (1 << 20)) -
                (v == kEos ? 1.0f : 0.0f);
  if (tokens[0] == kPoison && tokens.size() >= kPoisonAt)
    logits[3] = std::numeric_limits<float>::quiet_NaN();
  return logits;
}

inline constexpr int64_t kLayers = 3, kHidden = 4;

/// The "hidden state" of the last of `tokens` after `layer` layers: [kHidden] numbers in [0, 1).
inline std::vector<float> hidden_of(const std::vector<TokenId>& tokens, int32_t layer) {
  std::vector<float> out;
  for (int64_t i = 0; i < kHidden; ++i)
    out.push_back(static_cast<float>(mix(mix(hash_of(tokens), layer), i) >> 44) / (1 << 20));
  return out;
}

class HashEngine : public parallel::SynchronousEngine {
 public:
  HashEngine(int32_t num_blocks, int32_t max_context, comm::Collective* collective)
      : SynchronousEngine({.info = {.name = "hash",
                                    .arithmetic_version = "hash-1",
                                    .vocab_size = kVocab,
                                    .num_layers = kLayers,
                                    .hidden_size = kHidden,
                                    .max_context = max_context,
                                    .num_blocks = num_blocks},
                           .max_rows = 1 << 20,
                           .leads = collective == nullptr || collective->rank() == 0,
                           .slots = 256,
                           .end_tokens = {kEos}}),
        collective_(collective),
        pool_(static_cast<size_t>(num_blocks) * 16, -1) {}

 private:
  Result<void> compute(const parallel::StepInput& input, std::span<float> logits,
                       const parallel::HiddenTaps& taps) override {
    for (const auto& c : input.chunks)
      for (int32_t i = 0; i < c.num_rows; ++i)
        slot(input, c, c.first_position + i) = input.token_ids[c.first_row + i];
    std::vector<uint64_t> hashes;
    size_t row = 0;
    for (const auto& c : input.chunks) {
      std::vector<TokenId> tokens;
      for (int32_t p = 0; p < c.first_position + c.num_rows; ++p)
        tokens.push_back(slot(input, c, p));
      if (tokens[0] == kBroken)
        return fail(ErrorCode::kDeviceFailure, "the test's device is broken");
      for (size_t i = 0; i < taps.rows.size(); ++i) {
        const int32_t behind = taps.rows[i] - c.first_row;
        if (behind < 0 || behind >= c.num_rows) continue;
        const std::vector<TokenId> seen(tokens.begin(),
                                        tokens.begin() + c.first_position + behind + 1);
        float* out = taps.out.data() + i * taps.layers.size() * kHidden;
        for (const int32_t layer : taps.layers) {
          const auto hidden = hidden_of(seen, layer);
          out = std::copy(hidden.begin(), hidden.end(), out);
        }
      }
      if (!c.wants_logits) continue;
      hashes.push_back(hash_of(tokens));
      if (logits.empty()) continue;
      auto l = logits_of(tokens);
      std::memcpy(logits.data() + row++ * kVocab, l.data(), kVocab * sizeof(float));
    }
    if (collective_ == nullptr || collective_->size() == 1) return {};
    // Every rank must have come to the same content.
    hashes.push_back(input.step);
    std::vector<uint64_t> all(hashes.size() * collective_->size());
    TAILOR_TRY(collective_->all_gather(std::as_bytes(std::span(hashes)),
                                       std::as_writable_bytes(std::span(all))));
    for (size_t i = 0; i < all.size(); ++i)
      if (all[i] != hashes[i % hashes.size()]) return fail(ErrorCode::kInternal, "ranks differ");
    return {};
  }

  TokenId& slot(const parallel::StepInput& input, const parallel::Chunk& c, int32_t position) {
    return pool_.at(static_cast<size_t>(input.block_ids.at(c.first_block + position / 16)) * 16 +
                    position % 16);
  }

  comm::Collective* collective_;
  std::vector<TokenId> pool_;
};

}  // namespace tailor::worker::test
