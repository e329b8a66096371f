#include "client/prompt_json.h"

#include <gtest/gtest.h>

namespace tailor::client {
namespace {

TEST(PromptJson, ReadsEveryKindOfPromptAndKeepsTheDefaults) {
  api::Submit defaults;
  defaults.sampling.max_tokens = 7;
  auto text = read_prompt_line(R"({"prompt": "a\u00e9", "temperature": 0, "id": 12})", defaults);
  ASSERT_TRUE(text.has_value()) << text.error().message;
  EXPECT_EQ(std::get<std::string>(text->submit.prompt), "a\xC3\xA9");
  EXPECT_EQ(text->submit.sampling.temperature, 0.0f);
  EXPECT_EQ(text->submit.sampling.top_p, std::nullopt);
  EXPECT_EQ(text->submit.sampling.max_tokens, 7);
  EXPECT_FALSE(text->submit.has_seed);
  EXPECT_EQ(text->id, 12);

  auto chat = read_prompt_line(
      R"({"messages": [{"role": "user", "content": "hi"}], "max_tokens": 3, "seed": 18446744073709551615})",
      defaults);
  ASSERT_TRUE(chat.has_value()) << chat.error().message;
  EXPECT_EQ(std::get<std::vector<api::ChatMessage>>(chat->submit.prompt).at(0).content, "hi");
  EXPECT_EQ(chat->submit.sampling.max_tokens, 3);
  EXPECT_TRUE(chat->submit.has_seed);
  EXPECT_EQ(chat->submit.sampling.seed, 18446744073709551615ull);

  auto ids = read_prompt_line(
      R"({"token_ids": [1, 2], "stop": "x", "logit_bias": {"5": -1.5}, "logprobs": 2, "deadline": 1.5})",
      defaults);
  ASSERT_TRUE(ids.has_value()) << ids.error().message;
  EXPECT_EQ(std::get<std::vector<TokenId>>(ids->submit.prompt), (std::vector<TokenId>{1, 2}));
  EXPECT_EQ(ids->submit.sampling.stop, std::vector<std::string>{"x"});
  EXPECT_EQ(ids->submit.sampling.logit_bias.at(0), (std::pair<TokenId, float>{5, -1.5f}));
  EXPECT_EQ(ids->submit.sampling.logprobs, 2);
  EXPECT_EQ(*ids->submit.deadline, milliseconds(1500));
}

TEST(PromptJson, NamesTheFieldThatIsWrong) {
  const auto message = [](const char* line) {
    auto result = read_prompt_line(line, {});
    return result ? std::string("accepted") : result.error().message;
  };
  EXPECT_EQ(message("{"), "not valid JSON (at byte 1)");
  EXPECT_EQ(message("[1]"), "not a JSON object");
  EXPECT_EQ(message("{}"), "exactly one of 'prompt', 'messages', 'token_ids' is needed, found 0");
  EXPECT_EQ(message(R"({"prompt": "a", "token_ids": []})"),
            "exactly one of 'prompt', 'messages', 'token_ids' is needed, found 2");
  EXPECT_EQ(message(R"({"prompt": 3})"), "field 'prompt' must be a string, found 3");
  EXPECT_EQ(message(R"({"prompt": "a", "temperature": "hot"})"),
            "field 'temperature' must be a number, found \"hot\"");
  EXPECT_EQ(message(R"({"prompt": "a", "temperature": NaN})"), "not valid JSON (at byte 31)");
  EXPECT_EQ(message(R"({"prompt": "a", "max_tokens": 1.5})"),
            "field 'max_tokens' must be a whole number of 32 bits, found 1.5");
  EXPECT_EQ(message(R"({"prompt": "a", "max_tokens": 99999999999})"),
            "field 'max_tokens' must be a whole number of 32 bits, found 99999999999");
  EXPECT_EQ(message(R"({"token_ids": [1, "b"]})"),
            "field 'token_ids[1]' must be a whole number of 32 bits, found \"b\"");
  EXPECT_EQ(
      message(R"({"messages": [{"role": "user"}]})"),
      "field 'messages' must be a list of {\"role\", \"content\"}, found {\"role\":\"user\"}");
  EXPECT_EQ(message(R"({"prompt": "a", "priority": "soon"})"),
            "field 'priority' must be interactive, standard or batch, found \"soon\"");
}

TEST(PromptJson, NumbersAreReadExactlyOrRefused) {
  const auto message = [](const std::string& fields) {
    auto result = read_prompt_line("{\"prompt\": \"a\", " + fields + "}", {});
    return result ? std::string("accepted") : result.error().message;
  };
  for (const char* key : {"4294967301", "-4294967291", "0x5", "5.0", " 5", "+5", "", "five"}) {
    EXPECT_EQ(message("\"logit_bias\": {\"" + std::string(key) + "\": 1}"),
              "field 'logit_bias' must be keyed by token ids, found \"" + std::string(key) + "\"");
  }
  EXPECT_EQ(message(R"("seed": 18446744073709551615)"), "accepted");
  for (const char* seed : {"-1", "18446744073709551616", "1e3", "1.5", "\"1\""}) {
    EXPECT_EQ(message("\"seed\": " + std::string(seed))
                  .rfind("field 'seed' must be a whole number of 0..18446744073709551615", 0),
              0u)
        << seed;
  }
  EXPECT_EQ(message("\"n\": 4294967297").rfind("field 'n' must be a whole number of 32 bits", 0),
            0u);
}

TEST(PromptJson, DeepNestingIsAnErrorInEveryField) {
  const std::string deep = std::string(100000, '[') + std::string(100000, ']');
  for (const char* field :
       {"prompt", "messages", "stop", "logit_bias", "priority", "id", "unknown"}) {
    const auto line = read_prompt_line("{\"" + std::string(field) + "\": " + deep + "}", {});
    ASSERT_FALSE(line.has_value()) << field;
    EXPECT_EQ(line.error().message.rfind("JSON nested deeper than", 0), 0u) << line.error().message;
  }
}

TEST(PromptJson, SpecialTokensAreParsedOrWordsAsAsked) {
  const auto parse = [](const char* value) {
    const auto line = read_prompt_line(
        R"({"prompt": "a", "parse_special_tokens": )" + std::string(value) + "}", {});
    EXPECT_TRUE(line.has_value());
    return line->submit.parse_special_tokens;
  };
  EXPECT_EQ(parse("true"), true);
  EXPECT_EQ(parse("false"), false);
  EXPECT_EQ(parse("null"), std::nullopt);
}

TEST(PromptJson, ReportsUnknownFieldsAndTakesNullAsNotGiven) {
  auto line = read_prompt_line(R"({"prompt": "a", "temprature": 1, "seed": null})", {});
  ASSERT_TRUE(line.has_value());
  EXPECT_EQ(line->unknown_fields, std::vector<std::string>{"temprature"});
  EXPECT_FALSE(line->submit.has_seed);
}

}  // namespace
}  // namespace tailor::client
