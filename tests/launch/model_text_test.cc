// The text side of a model's files: which tokens end an answer, and templates that are broken.
#include "launch/model_text.h"

#include <gmock/gmock.h>

#include <nlohmann/json.hpp>

#include "tests/weights/test_files.h"

namespace tailor::launch {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;
using weights::ScratchFolder;
using weights::write_file;
using Tokens = std::vector<TokenId>;

constexpr const char* kChatMl =
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}";

/// Ids 0.. of a byte-level vocabulary; those written as marks are special.
const std::vector<std::string> kTokens = {"a",          "b",    "<s>", "</s>", "<|im_start|>",
                                          "<|im_end|>", "<|x|>"};
constexpr TokenId kEnd = 3, kTurnEnd = 5, kOther = 6;

class ModelTextTest : public testing::Test {
 protected:
  ModelTextTest() {
    json vocabulary, added = json::array();
    for (size_t id = 0; id < kTokens.size(); ++id) {
      vocabulary[kTokens[id]] = id;
      if (kTokens[id].size() > 1)
        added.push_back({{"id", id},
                         {"content", kTokens[id]},
                         {"single_word", false},
                         {"lstrip", false},
                         {"rstrip", false},
                         {"normalized", false},
                         {"special", true}});
    }
    write("tokenizer.json",
          {{"version", "1.0"},
           {"added_tokens", added},
           {"decoder",
            {{"type", "ByteLevel"},
             {"add_prefix_space", false},
             {"trim_offsets", true},
             {"use_regex", true}}},
           {"model", {{"type", "BPE"}, {"vocab", vocabulary}, {"merges", json::array()}}}});
  }
  void write(const std::string& name, const json& value) {
    write_file(folder_ / name, value.is_string() ? value.get<std::string>() : value.dump());
  }
  Result<ModelText> load(const json& eos, const std::string& template_file = "") {
    json config = json::parse(weights::kTinyConfig);
    if (!eos.is_null()) config["eos_token_id"] = eos;
    write("config.json", config);
    const auto files = weights::WeightFiles::dummy(folder_ / "config.json", 1);
    EXPECT_TRUE(files) << files.error().message;
    return load_model_text(**files, template_file);
  }
  Tokens ends(const json& eos) {
    const auto text = load(eos);
    EXPECT_TRUE(text) << text.error().message;
    return text ? text->end_tokens : Tokens{};
  }
  ScratchFolder folder_;
};

TEST_F(ModelTextTest, EndTokensAreTheUnionOfWhatTheFilesSay) {
  EXPECT_EQ(ends(nullptr), Tokens{});
  EXPECT_EQ(ends(kEnd), Tokens{kEnd});
  write("tokenizer_config.json", {{"eos_token", "</s>"}});
  EXPECT_EQ(ends(nullptr), Tokens{kEnd});
  EXPECT_EQ(ends({kOther, kEnd}), (Tokens{kOther, kEnd}));
  write("tokenizer_config.json", {{"eos_token", {{"content", "<|im_end|>"}, {"special", true}}}});
  EXPECT_EQ(ends(kEnd), (Tokens{kEnd, kTurnEnd}));
  write("generation_config.json", {{"eos_token_id", {kOther, kEnd}}});
  EXPECT_EQ(ends(kEnd), (Tokens{kEnd, kOther, kTurnEnd}));
  write("tokenizer_config.json", {{"chat_template", kChatMl}});
  EXPECT_EQ(ends(kEnd), (Tokens{kEnd, kOther, kTurnEnd}));
  write("tokenizer_config.json",
        {{"eos_token", "no such token"}, {"chat_template", "{{ messages[0].content }}"}});
  EXPECT_EQ(ends(kEnd), (Tokens{kEnd, kOther}));
}

TEST_F(ModelTextTest, ControlTokensOfAGgufFileEndAnswersByTemplateAndByName) {
  write("config.json", weights::kTinyConfig);
  const auto folder = weights::WeightFiles::dummy(folder_ / "config.json", 1);
  ASSERT_TRUE(folder);
  const auto ends = [&](const std::string& chat_template, const std::string& mark) {
    weights::GgufWriter writer = weights::as_gguf(**folder);
    std::vector<std::string> tokens = kTokens;
    tokens[kTurnEnd] = mark;
    tokens.resize(10, "");
    writer.text("tokenizer.ggml.model", "gpt2");
    writer.text("tokenizer.ggml.pre", "gpt-2");
    writer.strings("tokenizer.ggml.tokens", tokens);
    writer.strings("tokenizer.ggml.merges", {});
    writer.integers("tokenizer.ggml.token_type", {1, 1, 3, 3, 3, 3, 3, 5, 5, 5});
    writer.integer("tokenizer.ggml.eos_token_id", kEnd);
    if (!chat_template.empty()) writer.text("tokenizer.chat_template", chat_template);
    write_file(folder_ / "model.gguf", writer.bytes());
    const auto files = weights::WeightFiles::open(folder_ / "model.gguf");
    EXPECT_TRUE(files) << files.error().message;
    const auto text = load_model_text(**files);
    EXPECT_TRUE(text) << text.error().message;
    return text->end_tokens;
  };
  EXPECT_EQ(ends("", "<|mark|>"), Tokens{kEnd});
  EXPECT_EQ(ends("", "<|im_end|>"), (Tokens{kEnd, kTurnEnd}));
  EXPECT_EQ(ends("{% for m in messages %}{{ m.content }}<|mark|>{% endfor %}", "<|mark|>"),
            (Tokens{kEnd, kTurnEnd}));
}

TEST_F(ModelTextTest, ABrokenTemplateCostsOnlyChat) {
  for (const json& broken :
       {json("{% for m in messages %}{{ m.content }"), json(7), json::array({1, 2})}) {
    write("tokenizer_config.json", {{"eos_token", "</s>"}, {"chat_template", broken}});
    const auto text = load(nullptr);
    ASSERT_TRUE(text) << text.error().message;
    EXPECT_EQ(text->chat_template, nullptr);
    EXPECT_THAT(text->no_chat, HasSubstr("chat template is broken"));
    EXPECT_THAT(text->no_chat, HasSubstr("tokenizer_config.json"));
    EXPECT_EQ(text->end_tokens, Tokens{kEnd});
  }
  write("chat_template.jinja", "{{ nothing here");
  EXPECT_THAT(load(nullptr)->no_chat, HasSubstr("chat_template.jinja"));
  // Another in its place.
  write("mine.jinja", kChatMl);
  const auto mended = load(nullptr, folder_ / "mine.jinja");
  ASSERT_TRUE(mended) << mended.error().message;
  ASSERT_NE(mended->chat_template, nullptr);
  EXPECT_EQ(mended->no_chat, "");
  EXPECT_EQ(mended->end_tokens, (Tokens{kEnd, kTurnEnd}));
  // One that the user names must hold.
  EXPECT_THAT(load(nullptr, folder_ / "none.jinja").error().message, HasSubstr("none.jinja"));
  const auto refused = load(nullptr, folder_ / "chat_template.jinja");
  ASSERT_FALSE(refused);
  EXPECT_THAT(refused.error().message, HasSubstr("chat_template.jinja"));
}

TEST_F(ModelTextTest, DeepJsonIsAnErrorThatNamesItsFile) {
  const std::string deep = "{\"a\": " + std::string(100000, '[') + std::string(100000, ']') + "}";
  write("tokenizer_config.json", deep);
  EXPECT_THAT(load(nullptr).error().message,
              HasSubstr("tokenizer_config.json: JSON nested deeper"));
  write("tokenizer_config.json", json::object());
  write("generation_config.json", deep);
  write("config.json", weights::kTinyConfig);
  const auto generation = weights::WeightFiles::dummy(folder_ / "config.json", 1);
  ASSERT_FALSE(generation);
  EXPECT_THAT(generation.error().message, HasSubstr("generation_config.json: JSON nested deeper"));
  write("generation_config.json", json::object());
  write("tokenizer.json", deep);
  EXPECT_THAT(load(nullptr).error().message, HasSubstr("tokenizer.json: JSON nested deeper"));
  write("config.json", deep);
  const auto config = weights::WeightFiles::dummy(folder_ / "config.json", 1);
  ASSERT_FALSE(config);
  EXPECT_THAT(config.error().message, HasSubstr("config.json: JSON nested deeper"));
}

}  // namespace
}  // namespace tailor::launch
