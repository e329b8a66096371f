// Bad and big input: an error or an answer, never a crash.
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

#include "base/utf8.h"
#include "tests/text/fixture_files.h"
#include "text/tokenizer.h"

namespace tailor::text {
namespace {

void expect_refused(const Result<std::shared_ptr<const Tokenizer>>& tokenizer,
                    const std::string& says) {
  ASSERT_FALSE(tokenizer) << says;
  EXPECT_EQ(tokenizer.error().code, ErrorCode::kInvalidArgument);
  EXPECT_NE(tokenizer.error().message.find(says), std::string::npos) << tokenizer.error().message;
}

TEST(RoughText, InvalidUtf8NamesTheByte) {
  for (const auto& tokenizer : {smollm2(), mistral()}) {
    const auto ids = tokenizer->encode("good \xF0\x9F\x99", true);
    ASSERT_FALSE(ids);
    EXPECT_EQ(ids.error().code, ErrorCode::kInvalidArgument);
    EXPECT_NE(ids.error().message.find("byte 5"), std::string::npos) << ids.error().message;
    EXPECT_FALSE(tokenizer->encode("\xED\xA0\x80", false));  // a surrogate
    EXPECT_FALSE(tokenizer->encode("\xC0\x80", false));      // an overlong NUL
  }
}

TEST(RoughText, NulBytesAreText) {
  const std::string text("a\0b\0", 4);
  EXPECT_EQ(mistral()->decode(*mistral()->encode(text, false), false), text);
  EXPECT_TRUE(smollm2()->encode(text, false));
}

TEST(RoughText, FourMegabytes) {
  std::string words;
  const std::string letters(1 << 18, 'a'), spaces(1 << 18, ' ');
  const nlohmann::json j = read_json(fixture("text/smollm2.json"));
  while (words.size() < (4u << 20)) {
    for (const auto& prompt : j.at("prompts")) words += prompt.at("text").get<std::string>() + " ";
  }
  for (const auto& tokenizer : {smollm2(), mistral()}) {
    const size_t size = tokenizer == smollm2() ? words.size() : words.size() / 8;  // half as fast
    std::string text;
    append_utf8(std::string_view(words).substr(0, size), /*at_end=*/true, text);
    const auto ids = tokenizer->encode(text, true);
    ASSERT_TRUE(ids) << ids.error().message;
    EXPECT_GT(ids->size(), text.size() / 5);
    EXPECT_LT(ids->size(), text.size() / 3);
    for (const std::string& word : {letters, spaces}) {  // one word without an end
      EXPECT_EQ(tokenizer->decode(*tokenizer->encode(word, true), true), word);
    }
  }
}

TEST(RoughText, MissingFileAndFolder) {
  const auto missing = Tokenizer::from_file("/no/such/tokenizer.json");
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().code, ErrorCode::kNotFound);
  EXPECT_FALSE(Tokenizer::from_file(testing::TempDir()));
}

TEST(RoughText, DamagedTokenizerFiles) {
  const std::string path =
      testing::TempDir() + "tailor_damaged_" + std::to_string(getpid()) + ".json";
  const auto load = [&](const std::string& content) {
    std::ofstream(path, std::ios::binary) << content;
    return Tokenizer::from_file(path);
  };
  const std::string good =
      R"({"version":"1.0","added_tokens":[],"decoder":{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,)"
      R"("use_regex":true},"model":{"type":"BPE","vocab":{"a":0,"b":1,"ab":2},"merges":["a b"]}})";
  ASSERT_TRUE(load(good));
  for (size_t size = 0; size < good.size(); ++size) {
    const auto tokenizer = load(good.substr(0, size));
    ASSERT_FALSE(tokenizer) << size;
    EXPECT_NE(tokenizer.error().message.find(path), std::string::npos) << tokenizer.error().message;
  }
  expect_refused(load(std::string(100000, '[')), path);
  expect_refused(load("{\"model\":\xFF}"), path);
  expect_refused(load("null"), path);
  expect_refused(load(R"({"model":{"type":"BPE","vocab":{"a":0},"merges":["a z"]}})"), path);
  expect_refused(
      load(
          R"({"model":{"type":"BPE","vocab":{"a":0},"merges":[]},"decoder":{"type":"CTC","pad_token":"","word_delimiter_token":"","cleanup":false}})"),
      "CTC");
  expect_refused(
      load(
          R"({"model":{"type":"BPE","vocab":{"a":4000000000},"merges":[]},"decoder":{"type":"Fuse"}})"),
      "4000000000");
  expect_refused(
      load(R"({"model":{"type":"BPE","vocab":{},"merges":[]},"decoder":{"type":"Fuse"}})"),
      "empty");
  std::filesystem::remove(path);
}

TEST(RoughText, VocabulariesThatDoNotFit) {
  const VocabularySpec good{
      .model = "gpt2", .pre = "gpt-2", .tokens = {"a", "b", "ab"}, .merges = {"a b"}};
  const auto with = [&](auto change) {
    VocabularySpec spec = good;
    change(spec);
    return Tokenizer::from_vocabulary(spec);
  };
  ASSERT_TRUE(with([](auto&) {}));
  expect_refused(with([](auto& s) { s.model = "bert"; }),
                 "\"bert\" is not supported (known: gpt2, llama)");
  expect_refused(with([](auto& s) { s.pre = "tekken"; }),
                 "\"tekken\" is not supported (known: gpt-2, llama-bpe, qwen2, smollm)");
  expect_refused(with([](auto& s) { s.pre = ""; }), "known: gpt-2");
  expect_refused(with([](auto& s) { s.tokens.clear(); }), "empty");
  expect_refused(with([](auto& s) { s.tokens[1] = "\xFF"; }), "token 1 is not UTF-8");
  expect_refused(with([](auto& s) { s.merges = {"ab"}; }), "merge 0");
  expect_refused(with([](auto& s) { s.merges = {"a c"}; }), "merge 0 (\"a c\") needs \"c\"");
  expect_refused(with([](auto& s) {
                   s.merges = {"a b", "ab ab"};
                 }),
                 "merge 1 (\"ab ab\") needs \"abab\"");
  expect_refused(with([](auto& s) { s.types = {1}; }), "3 tokens but 1 token types");
  expect_refused(with([](auto& s) { s.bos = 3; }), "begin token 3");
  expect_refused(with([](auto& s) { s.model = "llama"; }), "3 tokens but 0 scores");
}

TEST(RoughText, OddVocabulariesWork) {
  // Equal tokens, empty control tokens, NaN scores, no unknown token.
  VocabularySpec spec{.model = "llama",
                      .tokens = {"", "a", "a", "aa", "\xE2\x96\x81"},
                      .scores = {0, 0, 0, -1, -2},
                      .types = {3, 1, 1, 1, 1}};
  spec.scores[3] = std::numeric_limits<float>::quiet_NaN();
  const auto tokenizer = must(Tokenizer::from_vocabulary(spec));
  EXPECT_EQ(*tokenizer->encode("aa", false), (std::vector<TokenId>{4, 3}));
  EXPECT_EQ(*tokenizer->encode("az", false), (std::vector<TokenId>{4, 1}));  // nothing stands for z
}

}  // namespace
}  // namespace tailor::text
