#include "coordinator/prompt_text.h"

#include <gtest/gtest.h>
#include <poll.h>

#include <algorithm>
#include <map>

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

TEST(PromptText, WhatItsBytesShowToBeTooLongIsNotTokenized) {
  const PromptText text = with_longest_token(byte_text());
  EXPECT_EQ(text.longest_token_bytes, 1u);
  // Not UTF-8: tokenizing it would say so.
  const auto refused = prepare_prompt(text, 100, Caller::ask("r", std::string(301, '\xFF'), 8));
  EXPECT_EQ(refused.error().code, ErrorCode::kLimitExceeded);
  EXPECT_EQ(refused.error().message,
            "the prompt has 301 bytes, more than 100 tokens (prompt and answer together) can hold");
  const auto read = prepare_prompt(text, 100, Caller::ask("r", std::string(300, '\xFF'), 8));
  EXPECT_EQ(read.error().code, ErrorCode::kInvalidArgument);
  auto chat = Caller::ask("r", "", 8);
  chat.prompt = std::vector<api::ChatMessage>(100, {"user", "a"});  // rendered: 7 bytes each
  const auto long_chat = prepare_prompt(with_longest_token(text_with_template()), 100, chat);
  EXPECT_EQ(long_chat.error().code, ErrorCode::kLimitExceeded);
  EXPECT_EQ(long_chat.error().message, "the messages give a prompt of 701 bytes, the limit is 300");
  EXPECT_EQ(with_longest_token(PromptText{}).longest_token_bytes, 0u);
}

// The pool's results in order, as its owner takes them.
std::vector<TokenizeResult> take(TokenizerPool& pool, size_t count) {
  std::vector<TokenizeResult> all;
  const Time until = now() + seconds(60);
  while (all.size() < count && now() < until) {
    pollfd ready{pool.results_fd(), POLLIN, 0};
    poll(&ready, 1, 1000);
    for (auto& result : pool.take_results()) all.push_back(std::move(result));
  }
  EXPECT_EQ(all.size(), count);
  return all;
}
constexpr uint32_t kAnyLength = 1u << 30;
const std::string kLarge(300'000, 'x');

TEST(TokenizerPool, GivesBackEveryJobOnceAndEachClientsInOrder) {
  TokenizerPool pool(byte_text(), 100, 3, {});
  for (uint64_t i = 0; i < 400; ++i)
    ASSERT_TRUE(
        pool.submit({ClientId{i % 3},
                     Caller::ask(std::to_string(i), std::string(1 + i % 120, 'x'), 8), now()}));
  std::map<ClientId, int> last;
  for (const auto& result : take(pool, 400)) {
    const int i = std::stoi(result.submit.request_id);
    EXPECT_EQ(result.client, ClientId(i % 3));
    EXPECT_EQ(result.prepared.has_value(), 1 + i % 120 < 100);
    EXPECT_TRUE(std::get<std::string>(result.submit.prompt).empty());
    EXPECT_TRUE(last.count(result.client) == 0 || last[result.client] < i);
    last[result.client] = i;
  }
  EXPECT_EQ(pool.jobs(), 0u);
  EXPECT_EQ(pool.bytes(), 0u);
}

TEST(TokenizerPool, OneClientsLargePromptsStandInNobodysWay) {
  TokenizerPool pool(byte_text(), kAnyLength, 2, {});
  constexpr int kMany = 6;
  for (int i = 0; i < kMany; ++i)
    ASSERT_TRUE(pool.submit({ClientId{1}, Caller::ask("large", kLarge, 8), now()}));
  for (int i = 0; i < 50; ++i)
    ASSERT_TRUE(pool.submit({ClientId{2}, Caller::ask("short", std::string(500, 'x'), 8), now()}));
  ASSERT_TRUE(pool.submit({ClientId{3}, Caller::ask("Hi", "Hi", 8), now()}));
  const auto results = take(pool, kMany + 51);
  std::vector<std::string> order;
  for (const auto& result : results) order.push_back(result.submit.request_id);
  EXPECT_EQ(order.back(), "large");
  const auto hi = std::find(order.begin(), order.end(), "Hi");
  EXPECT_GT(std::count(hi, order.end(), "short"), 0);  // in front of what had come before it
  EXPECT_GT(std::count(hi, order.end(), "large"), 1);
}

TEST(TokenizerPool, TakesBackWhatNoThreadHasBeenGiven) {
  TokenizerPool pool(byte_text(), kAnyLength, 2, {});
  ASSERT_TRUE(pool.submit({ClientId{1}, Caller::ask("first", kLarge, 8), now()}));
  ASSERT_TRUE(pool.submit({ClientId{1}, Caller::ask("second", "x", 8), now()}));
  ASSERT_TRUE(pool.submit({ClientId{1}, Caller::ask("third", "x", 8), now()}));
  EXPECT_FALSE(pool.withdraw(ClientId{1}, "first"));
  EXPECT_FALSE(pool.withdraw(ClientId{2}, "second"));
  EXPECT_TRUE(pool.withdraw(ClientId{1}, "second"));
  EXPECT_FALSE(pool.withdraw(ClientId{1}, "second"));
  const auto results = take(pool, 2);
  EXPECT_EQ(results[0].submit.request_id, "first");
  EXPECT_EQ(results[1].submit.request_id, "third");
  EXPECT_EQ(pool.bytes(), 0u);
}

TEST(TokenizerPool, APromptPastItsDeadlineIsNotTokenized) {
  TokenizerPool pool(byte_text(), 100, 2, {});
  auto late = Caller::ask("late", "\xFF", 8);
  late.deadline = seconds(5);
  ASSERT_TRUE(pool.submit({ClientId{1}, late, now() - seconds(5)}));
  EXPECT_EQ(take(pool, 1)[0].prepared.error().code, ErrorCode::kDeadlineExceeded);
}

TEST(TokenizerPool, RefusesAboveItsBoundsAndLeavesTheJob) {
  TokenizerPool pool(byte_text(), kAnyLength, 2, {.max_jobs = 4, .max_bytes = 1'000'000});
  const auto job = [](uint64_t client, const std::string& prompt) {
    return TokenizeJob{ClientId{client}, Caller::ask("r", prompt, 8), now()};
  };
  // A client may have half of the bytes and of the jobs, and at least one.
  EXPECT_TRUE(pool.submit(job(1, kLarge)));
  TokenizeJob kept = job(1, kLarge);
  EXPECT_FALSE(pool.submit(std::move(kept)));
  EXPECT_EQ(std::get<std::string>(kept.submit.prompt).size(), kLarge.size());
  EXPECT_TRUE(pool.submit(job(1, "x")));
  EXPECT_FALSE(pool.submit(job(1, "x")));
  EXPECT_TRUE(pool.submit(job(2, kLarge)));
  EXPECT_FALSE(pool.submit(job(3, std::string(500'000, 'x'))));  // all together have 1 MB
  EXPECT_TRUE(pool.submit(job(3, kLarge)));
  EXPECT_FALSE(pool.submit(job(4, "x")));  // and 4 jobs
  (void)take(pool, 4);
  EXPECT_TRUE(pool.submit(job(4, "x")));
}

}  // namespace
}  // namespace tailor::coordinator
