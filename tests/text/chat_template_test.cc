// Chat templates against `transformers`.
#include "text/chat_template.h"

#include <gtest/gtest.h>

#include "tests/text/fixture_files.h"

namespace tailor::text {
namespace {

using Messages = std::vector<std::pair<std::string, std::string>>;

Messages messages_of(const nlohmann::json& list) {
  Messages messages;
  for (const auto& m : list) messages.emplace_back(m.at("role"), m.at("content"));
  return messages;
}

std::shared_ptr<const ChatTemplate> compiled(const std::string& source) {
  auto chat_template = ChatTemplate::compile(source, "<|im_start|>", "<|im_end|>");
  if (!chat_template) throw std::runtime_error(to_string(chat_template.error()));
  return *chat_template;
}

TEST(ChatTemplate, DefaultModelRendersAsTransformersDoes) {
  const auto chat_template = compiled(smollm2_file().chat_template);
  const nlohmann::json j = read_json(fixture("text/smollm2.json"));
  ASSERT_GE(j.at("chats").size(), 12u);
  for (const auto& chat : j.at("chats")) {
    const auto text =
        chat_template->render(messages_of(chat.at("messages")), chat.at("add_generation_prompt"));
    ASSERT_TRUE(text) << text.error().message;
    EXPECT_EQ(*text, chat.at("text").get<std::string>());
    EXPECT_EQ(*smollm2()->encode(*text, false), chat.at("ids").get<std::vector<TokenId>>());
  }
}

TEST(ChatTemplate, FeaturesOfRealTemplatesRenderAsTransformersDoes) {
  const nlohmann::json cases = read_json(fixture("text/templates.json"));
  ASSERT_GT(cases.size(), 40u);
  for (const auto& c : cases) {
    const auto text = compiled(c.at("template"))
                          ->render(messages_of(c.at("messages")), c.at("add_generation_prompt"));
    const std::string where = c.at("name").get<std::string>() + " " + c.at("messages").dump();
    if (c.contains("error")) {
      ASSERT_FALSE(text) << where;
      EXPECT_EQ(text.error().code, ErrorCode::kInvalidArgument);
      EXPECT_NE(text.error().message.find(c.at("error").get<std::string>()), std::string::npos)
          << text.error().message;
    } else {
      ASSERT_TRUE(text) << where << ": " << text.error().message;
      EXPECT_EQ(*text, c.at("text").get<std::string>()) << where;
    }
  }
}

TEST(ChatTemplate, AMissingBeginTokenIsUndefined) {
  const auto chat_template =
      ChatTemplate::compile("{{ bos_token is defined }}|{{ bos_token }}|{{ eos_token }}", "", "E");
  ASSERT_TRUE(chat_template);
  EXPECT_EQ(*(*chat_template)->render({}, false), "False||E");
}

TEST(ChatTemplate, StrftimeNowFormatsTheDate) {
  const std::string text = *compiled("{{ strftime_now('%Y-%m-%d|%d %b %Y') }}")->render({}, false);
  ASSERT_EQ(text.size(), std::string("2026-01-31|31 Jan 2026").size()) << text;
  EXPECT_EQ(text.substr(0, 2), "20");
  EXPECT_EQ(text.substr(0, 4), text.substr(text.size() - 4));
  EXPECT_EQ(text.substr(8, 2), text.substr(11, 2));
}

TEST(ChatTemplate, SyntaxErrorNamesTheLine) {
  const auto chat_template =
      ChatTemplate::compile("line one\n{% for m in messages %}\n{{ m.role }\n", "", "");
  ASSERT_FALSE(chat_template);
  EXPECT_EQ(chat_template.error().code, ErrorCode::kInvalidArgument);
  EXPECT_NE(chat_template.error().message.find("line 3"), std::string::npos)
      << chat_template.error().message;
}

TEST(ChatTemplate, GarbageIsAnError) {
  for (const char* source :
       {"{{", "{% if %}", "{% endfor %}", "{{ a b }}", "{% include 'x' %}{% extends 'y' %}",
        "\xFF\xFE", "{% generation %}", "{{ messages | nosuchfilter }}"}) {
    const auto chat_template = ChatTemplate::compile(source, "", "");
    if (chat_template) {  // unknown names may be found only when they are used
      EXPECT_FALSE((*chat_template)->render({{"user", "x"}}, true)) << source;
    } else {
      EXPECT_EQ(chat_template.error().code, ErrorCode::kInvalidArgument);
    }
  }
}

TEST(ChatTemplate, EndlessLoopsAndRecursionEndInAnError) {
  for (const char* source : {"{% for a in range(99999) %}{% for b in range(99999) %}{% for c in "
                             "range(99999) %}x{% endfor %}{% endfor %}{% endfor %}",
                             "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
                             "{% for x in [[1]] recursive %}{{ loop([[1]]) }}{% endfor %}",
                             "{{ range(999999999999) | list }}", "{{ 'a' * 999999999999 }}"}) {
    const auto text = compiled(source)->render({}, false);
    ASSERT_FALSE(text) << source << " gave " << text->size() << " bytes";
    EXPECT_EQ(text.error().code, ErrorCode::kInvalidArgument);
  }
}

TEST(ChatTemplate, DeepNestingIsAnErrorNotACrash) {
  std::string source, parens = "{{ ";
  for (int i = 0; i < 20000; ++i) source += "{% if true %}", parens += "(";
  EXPECT_FALSE(ChatTemplate::compile(source, "", ""));
  EXPECT_FALSE(ChatTemplate::compile(parens, "", ""));
}

TEST(ChatTemplate, BadMessagesAreErrors) {
  const auto chat_template = compiled(smollm2_file().chat_template);
  const auto text = chat_template->render({{"user", "ok"}, {"user", "bad \xC3("}}, true);
  ASSERT_FALSE(text);
  EXPECT_NE(text.error().message.find("message 1"), std::string::npos) << text.error().message;
  EXPECT_TRUE(chat_template->render({{"user", std::string("a\0b", 3)}}, true));
}

TEST(ChatTemplate, ManyLongMessagesRender) {
  const auto chat_template = compiled(smollm2_file().chat_template);
  const Messages messages(10000, {"user", std::string(400, 'x')});
  const auto text = chat_template->render(messages, true);
  ASSERT_TRUE(text) << text.error().message;
  EXPECT_GT(text->size(), 4'000'000u);
}

}  // namespace
}  // namespace tailor::text
