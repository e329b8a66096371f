// Encoders against values of `transformers` (tools/make_encoder_fixtures.py), and what batching,
// odd texts and damaged folders do.
#include "tie/model/encoder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "parallel/weights/default_model.h"

namespace tailor::tie {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::HasSubstr;

const std::string kFixtures = std::string(TAILOR_SOURCE_DIR) + "/tests/fixtures/encoder/";

std::unique_ptr<Encoder> load(const std::string& folder, int max_tokens = Encoder::kMaxTokens) {
  auto encoder = Encoder::load(folder, 1, max_tokens);
  EXPECT_TRUE(encoder.has_value()) << encoder.error().message;
  return encoder ? std::move(*encoder) : nullptr;
}

std::vector<float> encode(const Encoder& encoder, const std::vector<std::string>& prompts) {
  auto features = encoder.encode(prompts);
  EXPECT_TRUE(features.has_value()) << features.error().message;
  return features ? *features : std::vector<float>{};
}

double largest_difference(std::span<const float> a, std::span<const float> b) {
  EXPECT_EQ(a.size(), b.size());
  double most = 0;
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    const double off = std::abs(static_cast<double>(a[i]) - b[i]);
    most = std::isfinite(off) ? std::max(most, off) : INFINITY;
  }
  return most;
}

struct Fixture {
  std::vector<std::string> texts;
  std::vector<std::vector<TokenId>> token_ids;
  std::vector<std::vector<float>> features;
};

Fixture read_fixture(const std::string& name) {
  Fixture out;
  std::ifstream file(kFixtures + name + ".jsonl");
  for (std::string line; std::getline(file, line);) {
    const json entry = json::parse(line);
    out.texts.push_back(entry["text"]);
    out.token_ids.push_back(entry["token_ids"]);
    out.features.push_back(entry["features"]);
  }
  EXPECT_GE(out.texts.size(), 8u) << name;
  return out;
}

/// Tokens equal, features alone and in one batch within 1e-4 of transformers, 1e-5 of each other.
void expect_equal_to_transformers(const std::string& name, const std::string& folder) {
  const auto encoder = load(folder);
  ASSERT_TRUE(encoder);
  const Fixture expected = read_fixture(name);
  const std::vector<float> together = encode(*encoder, expected.texts);
  const auto width = static_cast<size_t>(encoder->feature_size());
  ASSERT_EQ(together.size(), expected.texts.size() * width);
  double off_most = 0, companions_most = 0;
  for (size_t i = 0; i < expected.texts.size(); ++i) {
    SCOPED_TRACE(name + ": " + expected.texts[i].substr(0, 40));
    const auto tokens = encoder->tokenize(expected.texts[i]);
    ASSERT_TRUE(tokens.has_value()) << tokens.error().message;
    EXPECT_EQ(*tokens, expected.token_ids[i]);
    const std::vector<float> alone = encode(*encoder, {expected.texts[i]});
    const auto row = std::span(together).subspan(i * width, width);
    const double off = largest_difference(alone, expected.features[i]);
    EXPECT_LT(off, 1e-4);
    EXPECT_LT(largest_difference(row, expected.features[i]), 1e-4);
    EXPECT_LT(largest_difference(row, alone), 1e-5);
    off_most = std::max(off_most, off);
    companions_most = std::max(companions_most, largest_difference(row, alone));
  }
  std::printf("%s: at most %.2e from transformers, %.2e by companions\n", name.c_str(), off_most,
              companions_most);
}

TEST(Encoder, BertEqualsTransformers) {
  expect_equal_to_transformers("bert_small", kFixtures + "bert_small");
}
TEST(Encoder, DebertaV3EqualsTransformers) {
  expect_equal_to_transformers("deberta_small", kFixtures + "deberta_small");
}
TEST(Encoder, DebertaWithOtherOptionsEqualsTransformers) {
  expect_equal_to_transformers("deberta_other_small", kFixtures + "deberta_other_small");
}
TEST(Encoder, MiniLmEqualsTransformers) {
  const auto folder = weights::resolve_encoder("minilm");
  if (!folder) GTEST_SKIP() << folder.error().message;
  expect_equal_to_transformers("minilm", *folder);
  const auto encoder = load(*folder);
  EXPECT_EQ(encoder->name(), "minilm");
  EXPECT_EQ(encoder->feature_size(), 3 * 384);
  EXPECT_EQ(encoder->max_tokens(), 512);
}

}  // namespace
}  // namespace tailor::tie
