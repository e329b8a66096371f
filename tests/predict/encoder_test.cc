// Encoders against values of `transformers` (tools/make_encoder_fixtures.py), and what batching,
// odd texts and damaged folders do.
#include "predict/model/encoder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "weights/default_model.h"

namespace tailor::predict {
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

TEST(Encoder, OddTextsAreNoErrors) {
  for (const char* name : {"bert_small", "deberta_small"}) {
    const auto encoder = load(kFixtures + name);
    const std::vector<std::string> odd = {"",
                                          " \n\t ",
                                          std::string("\0\0", 2),
                                          "\xff\xfe caf\xc3",
                                          "\xed\xa0\x80",
                                          "שלום नमस्ते สวัสดี",
                                          std::string(3'000'000, 'a'),
                                          std::string(3'000'000, '\xe2')};
    const std::vector<float> features = encode(*encoder, odd);
    EXPECT_EQ(features.size(), odd.size() * static_cast<size_t>(encoder->feature_size()));
    for (const float value : features) ASSERT_TRUE(std::isfinite(value));
    // Bytes that are no UTF-8 read as U+FFFD.
    EXPECT_EQ(*encoder->tokenize("a \xff b"), *encoder->tokenize("a \xef\xbf\xbd b"));
    EXPECT_EQ(*encoder->tokenize(""), (std::vector<TokenId>{1, 2}));
  }
}

TEST(Encoder, NoPromptsGiveNoFeatures) {
  EXPECT_TRUE(encode(*load(kFixtures + "bert_small"), {}).empty());
}

TEST(Encoder, TruncationKeepsTheSpecialTokens) {
  const auto whole = load(kFixtures + "bert_small"), short_one = load(kFixtures + "bert_small", 8);
  EXPECT_EQ(whole->max_tokens(), 96);  // the position table of this model
  EXPECT_EQ(short_one->max_tokens(), 8);
  const std::string text = "what is the capital of france what is the capital";
  const std::vector<TokenId> all = *whole->tokenize(text), cut = *short_one->tokenize(text);
  ASSERT_EQ(all.size(), 12u);
  ASSERT_EQ(cut.size(), 8u);
  EXPECT_TRUE(std::equal(cut.begin(), cut.end() - 1, all.begin()));
  EXPECT_EQ(cut.back(), all.back());
  EXPECT_EQ(whole->tokenize(std::string(5000, '.'))->size(), 96u);
}

TEST(Encoder, OrderAndCompanionsDoNotMatter) {
  const auto encoder = load(kFixtures + "deberta_small");
  std::vector<std::string> prompts;
  for (int i = 0; i < 60; ++i) prompts.push_back(std::string(static_cast<size_t>(i * i % 97), 'b'));
  const std::vector<float> forward = encode(*encoder, prompts);
  std::vector<std::string> reversed(prompts.rbegin(), prompts.rend());
  const std::vector<float> backward = encode(*encoder, reversed);
  const auto width = static_cast<size_t>(encoder->feature_size());
  for (size_t i = 0; i < prompts.size(); ++i) {
    const auto there = std::span(forward).subspan(i * width, width);
    const auto back = std::span(backward).subspan((prompts.size() - 1 - i) * width, width);
    EXPECT_LT(largest_difference(there, back), 1e-5) << i;
    EXPECT_LT(largest_difference(there, encode(*encoder, {prompts[i]})), 1e-5) << i;
  }
}

/// A copy of a small model's folder whose files a test may break.
class DamagedEncoder : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::path(testing::TempDir()) /
              ("encoder_" + std::to_string(getpid()) + "_" +
               testing::UnitTest::GetInstance()->current_test_info()->name());
    fs::remove_all(folder_);
    fs::copy(kFixtures + "deberta_small", folder_, fs::copy_options::recursive);
  }
  void TearDown() override { fs::remove_all(folder_); }

  void set(const std::string& option, const json& value) {
    std::ifstream in(folder_ / "config.json");
    json config = json::parse(in);
    config[option] = value;
    std::ofstream(folder_ / "config.json") << config;
  }
  std::string error() {
    const auto encoder = Encoder::load(folder_.string(), 1);
    return encoder ? "" : encoder.error().message;
  }

  fs::path folder_;
};

TEST_F(DamagedEncoder, OptionsThatAreNotComputedAreNamed) {
  EXPECT_EQ(error(), "");
  const std::vector<std::pair<std::string, json>> options = {
      {"conv_kernel_size", 3}, {"hidden_act", "mish"},    {"norm_rel_ebd", "batch_norm"},
      {"pos_att_type", "p2p"}, {"model_type", "roberta"}, {"num_attention_heads", 5},
      {"hidden_size", "32"},   {"num_hidden_layers", 0},  {"relative_attention", 1},
      {"position_buckets", 3}, {"layer_norm_eps", -1},    {"vocab_size", -4},
      {"pos_att_type", {1, 2}}};
  for (const auto& [option, value] : options) {
    SetUp();
    set(option, value);
    EXPECT_THAT(error(), HasSubstr("config.json: " + option + ": expected")) << value;
  }
}

TEST_F(DamagedEncoder, TensorsThatDoNotFitAreNamed) {
  set("intermediate_size", 65);
  EXPECT_THAT(error(), HasSubstr("intermediate.dense.weight: expected [65, 32]"));
  set("intermediate_size", 64);
  set("num_hidden_layers", 3);
  EXPECT_THAT(error(), HasSubstr("no tensor encoder.layer.2.attention.self.query_proj.weight"));
}

TEST_F(DamagedEncoder, FilesThatAreMissingAreNamed) {
  fs::remove(folder_ / "tokenizer.json");
  EXPECT_THAT(error(), HasSubstr("no " + (folder_ / "tokenizer.json").string()));
  fs::remove(folder_ / "model.safetensors");
  EXPECT_THAT(error(), HasSubstr("model.safetensors"));
  fs::remove(folder_ / "config.json");
  EXPECT_THAT(error(), HasSubstr("config.json"));
}

TEST_F(DamagedEncoder, ATokenizerOfAnotherModelIsRefused) {
  set("vocab_size", 115);
  std::ifstream in(folder_ / "tokenizer.json");
  json tokenizer = json::parse(in);
  tokenizer["post_processor"] = nullptr;
  std::ofstream(folder_ / "tokenizer.json") << tokenizer;
  EXPECT_THAT(error(), HasSubstr("[CLS] before and [SEP] behind"));
  const auto folder = weights::resolve_encoder("minilm");
  if (!folder) GTEST_SKIP() << folder.error().message;
  fs::copy(*folder + "/tokenizer.json", folder_ / "tokenizer.json",
           fs::copy_options::overwrite_existing);
  EXPECT_THAT(error(), HasSubstr("expected at most 115 tokens"));
}

TEST(Encoder, AnEncoderThatIsNotThereIsNamed) {
  const auto folder = weights::resolve_encoder("/nowhere/at/all");
  ASSERT_FALSE(folder.has_value());
  EXPECT_THAT(folder.error().message, HasSubstr("/nowhere/at/all"));
}

}  // namespace
}  // namespace tailor::predict
