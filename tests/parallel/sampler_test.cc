#include "parallel/sampler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <random>
#include <set>

#include "parallel/philox.h"

namespace tailor::parallel {
namespace {

// Known answers of the Random123 library (kat_vectors, philox 4x32 10).
TEST(Philox, AgreesWithThePublishedKnownAnswers) {
  using A4 = std::array<uint32_t, 4>;
  EXPECT_EQ(philox4x32({0, 0, 0, 0}, {0, 0}), (A4{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  constexpr uint32_t f = 0xffffffff;
  EXPECT_EQ(philox4x32({f, f, f, f}, {f, f}), (A4{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (A4{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Philox, UniformIsEvenAndDependsOnEachArgument) {
  int bins[16] = {};
  for (uint64_t i = 0; i < 16000; ++i) {
    double u = uniform(7, 0, i);
    ASSERT_GE(u, 0);
    ASSERT_LT(u, 1);
    ++bins[static_cast<int>(u * 16)];
  }
  double chi2 = 0;
  for (int b : bins) chi2 += (b - 1000.0) * (b - 1000.0) / 1000.0;
  EXPECT_LT(chi2, 37.7);  // 0.999 quantile, 15 degrees of freedom
  EXPECT_NE(uniform(7, 0, 1), uniform(8, 0, 1));
  EXPECT_NE(uniform(7, 0, 1), uniform(7, 1, 1));
  EXPECT_NE(uniform(7, 0, 1), uniform(7, 0, 2));
  EXPECT_NE(uniform(7, 0, 1), uniform(7 + (uint64_t{1} << 32), 0, 1));
}

TEST(Sampler, ExpIsCloseToTheRealOne) {
  double worst = 0;
  for (double x = 0; x > -86.9; x -= 0.00137) {
    double exact = std::exp(static_cast<double>(static_cast<float>(x)));
    worst = std::max(worst, std::abs(exp_nonpositive(static_cast<float>(x)) - exact) / exact);
  }
  EXPECT_LT(worst, 3e-7);
  EXPECT_EQ(exp_nonpositive(0), 1.0f);
  EXPECT_EQ(exp_nonpositive(-200), 0.0f);
  EXPECT_EQ(exp_nonpositive(-std::numeric_limits<float>::infinity()), 0.0f);
}

Request request_with(SamplingParams p, std::vector<TokenId> prompt = {1, 2, 3}) {
  Request r;
  r.id = RequestId{1};
  r.prompt = std::move(prompt);
  r.sampling = std::move(p);
  return r;
}

std::vector<float> random_logits(uint64_t seed, int64_t n, float spread) {
  std::mt19937_64 rng(seed);
  std::normal_distribution<float> normal(0, spread);
  std::vector<float> v(n);
  for (float& x : v) x = normal(rng);
  return v;
}

// The steps of sampler.h, written down one by one with full sorts.
struct Naive {
  int64_t vocab;
  std::vector<TokenId> eos;

  std::vector<float> adjusted(const Request& r, const std::vector<TokenId>& emitted,
                              std::vector<float> l) const {
    const SamplingParams& p = r.sampling;
    for (auto& [id, bias] : p.logit_bias) l[id] += bias;
    std::set<TokenId> seen(r.prompt.begin(), r.prompt.end());
    seen.insert(emitted.begin(), emitted.end());
    if (p.repetition_penalty != 1)
      for (TokenId id : seen)
        l[id] = l[id] > 0 ? l[id] / p.repetition_penalty : l[id] * p.repetition_penalty;
    std::map<TokenId, int> counts;
    for (TokenId id : emitted) ++counts[id];
    for (auto& [id, count] : counts)
      l[id] -= p.presence_penalty + p.frequency_penalty * static_cast<float>(count);
    const float never = -std::numeric_limits<float>::infinity();
    if (static_cast<int>(emitted.size()) < p.min_tokens) {
      if (!p.ignore_eos)
        for (TokenId id : eos) l[id] = never;
      for (TokenId id : p.stop_token_ids) l[id] = never;
    }
    return l;
  }

  TokenId sample(const Request& r, uint32_t sample, const std::vector<TokenId>& emitted,
                 const std::vector<float>& logits) const {
    const SamplingParams& p = r.sampling;
    std::vector<float> l = adjusted(r, emitted, logits);
    std::vector<TokenId> ids(vocab);
    std::iota(ids.begin(), ids.end(), 0);
    std::stable_sort(ids.begin(), ids.end(), [&](TokenId a, TokenId b) { return l[a] > l[b]; });
    if (p.temperature == 0) return ids[0];
    std::vector<float> w(vocab);
    const float inverse = std::min(1.0f / p.temperature, 1e30f);
    for (int64_t i = 0; i < vocab; ++i) w[i] = exp_nonpositive((l[i] - l[ids[0]]) * inverse);
    std::erase_if(ids, [&](TokenId id) { return w[id] == 0; });
    if (p.top_k > 0 && p.top_k < static_cast<int>(ids.size())) ids.resize(p.top_k);
    auto total_of = [&](std::vector<TokenId> v) {
      std::sort(v.begin(), v.end());
      double sum = 0;
      for (TokenId id : v) sum += w[id];
      return sum;
    };
    if (p.top_p < 1) {
      double wanted = static_cast<double>(p.top_p) * total_of(ids), share = 0;
      size_t keep = 0;
      while (keep < ids.size() && share < wanted) share += w[ids[keep++]];
      ids.resize(keep);
    }
    std::erase_if(ids, [&](TokenId id) { return w[id] < p.min_p; });
    double target = uniform(p.seed, sample, r.prompt.size() + emitted.size()) * total_of(ids),
           sum = 0;
    std::sort(ids.begin(), ids.end());
    for (TokenId id : ids)
      if ((sum += w[id]) > target) return id;
    return ids.back();
  }
};

class SamplerProperty : public testing::TestWithParam<int> {};

TEST_P(SamplerProperty, DrawsWhatTheNaiveSamplerDraws) {
  std::mt19937_64 rng(GetParam());
  auto below = [&](int n) { return static_cast<int>(rng() % n); };
  auto real = [&](double a, double b) {
    return static_cast<float>(a + (b - a) * (rng() % 10000) / 10000.0);
  };
  const int64_t vocab = 5 + below(3000);
  const std::vector<TokenId> eos = {static_cast<TokenId>(below(static_cast<int>(vocab)))};
  Sampler sampler(vocab, eos);
  Naive naive{vocab, eos};
  for (int round = 0; round < 60; ++round) {
    SamplingParams p;
    p.temperature = below(5) == 0 ? 0.0f : real(0.01, 3);
    if (below(2)) p.top_k = 1 + below(static_cast<int>(vocab) + 5);
    if (below(2)) p.top_p = real(0.01, 1);
    if (below(3) == 0) p.min_p = real(0, 0.5);
    if (below(2)) p.repetition_penalty = real(0.5, 2);
    if (below(2)) p.presence_penalty = real(-2, 2);
    if (below(2)) p.frequency_penalty = real(-2, 2);
    p.min_tokens = below(10);
    p.ignore_eos = below(2);
    p.seed = rng();
    for (int i = below(4); i > 0; --i)
      p.logit_bias.emplace_back(below(static_cast<int>(vocab)), real(-20, 20));
    if (below(2)) p.stop_token_ids.push_back(below(static_cast<int>(vocab)));
    std::vector<TokenId> prompt(1 + below(20)), emitted(below(20));
    for (TokenId& id : prompt) id = below(static_cast<int>(vocab));
    for (TokenId& id : emitted) id = below(static_cast<int>(vocab));
    auto logits = random_logits(rng(), vocab, real(0.1, 8));
    if (below(3) == 0)
      for (float& x : logits) x = std::round(x);  // many ties
    Request r = request_with(p, prompt);
    uint32_t sample = below(4);
    auto token = sampler.sample(r, sample, emitted, logits, nullptr);
    ASSERT_TRUE(token) << to_string(token.error());
    ASSERT_EQ(*token, naive.sample(r, sample, emitted, logits)) << "round " << round;
  }
}
INSTANTIATE_TEST_SUITE_P(Seeds, SamplerProperty, testing::Range(0, 40));

TEST(Sampler, GreedyTakesTheLowestIdOfEqualLogits) {
  Sampler s(6, {});
  SamplingParams p;
  p.temperature = 0;
  EXPECT_EQ(*s.sample(request_with(p), 0, {}, std::vector<float>{0, 3, 1, 3, 3, 2}, nullptr), 1);
}

TEST(Sampler, AVanishingTemperatureIsGreedy) {
  Sampler s(6, {});
  SamplingParams p;
  p.temperature = 1e-38f;
  for (uint64_t seed = 0; seed < 20; ++seed) {
    p.seed = seed;
    EXPECT_EQ(*s.sample(request_with(p), 0, {}, std::vector<float>{0, 1, 3, 2, 2.9f, -4}, nullptr),
              2);
  }
}

// Frequencies over fixed seeds against the exact distribution.
void expect_distribution(const SamplingParams& base, const std::vector<float>& logits,
                         const std::vector<double>& exact) {
  Sampler s(static_cast<int64_t>(logits.size()), {});
  const int draws = 40000;
  std::vector<int> seen(logits.size());
  SamplingParams p = base;
  for (int i = 0; i < draws; ++i) {
    p.seed = static_cast<uint64_t>(i) * 7919;
    ++seen[*s.sample(request_with(p), 0, {}, logits, nullptr)];
  }
  double chi2 = 0;
  int cells = 0;
  for (size_t i = 0; i < exact.size(); ++i) {
    if (exact[i] == 0) {
      EXPECT_EQ(seen[i], 0) << "token " << i << " was cut off";
      continue;
    }
    chi2 += std::pow(seen[i] - draws * exact[i], 2) / (draws * exact[i]);
    ++cells;
  }
  // 0.9999 quantile by Wilson and Hilferty.
  double k = cells - 1, z = 3.719,
         limit = k * std::pow(1 - 2 / (9 * k) + z * std::sqrt(2 / (9 * k)), 3);
  EXPECT_LT(chi2, limit);
}

std::vector<double> softmax(const std::vector<float>& l, double temperature) {
  std::vector<double> p;
  double sum = 0;
  for (float x : l) sum += p.emplace_back(std::exp(x / temperature));
  for (double& x : p) x /= sum;
  return p;
}

TEST(Sampler, FrequenciesFollowTheSoftmax) {
  auto logits = random_logits(3, 40, 1.0f);
  SamplingParams p;
  p.temperature = 0.7f;
  expect_distribution(p, logits, softmax(logits, 0.7f));
}

TEST(Sampler, TopPAndMinPCutAndRenormalize) {
  std::vector<float> logits = {std::log(0.1f), std::log(0.4f), std::log(0.3f), std::log(0.15f),
                               std::log(0.05f)};
  SamplingParams p;
  p.top_p = 0.8f;  // 0.4 + 0.3 + 0.15
  expect_distribution(p, logits, {0, 0.4 / 0.85, 0.3 / 0.85, 0.15 / 0.85, 0});
  p = {};
  p.min_p = 0.3f;  // at least 0.12
  expect_distribution(p, logits, {0, 0.4 / 0.85, 0.3 / 0.85, 0.15 / 0.85, 0});
  p = {};
  p.top_k = 2;
  expect_distribution(p, logits, {0, 0.4 / 0.7, 0.3 / 0.7, 0, 0});
}

TEST(Sampler, WorksOnALargeFlatVocabulary) {
  const int64_t vocab = 49152;
  Sampler s(vocab, {});
  Naive naive{vocab, {}};
  auto logits = random_logits(5, vocab, 0.05f);
  SamplingParams p;
  p.top_p = 0.95f;
  for (uint64_t seed = 0; seed < 5; ++seed) {
    p.seed = seed;
    EXPECT_EQ(*s.sample(request_with(p), 0, {}, logits, nullptr),
              naive.sample(request_with(p), 0, {}, logits));
  }
}

TEST(Sampler, NotANumberFailsTheSequenceAndLeavesNoTrace) {
  Sampler s(8, {});
  SamplingParams p;
  p.repetition_penalty = 1.5f;
  std::vector<float> good = {1, 2, 3, 4, 5, 6, 7, 8};
  auto before = s.sample(request_with(p), 0, {}, good, nullptr);
  for (float bad : {std::nanf(""), std::numeric_limits<float>::infinity(),
                    -std::numeric_limits<float>::infinity()}) {
    auto logits = good;
    logits[3] = bad;
    auto r = s.sample(request_with(p), 0, {}, logits, nullptr);
    ASSERT_FALSE(r);
    EXPECT_EQ(r.error().code, ErrorCode::kDeviceFailure);
  }
  EXPECT_EQ(*s.sample(request_with(p), 0, {}, good, nullptr), *before);
}

TEST(Sampler, NothingLeftToDrawIsAnErrorNotACrash) {
  Sampler s(2, {0});
  SamplingParams p;
  p.min_tokens = 5;
  p.stop_token_ids = {1};
  for (float temperature : {0.0f, 1.0f}) {
    p.temperature = temperature;
    auto r = s.sample(request_with(p, {0}), 0, {}, std::vector<float>{1, 2}, nullptr);
    ASSERT_FALSE(r);
    EXPECT_EQ(r.error().code, ErrorCode::kInvalidArgument);
  }
}

TEST(Sampler, EndTokensAreImpossibleBeforeMinTokens) {
  Sampler s(4, {2});
  SamplingParams p;
  p.temperature = 0;
  p.min_tokens = 2;
  p.stop_token_ids = {3};
  std::vector<float> logits = {0, 1, 9, 8};
  Request r = request_with(p, {0});
  EXPECT_EQ(*s.sample(r, 0, {}, logits, nullptr), 1);
  EXPECT_EQ(*s.sample(r, 0, std::vector<TokenId>{1}, logits, nullptr), 1);
  EXPECT_EQ(*s.sample(r, 0, std::vector<TokenId>{1, 1}, logits, nullptr), 2);
}

TEST(Sampler, LogprobsAreOfTheRawDistribution) {
  Sampler s(5, {});
  SamplingParams p;
  p.temperature = 0.3f;
  p.top_k = 1;
  p.logprobs = 3;
  p.logit_bias = {{4, 50.0f}};
  std::vector<float> logits = {1, 3, 2, 3, 0};
  LogprobEntry e;
  EXPECT_EQ(*s.sample(request_with(p), 0, {}, logits, &e), 4);
  auto exact = softmax(logits, 1);
  EXPECT_EQ(e.chosen.token, 4);
  EXPECT_NEAR(e.chosen.logprob, std::log(exact[4]), 1e-6);
  ASSERT_EQ(e.top.size(), 3u);
  EXPECT_EQ(e.top[0].token, 1);
  EXPECT_EQ(e.top[1].token, 3);
  EXPECT_EQ(e.top[2].token, 2);
  for (auto& t : e.top) EXPECT_NEAR(t.logprob, std::log(exact[t.token]), 1e-6);
}

TEST(Sampler, ADrawDoesNotDependOnWhatWasDrawnBefore) {
  const int64_t vocab = 500;
  auto make = [&](int i) {
    SamplingParams p;
    p.temperature = 0.9f;
    p.top_p = i % 2 ? 0.9f : 1.0f;
    p.repetition_penalty = 1.2f;
    p.frequency_penalty = 0.3f;
    p.seed = 100 + i;
    return request_with(p, {i, i + 1});
  };
  std::vector<TokenId> alone, together(8);
  for (int i = 0; i < 8; ++i) {
    Sampler fresh(vocab, {});
    alone.push_back(
        *fresh.sample(make(i), 0, std::vector<TokenId>{i}, random_logits(i, vocab, 2), nullptr));
  }
  Sampler shared(vocab, {});
  for (int i = 7; i >= 0; --i)
    together[i] =
        *shared.sample(make(i), 0, std::vector<TokenId>{i}, random_logits(i, vocab, 2), nullptr);
  EXPECT_EQ(alone, together);
}

}  // namespace
}  // namespace tailor::parallel
