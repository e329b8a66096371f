#include "predict/length_head.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>
#include <random>

namespace tailor::predict {
namespace {

using testing::HasSubstr;

HeadLinear random_linear(int inputs, int outputs, std::mt19937& rng) {
  std::normal_distribution<float> normal(0, 0.3f);
  HeadLinear layer{inputs, outputs, {}, {}};
  for (int i = 0; i < inputs * outputs; ++i) layer.weight.push_back(normal(rng));
  for (int i = 0; i < outputs; ++i) layer.bias.push_back(normal(rng));
  return layer;
}

HeadWeights random_head(bool histogram, int members = 2) {
  std::mt19937 rng(5);
  HeadWeights w;
  w.info = {.kind = "prompt", .encoder = "lexical", .model_fingerprint = "f", .model_name = "m"};
  w.info.input_size = 6;
  w.info.population = {.kind = LengthLaw::Kind::kLogT, .mu = 5, .sigma = 1.25f};
  w.info.trained_on = "a \"quoted\" set";
  w.mean = {0, 1, 2, 3, 4, 5};
  w.deviation = {1, 2, 1, 2, 1, 2};
  for (int m = 0; m < members; ++m) {
    HeadMember& member = w.members.emplace_back();
    HeadTrunkLayer trunk{random_linear(6, 8, rng), std::vector<float>(8, 1.1f),
                         std::vector<float>(8, 0.1f)};
    member.trunk.push_back(trunk);
    if (histogram) {
      member.bins = {random_linear(8, LengthLaw::kBins, rng)};
    } else {
      member.mu = {random_linear(8, 4, rng), random_linear(4, 1, rng)};
      member.sigma = {random_linear(8, 4, rng), random_linear(4, 1, rng)};
    }
  }
  w.target_mean = {5, 0.4};
  w.target_deviation = {1, 0.2};
  w.low = 1;
  w.high = 1024;
  return w;
}

std::string scratch(const std::string& name) {
  return testing::TempDir() + "length_head_test_" + std::to_string(getpid()) + "_" + name;
}

constexpr std::array<float, 6> kFeatures = {0.3f, -1, 2.5f, 4, 3.5f, 9};

// The arithmetic of the header, written down once more in double and by rows.
std::vector<double> slow_forward(const HeadWeights& w, const HeadMember& member,
                                 const std::vector<HeadLinear>& stack) {
  const auto linear = [](const HeadLinear& l, const std::vector<double>& x) {
    std::vector<double> y(l.bias.begin(), l.bias.end());
    for (int o = 0; o < l.outputs; ++o)
      for (int i = 0; i < l.inputs; ++i)
        y[o] += static_cast<double>(l.weight[o * l.inputs + i]) * x[i];
    return y;
  };
  const auto gelu = [](double x) { return x * 0.5 * std::erfc(-x / std::sqrt(2.0)); };
  std::vector<double> x;
  for (size_t i = 0; i < kFeatures.size(); ++i)
    x.push_back((static_cast<double>(kFeatures[i]) - w.mean[i]) / w.deviation[i]);
  for (const HeadTrunkLayer& layer : member.trunk) {
    x = linear(layer.linear, x);
    double mean = 0, var = 0;
    for (const double v : x) mean += v / static_cast<double>(x.size());
    for (const double v : x) var += (v - mean) * (v - mean) / static_cast<double>(x.size());
    for (size_t i = 0; i < x.size(); ++i)
      x[i] =
          gelu((x[i] - mean) / std::sqrt(var + 1e-5) * layer.norm_weight[i] + layer.norm_bias[i]);
  }
  for (size_t i = 0; i < stack.size(); ++i) {
    x = linear(stack[i], x);
    if (i + 1 < stack.size())
      for (double& v : x) v = gelu(v);
  }
  return x;
}

TEST(LengthHead, PredictsWhatItsHeaderSays) {
  HeadWeights w = random_head(false);
  w.recalibration = {.mu_scale = 0.8,
                     .mu_shift = 1.1,
                     .sigma_scale = 0.9,
                     .sigma_shift = -0.2,
                     .error_variance = 0.3};
  double a = 0, b = 0;
  for (const HeadMember& member : w.members) {
    a += slow_forward(w, member, member.mu)[0] / 2;
    b += slow_forward(w, member, member.sigma)[0] / 2;
  }
  const double sigma = std::exp(0.4 + 0.2 * b) - 1;
  const double own = std::exp(0.9 * std::log(sigma) - 0.2);
  const auto head = LengthHead::make(w);
  ASSERT_TRUE(head) << head.error().message;
  const LengthLaw law = head->predict(kFeatures);
  EXPECT_EQ(law.kind, LengthLaw::Kind::kLogT);
  EXPECT_NEAR(law.mu, 0.8 * (5 + a) + 1.1, 1e-4);
  EXPECT_NEAR(law.sigma, std::sqrt(own * own + 0.3 * 1.5 / 3.5), 1e-4);
  EXPECT_FLOAT_EQ(law.nu, 3.5f);
}

TEST(LengthHead, HistogramIsTheMeanOfItsMembersSoftmax) {
  HeadWeights w = random_head(true);
  w.recalibration.temperature = 1.7;
  std::vector<double> expected(LengthLaw::kBins);
  for (const HeadMember& member : w.members) {
    std::vector<double> logits = slow_forward(w, member, member.bins);
    double sum = 0;
    for (double& v : logits) sum += v = std::exp(v / 1.7);
    for (int i = 0; i < LengthLaw::kBins; ++i) expected[i] += logits[i] / sum / 2;
  }
  const LengthLaw law = LengthHead::make(w)->predict(kFeatures);
  EXPECT_EQ(law.kind, LengthLaw::Kind::kHistogram);
  EXPECT_EQ(law.high, 1024);
  for (int i = 0; i < LengthLaw::kBins; ++i) EXPECT_NEAR(law.bins[i], expected[i], 1e-5);
}

TEST(LengthHead, ALinearHeadReadsTheFeaturesThemselves) {
  HeadWeights w = random_head(false, 1);
  std::mt19937 rng(9);
  w.members[0] = {};
  w.members[0].mu = {random_linear(6, 1, rng)};
  w.members[0].sigma = {random_linear(6, 1, rng)};
  const double a = slow_forward(w, w.members[0], w.members[0].mu)[0];
  EXPECT_NEAR(LengthHead::make(w)->predict(kFeatures).mu, 5 + a, 1e-4);
}

TEST(LengthHead, SavedAndLoadedPredictsTheSame) {
  for (const bool histogram : {false, true}) {
    HeadWeights w = random_head(histogram);
    w.info.kind = "remaining";
    w.info.layer = 22;
    w.info.takes_generated = true;
    w.recalibration.error_variance = 0.123456789012345;
    const std::string path = scratch("round.safetensors");
    ASSERT_TRUE(save_head(w, path));
    const auto loaded = LengthHead::load(path);
    ASSERT_TRUE(loaded) << loaded.error().message;
    EXPECT_EQ(loaded->predict(kFeatures), LengthHead::make(w)->predict(kFeatures));
    EXPECT_EQ(loaded->info().kind, "remaining");
    EXPECT_EQ(loaded->info().layer, 22);
    EXPECT_TRUE(loaded->info().takes_generated);
    EXPECT_EQ(loaded->info().trained_on, "a \"quoted\" set");
    EXPECT_EQ(loaded->info().population, w.info.population);
    EXPECT_EQ(loaded->weights().recalibration.error_variance, 0.123456789012345);
    std::filesystem::remove(path);
  }
}

TEST(LengthHead, FeaturesThatAreNoneGiveThePopulation) {
  const auto head = LengthHead::make(random_head(false));
  std::array<float, 6> features = kFeatures;
  features[3] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(head->predict(features), head->info().population);
  features[3] = std::numeric_limits<float>::infinity();
  EXPECT_EQ(head->predict(features), head->info().population);
  EXPECT_EQ(head->predict(std::span(kFeatures).first(5)), head->info().population);
  features[3] = 1e30f;  // finite, absurd: held to the limit, still a law
  EXPECT_NE(head->predict(features), head->info().population);
}

TEST(LengthHead, DamagedFilesAreNamedInOneSentence) {
  const auto load_with = [](auto change) {
    HeadWeights w = random_head(false);
    change(w);
    const std::string path = scratch("damaged.safetensors");
    EXPECT_TRUE(save_head(w, path));
    const auto head = LengthHead::load(path);
    std::filesystem::remove(path);
    return head ? std::string("loaded") : head.error().message;
  };
  EXPECT_EQ(load_with([](HeadWeights&) {}), "loaded");
  EXPECT_THAT(load_with([](HeadWeights& w) { w.members[1].mu[0].weight[3] = NAN; }),
              HasSubstr("m1.mu.0: expected finite numbers"));
  EXPECT_THAT(load_with([](HeadWeights& w) { w.deviation[2] = 0; }),
              HasSubstr("deviation above 0"));
  EXPECT_THAT(load_with([](HeadWeights& w) { w.members[0].mu.clear(); }),
              HasSubstr("m0.mu: expected"));
  EXPECT_THAT(load_with([](HeadWeights& w) { w.info.nu = 0; }), HasSubstr("nu above 0.5"));
  EXPECT_THAT(load_with([](HeadWeights& w) {
                w.members[0].trunk[0].linear =
                    HeadLinear{5, 8, std::vector<float>(40), std::vector<float>(8)};
              }),
              HasSubstr("m0.trunk.0: expected a layer of 6 inputs"));

  const std::string path = scratch("cut.safetensors");
  ASSERT_TRUE(save_head(random_head(false), path));
  std::filesystem::resize_file(path, std::filesystem::file_size(path) - 100);
  const auto cut = LengthHead::load(path);
  ASSERT_FALSE(cut);
  EXPECT_EQ(cut.error().code, ErrorCode::kDataLoss);
  std::ofstream(path) << "no head";
  EXPECT_FALSE(LengthHead::load(path));
  std::filesystem::remove(path);
  const auto missing = LengthHead::load(path);
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().code, ErrorCode::kNotFound);
}

}  // namespace
}  // namespace tailor::predict
