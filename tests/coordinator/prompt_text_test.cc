#include "coordinator/prompt_text.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "coordinator/tokenizer_pool.h"
#include "tests/coordinator/live_cluster.h"

namespace tailor::coordinator {
namespace {

PromptText text_with_template() {
  PromptText text = byte_text();
  auto compiled = text::ChatTemplate::compile(
      "{% for m in messages %}{{ m.role }}:{{ m.content }};{% endfor %}{% if add_generation_prompt "
      "%}>{% endif %}",
      "", "");
  EXPECT_TRUE(compiled.has_value());
  if (compiled) text.chat_template = *compiled;
  return text;
}
std::vector<TokenId> bytes(const std::string& written) {
  return {reinterpret_cast<const uint8_t*>(written.data()),
          reinterpret_cast<const uint8_t*>(written.data()) + written.size()};
}

TEST(PromptText, TakesTextMessagesOrTokens) {
  const PromptText text = text_with_template();
  auto submit = Caller::ask("r", "Hi é", 8);
  EXPECT_EQ(prepare_prompt(text, 100, submit)->tokens, bytes("Hi é"));
  submit.prompt = std::vector<api::ChatMessage>{{"user", "a"}, {"assistant", "b"}, {"user", "c"}};
  EXPECT_EQ(prepare_prompt(text, 100, submit)->tokens, bytes("user:a;assistant:b;user:c;>"));
  submit.prompt = std::vector<TokenId>{7, 0, 255};
  EXPECT_EQ(prepare_prompt(text, 100, submit)->tokens, (std::vector<TokenId>{7, 0, 255}));
}

TEST(PromptText, SpecialTokensAreParsedInTextAndWordsInMessages) {
  PromptText text;
  text.vocab_size = 3;
  text.tokenizer = *text::Tokenizer::from_vocabulary(
      {.model = "gpt2", .pre = "gpt-2", .tokens = {"a", "e", "<e>"}, .types = {1, 1, 3}});
  text.chat_template =
      *text::ChatTemplate::compile("{% for m in messages %}{{ m.content }}<e>{% endfor %}", "", "");
  auto submit = Caller::ask("r", "a<e>", 8);
  const auto tokens = [&](std::optional<bool> parse) {
    submit.parse_special_tokens = parse;
    return prepare_prompt(text, 100, submit)->tokens;
  };
  using Tokens = std::vector<TokenId>;
  EXPECT_EQ(tokens(std::nullopt), (Tokens{0, 2}));
  EXPECT_EQ(tokens(true), (Tokens{0, 2}));
  EXPECT_EQ(tokens(false), (Tokens{0, 1}));
  submit.prompt = std::vector<api::ChatMessage>{{"user", "a<e>"}};
  EXPECT_EQ(tokens(std::nullopt), (Tokens{0, 1, 2}));
  EXPECT_EQ(tokens(false), (Tokens{0, 1, 2}));
  EXPECT_EQ(tokens(true), (Tokens{0, 2, 2}));
}

TEST(PromptText, SaysWhyThereIsNoChat) {
  PromptText text = byte_text();
  text.no_chat = "this model's chat template is broken (line 3)";
  auto submit = Caller::ask("r", "", 8);
  submit.prompt = std::vector<api::ChatMessage>{{"user", "a"}};
  EXPECT_EQ(prepare_prompt(text, 100, submit).error().message,
            "this model's chat template is broken (line 3); send text or token ids instead of "
            "messages");
  submit.prompt = std::string("a");
  EXPECT_TRUE(prepare_prompt(text, 100, submit).has_value());
}

TEST(PromptText, ThePredictorIsShownTheClientsWords) {
  auto submit = Caller::ask("r", "Hi é", 8);
  EXPECT_EQ(predictor_words(submit), "Hi é");
  EXPECT_EQ(prepare_prompt(byte_text(), 100, submit)->words, "Hi é");
  submit.prompt = std::vector<api::ChatMessage>{{"system", "be brief"}, {"user", "why?"}};
  EXPECT_EQ(predictor_words(submit), "be brief\nwhy?");
  submit.prompt = std::vector<TokenId>{7, 0, 255};
  EXPECT_EQ(predictor_words(submit), "");
  // A long one keeps its head and its tail, and no half character.
  constexpr size_t kLimit = kPredictorHeadBytes + kPredictorTailBytes;
  std::string written = "x";
  while (written.size() < 3 * kLimit) written += "é";
  written += "end";
  submit.prompt = written;
  const std::string shown = predictor_words(submit);
  EXPECT_LE(shown.size(), kLimit + 2);
  EXPECT_GT(shown.size(), kLimit - 4);
  EXPECT_EQ(shown.substr(0, 7), "xééé");
  EXPECT_EQ(shown.substr(shown.size() - 5), "éend");
  for (size_t i = 1; i + 3 < shown.size(); i += 2) ASSERT_EQ(shown.substr(i, 2), "é") << i;
  submit.prompt = std::string(kLimit, 'a');
  EXPECT_EQ(predictor_words(submit).size(), kLimit);
}

TEST(PromptText, CutsWhatTheContextDoesNotLeave) {
  const PromptText text = byte_text();
  auto submit = Caller::ask("r", "0123456789", 1000);
  submit.sampling.min_tokens = 500;
  const auto prepared = prepare_prompt(text, 16, submit);
  ASSERT_TRUE(prepared.has_value());
  EXPECT_EQ(prepared->sampling.max_tokens, 6);
  EXPECT_EQ(prepared->sampling.min_tokens, 6);
  EXPECT_EQ(prepare_prompt(text, 10, submit).error().code, ErrorCode::kLimitExceeded);
  EXPECT_EQ(prepare_prompt(text, 11, submit)->sampling.max_tokens, 1);
}

TEST(PromptText, WhatTheClientDoesNotSayIsTheModelsAdviceAndWhatItSaysWins) {
  PromptText text = byte_text();
  auto submit = Caller::ask("r", "Hi", 8);
  const auto drawn = [&] {
    const SamplingParams p = prepare_prompt(text, 100, submit)->sampling;
    return std::vector<float>{p.temperature, static_cast<float>(p.top_k), p.top_p, p.min_p,
                              p.repetition_penalty};
  };
  EXPECT_EQ(drawn(), (std::vector<float>{0.7f, 0, 0.95f, 0, 1}));
  text.sampling = {0.25f, 40, 0.5f, 0.125f, 1.5f};
  EXPECT_EQ(drawn(), (std::vector<float>{0.25f, 40, 0.5f, 0.125f, 1.5f}));
  submit.sampling.temperature = 0;
  submit.sampling.top_k = 0;
  EXPECT_EQ(drawn(), (std::vector<float>{0, 0, 0.5f, 0.125f, 1.5f}));
  submit.sampling = api::Sampling(SamplingParams{});
  EXPECT_EQ(drawn(), (std::vector<float>{1, 0, 1, 0, 1}));
}

TEST(PromptText, NamesWhatIsWrong) {
  const PromptText text = byte_text();
  const auto why = [&](const api::Submit& submit, const PromptText& with) {
    auto prepared = prepare_prompt(with, 100, submit);
    EXPECT_FALSE(prepared.has_value());
    EXPECT_EQ(prepared.error().code, ErrorCode::kInvalidArgument);
    return prepared.error().message;
  };
  auto submit = Caller::ask("r", "", 8);
  EXPECT_EQ(why(submit, text), "the prompt is empty");
  submit.prompt = std::vector<TokenId>{};
  EXPECT_EQ(why(submit, text), "the prompt is empty");
  submit.prompt = std::vector<TokenId>{1, -3};
  EXPECT_EQ(why(submit, text), "token 1 of the prompt is -3, but the vocabulary is 0..255");
  submit.prompt = std::string("\xC3(");
  EXPECT_NE(why(submit, text), "");
  submit.prompt = std::string("x");
  PromptText bare;
  bare.vocab_size = 256;
  EXPECT_EQ(why(submit, bare), "this model has no tokenizer; send token ids instead of text");
  submit.prompt = std::vector<TokenId>{1};
  EXPECT_TRUE(prepare_prompt(bare, 100, submit).has_value());
}

TEST(TokenizerPool, GivesBackEveryJobOnceFromManyThreads) {
  TokenizerPool pool(byte_text(), 100, 3, 1000);
  for (int i = 0; i < 200; ++i) {
    TokenizeJob job{ClientId{1}, Caller::ask(std::to_string(i), std::string(1 + i % 120, 'x'), 8),
                    Time{}};
    ASSERT_TRUE(pool.submit(std::move(job)));
  }
  std::vector<int> seen(200);
  int total = 0;
  while (total < 200)
    for (auto& result : pool.results().drain_wait(seconds(10))) {
      const int i = std::stoi(result.submit.request_id);
      ++seen[i];
      ++total;
      EXPECT_EQ(result.prepared.has_value(), 1 + i % 120 < 100);
      EXPECT_TRUE(std::get<std::string>(result.submit.prompt).empty());
    }
  EXPECT_TRUE(std::all_of(seen.begin(), seen.end(), [](int n) { return n == 1; }));
}

TEST(TokenizerPool, RefusesAboveItsBoundAndLeavesTheJob) {
  TokenizerPool pool(byte_text(), 100, 0, 2);  // no thread: nothing is taken out
  for (int i = 0; i < 2; ++i)
    ASSERT_TRUE(pool.submit({ClientId{1}, Caller::ask("r", "x", 8), Time{}}));
  TokenizeJob job{ClientId{1}, Caller::ask("kept", "x", 8), Time{}};
  EXPECT_FALSE(pool.submit(std::move(job)));
  EXPECT_EQ(job.submit.request_id, "kept");
}

}  // namespace
}  // namespace tailor::coordinator
