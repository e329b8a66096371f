// The device's sampler draws the very tokens of parallel/sampler.h, over several steps of slots
// that keep their state on the device, beside rows that fail, and in any order of threads.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>
#include <string>

#include "parallel/cuda/kernels.h"
#include "parallel/cuda/slot_state.h"
#include "parallel/sampler.h"
#include "tests/parallel/cuda/kernel_rig.h"
#include "tests/parallel/cuda/kernel_values.h"

namespace tailor::parallel::gpu {
namespace {

/// A sequence, as the host knows it.
struct Sequence {
  Request request;
  uint32_t sample = 0;
  std::vector<TokenId> emitted;
};

/// Slots on the device, and steps that draw for all of them.
class DeviceSampler {
 public:
  DeviceSampler(KernelRig& rig, int64_t vocab, const std::vector<TokenId>& end_tokens,
                const std::vector<Sequence>& sequences)
      : rig_(rig), count_(sequences.size()) {
    std::vector<SlotState> slots(count_);
    std::vector<int32_t> bias_ids(count_ * kMaxBiases, -1), stop_ids(count_ * kMaxStops, -1);
    std::vector<float> bias_values(count_ * kMaxBiases, poison<float>());
    for (size_t i = 0; i < count_; ++i) {
      const Sequence& s = sequences[i];
      slots[i] = slot_state(s.request, s.sample, static_cast<int64_t>(s.emitted.size()),
                            {std::span(bias_ids).subspan(i * kMaxBiases, kMaxBiases),
                             std::span(bias_values).subspan(i * kMaxBiases, kMaxBiases),
                             std::span(stop_ids).subspan(i * kMaxStops, kMaxStops)});
    }
    state_ = {.slots = rig.put(slots),
              .counts = rig.room<uint32_t>(count_ * static_cast<size_t>(vocab)),
              .bias_ids = rig.put(bias_ids),
              .bias_values = rig.put(bias_values),
              .stop_ids = rig.put(stop_ids),
              .end_tokens = rig.put(end_tokens),
              .num_end_tokens = static_cast<int32_t>(end_tokens.size()),
              .vocab = vocab};
    for (size_t i = 0; i < count_; ++i) {
      if (!slots[i].counts_tokens()) continue;
      const Sequence& s = sequences[i];
      std::vector<int32_t> tokens = s.request.prompt;
      tokens.insert(tokens.end(), s.emitted.begin(), s.emitted.end());
      EXPECT_TRUE(count_tokens(rig.stream(),
                               {.state = state_,
                                .slot = static_cast<int32_t>(i),
                                .tokens = rig.put(tokens),
                                .prompt_tokens = static_cast<int32_t>(s.request.prompt.size()),
                                .answer_tokens = static_cast<int32_t>(s.emitted.size())}));
    }
  }

  struct Drawn {
    std::vector<int32_t> tokens, status, top_ids;
    std::vector<float> chosen, top;
  };
  /// One token for each of `slots`, from their rows of `logits`.
  Drawn step(const std::vector<int32_t>& slots, const std::vector<float>& logits) {
    const auto vocab = static_cast<size_t>(state_.vocab);
    const size_t rows = slots.size();
    const Sampling call{
        .state = state_,
        .logits = rig_.put(logits),
        .slots = rig_.put(slots),
        .rows = static_cast<int64_t>(rows),
        .adjusted = rig_.room<float>(rows * vocab),
        .scratch = rig_.room<float>(rows * static_cast<size_t>(sampling_scratch(state_.vocab))),
        .drawn = rig_.room<int32_t>(rows),
        .status = rig_.room<int32_t>(rows),
        .chosen_logprob = rig_.room<float>(rows),
        .top_ids = rig_.room<int32_t>(rows * kMaxLogprobs),
        .top_logprobs = rig_.room<float>(rows * kMaxLogprobs)};
    EXPECT_TRUE(penalize(rig_.stream(), call));
    EXPECT_TRUE(draw(rig_.stream(), call));
    EXPECT_TRUE(log_probabilities(rig_.stream(), call));
    return {rig_.get(call.drawn, rows), rig_.get(call.status, rows),
            rig_.get(call.top_ids, rows * kMaxLogprobs), rig_.get(call.chosen_logprob, rows),
            rig_.get(call.top_logprobs, rows * kMaxLogprobs)};
  }
  std::vector<SlotState> slots() { return rig_.get(state_.slots, count_); }
  std::vector<uint32_t> counts() {
    return rig_.get(state_.counts, count_ * static_cast<size_t>(state_.vocab));
  }

 private:
  KernelRig& rig_;
  size_t count_;
  SamplerState state_;
};

class Chance {
 public:
  explicit Chance(uint64_t seed) : random_(seed) {}
  int below(int64_t n) { return static_cast<int>(random_() % static_cast<uint64_t>(n)); }
  float real(double a, double b) {
    return static_cast<float>(a + (b - a) * static_cast<double>(random_() % 10000) / 10000.0);
  }
  uint64_t word() { return random_(); }
  SamplingParams params(int64_t vocab) {
    SamplingParams p;
    p.temperature = below(5) == 0 ? 0.0f : real(0.01, 3);
    if (below(2)) p.top_k = 1 + below(vocab + 5);
    if (below(2)) p.top_p = real(0.01, 1);
    if (below(3) == 0) p.min_p = real(0, 0.5);
    if (below(2)) p.repetition_penalty = real(0.5, 2);
    if (below(2)) p.presence_penalty = real(-2, 2);
    if (below(2)) p.frequency_penalty = real(-2, 2);
    p.min_tokens = below(10);
    p.ignore_eos = below(2) != 0;
    p.seed = word();
    for (int i = below(4); i > 0; --i) p.logit_bias.emplace_back(below(vocab), real(-20, 20));
    if (below(2)) p.stop_token_ids.push_back(below(vocab));
    // A stop token that its bias would make likely.
    if (!p.stop_token_ids.empty() && below(2)) p.logit_bias.emplace_back(p.stop_token_ids[0], 30);
    p.logprobs = below(3) == 0 ? below(21) : -1;
    return p;
  }
  std::vector<float> logits(int64_t n) {
    const float spread = real(0.1, 8);
    std::normal_distribution<float> normal(0, spread);
    std::vector<float> values(static_cast<size_t>(n));
    for (float& value : values) value = normal(random_);
    if (below(3) == 0)
      for (float& value : values) value = std::round(value);  // many ties
    return values;
  }
  std::vector<TokenId> tokens(int64_t n, int64_t vocab) {
    std::vector<TokenId> ids(static_cast<size_t>(n));
    for (TokenId& id : ids) id = below(vocab);
    return ids;
  }
  std::mt19937_64& engine() { return random_; }

 private:
  std::mt19937_64 random_;
};

void expect_logprobs(const LogprobEntry& expected, const DeviceSampler::Drawn& found, size_t row) {
  ASSERT_NEAR(found.chosen[row], expected.chosen.logprob, 1e-5);
  for (size_t i = 0; i < expected.top.size(); ++i) {
    ASSERT_EQ(found.top_ids[row * kMaxLogprobs + i], expected.top[i].token) << "best " << i;
    ASSERT_NEAR(found.top[row * kMaxLogprobs + i], expected.top[i].logprob, 1e-5);
  }
}

class SamplerKernelsProperty : public testing::TestWithParam<int> {};

// 100 seeds of 4 steps with 5 to 8 rows: some 2,600 tokens.
TEST_P(SamplerKernelsProperty, DrawWhatTheSamplerDraws) {
  Chance chance(static_cast<uint64_t>(GetParam()) + 1);
  shuffle_threads(static_cast<uint64_t>(GetParam()));
  KernelRig& rig = KernelRig::shared();
  const int64_t vocab = GetParam() % 25 == 0 ? 1000 + chance.below(3000) : 5 + chance.below(300);
  const std::vector<TokenId> end_tokens = {static_cast<TokenId>(chance.below(vocab))};
  std::vector<Sequence> sequences(8);
  for (Sequence& s : sequences) {
    s.request.sampling = chance.params(vocab);
    s.request.prompt = chance.tokens(1 + chance.below(20), vocab);
    s.emitted = chance.tokens(chance.below(20), vocab);
    s.sample = static_cast<uint32_t>(chance.below(4));
  }
  DeviceSampler device(rig, vocab, end_tokens, sequences);
  Sampler host(vocab, end_tokens);
  for (int step = 0; step < 4; ++step) {
    std::vector<int32_t> slots(sequences.size());
    std::iota(slots.begin(), slots.end(), 0);
    std::shuffle(slots.begin(), slots.end(), chance.engine());
    slots.resize(static_cast<size_t>(5 + chance.below(4)));
    std::vector<float> logits;
    for (size_t i = 0; i < slots.size(); ++i) {
      const auto row = chance.logits(vocab);
      logits.insert(logits.end(), row.begin(), row.end());
    }
    const auto found = device.step(slots, logits);
    for (size_t i = 0; i < slots.size(); ++i) {
      Sequence& s = sequences[static_cast<size_t>(slots[i])];
      LogprobEntry logprobs;
      const auto token = host.sample(
          s.request, s.sample, s.emitted,
          std::span(logits).subspan(i * static_cast<size_t>(vocab), static_cast<size_t>(vocab)),
          &logprobs);
      ASSERT_TRUE(token) << to_string(token.error());
      ASSERT_EQ(found.status[i], kDrawn);
      ASSERT_EQ(found.tokens[i], *token)
          << "step " << step << ", row " << i << ", vocabulary " << vocab;
      if (s.request.sampling.logprobs >= 0) expect_logprobs(logprobs, found, i);
      s.emitted.push_back(*token);
    }
  }
  const auto slots = device.slots();
  const auto counts = device.counts();
  for (size_t i = 0; i < sequences.size(); ++i) {
    const Sequence& s = sequences[i];
    ASSERT_EQ(slots[i].emitted, static_cast<int32_t>(s.emitted.size()));
    ASSERT_EQ(slots[i].position, static_cast<int32_t>(s.request.prompt.size() + s.emitted.size()));
    if (!slots[i].counts_tokens()) continue;
    std::vector<uint32_t> expected(static_cast<size_t>(vocab));
    for (TokenId id : s.request.prompt) expected[static_cast<size_t>(id)] |= kInPrompt;
    for (TokenId id : s.emitted) ++expected[static_cast<size_t>(id)];
    const auto begin = counts.begin() + static_cast<int64_t>(i) * vocab;
    ASSERT_EQ(std::vector<uint32_t>(begin, begin + vocab), expected);
  }
}
#if defined(__SANITIZE_ADDRESS__)
constexpr int kSeeds = 30;  // each takes ten times as long
#else
constexpr int kSeeds = 100;
#endif
INSTANTIATE_TEST_SUITE_P(Seeds, SamplerKernelsProperty, testing::Range(0, kSeeds));

TEST(SamplerKernels, WorkOnALargeFlatVocabulary) {
  const int64_t vocab = 49155;  // the last chunk holds three
  KernelRig& rig = KernelRig::shared();
  Chance chance(5);
  std::vector<Sequence> sequences(6);
  for (size_t i = 0; i < sequences.size(); ++i) {
    SamplingParams& p = sequences[i].request.sampling;
    sequences[i].request.prompt = {1, 2};
    p.seed = i;
    if (i % 3 == 1) p.top_k = 3000;  // more than there are chunks
    if (i % 3 == 2) p.top_p = 0.95f;
  }
  std::vector<float> logits;
  std::normal_distribution<float> normal(0, 0.05f);
  for (size_t i = 0; i < sequences.size() * vocab; ++i) logits.push_back(normal(chance.engine()));
  DeviceSampler device(rig, vocab, {}, sequences);
  const auto found = device.step({0, 1, 2, 3, 4, 5}, logits);
  Sampler host(vocab, {});
  for (size_t i = 0; i < sequences.size(); ++i)
    EXPECT_EQ(found.tokens[i], *host.sample(sequences[i].request, 0, {},
                                            std::span(logits).subspan(i * vocab, vocab), nullptr));
}

TEST(SamplerKernels, ARowThatFailsChangesNothingAndHarmsNoOther) {
  const int64_t vocab = 130;
  KernelRig& rig = KernelRig::shared();
  Chance chance(9);
  std::vector<Sequence> sequences(5);
  for (Sequence& s : sequences) {
    s.request.prompt = {3};
    s.emitted = {4, 4};
    s.request.sampling.frequency_penalty = 0.5f;
  }
  SamplingParams& overflowing = sequences[2].request.sampling;
  overflowing.repetition_penalty = 0.01f;
  SamplingParams& impossible = sequences[3].request.sampling;
  impossible.min_tokens = 5;
  std::vector<TokenId> end_tokens(static_cast<size_t>(vocab));
  std::iota(end_tokens.begin(), end_tokens.end(), 0);
  std::vector<float> logits;
  for (int i = 0; i < 5; ++i) {
    const auto row = chance.logits(vocab);
    logits.insert(logits.end(), row.begin(), row.end());
  }
  logits[0 * vocab + 129] = std::nanf("");
  logits[1 * vocab + 7] = -std::numeric_limits<float>::infinity();
  logits[2 * vocab + 3] = 3e38f;
  DeviceSampler device(rig, vocab, end_tokens, sequences);
  const auto before = device.slots();
  const auto counts = device.counts();
  const auto found = device.step({0, 1, 2, 3, 4}, logits);
  EXPECT_EQ(found.status, (std::vector<int32_t>{kLogitNotFinite, kLogitNotFinite, kPenaltyOverflow,
                                                kNoTokenPossible, kDrawn}));
  for (int i = 0; i < 4; ++i) EXPECT_EQ(found.tokens[i], 0);
  Sampler host(vocab, end_tokens);
  EXPECT_EQ(found.tokens[4], *host.sample(sequences[4].request, 0, sequences[4].emitted,
                                          std::span(logits).subspan(4 * vocab, vocab), nullptr));
  const auto after = device.slots();
  for (int i = 0; i < 4; ++i) {
    EXPECT_EQ(after[i].emitted, before[i].emitted);
    EXPECT_EQ(after[i].position, before[i].position);
  }
  auto expected = counts;
  ++expected[4 * vocab + found.tokens[4]];
  EXPECT_EQ(device.counts(), expected);
}

TEST(SlotState, AddsUpBiasesOfOneToken) {
  Request request;
  request.prompt = {1, 2, 3};
  request.sampling.logit_bias = {{7, 1.0f}, {9, 2.0f}, {7, -4.0f}};
  request.sampling.stop_token_ids = {5};
  std::vector<int32_t> ids(kMaxBiases), stops(kMaxStops);
  std::vector<float> values(kMaxBiases);
  const SlotState slot = slot_state(request, 2, 4, {ids, values, stops});
  EXPECT_EQ(slot.num_biases, 2);
  EXPECT_EQ(ids[0], 7);
  EXPECT_EQ(values[0], -3.0f);
  EXPECT_EQ(ids[1], 9);
  EXPECT_EQ(slot.num_stops, 1);
  EXPECT_EQ(stops[0], 5);
  EXPECT_EQ(slot.position, 7);
  EXPECT_TRUE(slot.changes_logits());
  EXPECT_FALSE(slot.counts_tokens());
}

}  // namespace
}  // namespace tailor::parallel::gpu
