// The text side of an answer: what a step drew becomes a report. Direct, without a thread.
#include "worker/answer_text.h"

#include <gtest/gtest.h>

#include "tests/worker/told.h"

namespace tailor::worker {
namespace {

/// A vocabulary of single letters: token i is the letter 'a' + i; 26 is a special end token, 27 and
/// 28 are the two bytes of "é".
class Letters : public text::Tokenizer {
 public:
  Letters() {
    for (char c = 'a'; c <= 'z'; ++c) bytes_.emplace_back(1, c);
    bytes_.push_back("<end>");
    bytes_.push_back("\xC3");
    bytes_.push_back("\xA9");
  }
  Result<std::vector<TokenId>> encode(std::string_view text, bool) const override {
    std::vector<TokenId> ids;
    for (char c : text) ids.push_back(c - 'a');
    return ids;
  }
  std::string decode(const std::vector<TokenId>& ids, bool skip) const override {
    std::string out;
    for (TokenId id : ids)
      if (!skip || !is_special(id)) out += token_bytes(id);
    return out;
  }
  const std::string& token_bytes(TokenId id) const override {
    static const std::string none;
    return id >= 0 && id < static_cast<TokenId>(bytes_.size()) ? bytes_[id] : none;
  }
  bool is_special(TokenId id) const override { return id == 26; }
  int64_t vocab_size() const override { return static_cast<int64_t>(bytes_.size()); }
  TokenId token_to_id(std::string_view token) const override {
    return token.size() == 1 ? token[0] - 'a' : -1;
  }
  bool strips_leading_space() const override { return false; }

 private:
  std::vector<std::string> bytes_;
};

constexpr SequenceId kSequence{RequestId{7}, 0};
constexpr Attempt kFirst{1};

using test::Told;

class AnswerTextTest : public testing::Test {
 protected:
  void open(std::vector<TokenId> generated = {}, FinishReason ended = FinishReason::kNone) {
    answers_.open({.sequence = kSequence,
                   .attempt = kFirst,
                   .request = std::make_shared<const Request>(request_),
                   .generated = std::move(generated),
                   .ended = ended});
  }
  /// One token through one step; the report's only progress, if there is one.
  std::optional<Told> draw(uint32_t index, TokenId token,
                           FinishReason finish = FinishReason::kNone) {
    StepOutput output;
    output.tokens.push_back({.sequence = kSequence,
                             .attempt = kFirst,
                             .index = index,
                             .token = token,
                             .finish = finish});
    const auto entries = step(std::move(output));
    if (entries.empty()) return std::nullopt;
    EXPECT_EQ(entries.size(), 1u);
    return entries[0];
  }
  std::vector<Told> step(StepOutput output) {
    TextReport report = answers_.step(std::move(output));
    return test::told(report.report, std::move(report.payload));
  }
  Request request_;
  AnswerText answers_{std::make_shared<Letters>()};
};

TEST_F(AnswerTextTest, OffsetsAndIndexesGrowWithTheText) {
  open();
  for (uint32_t i = 0; i < 5; ++i) {
    auto p = draw(i, static_cast<TokenId>(i));
    ASSERT_TRUE(p);
    EXPECT_EQ(p->first_index, i);
    EXPECT_EQ(p->text_offset, i);
    EXPECT_EQ(p->text, std::string(1, static_cast<char>('a' + i)));
    EXPECT_EQ(p->token_ids, std::vector<TokenId>{static_cast<TokenId>(i)});
  }
}

TEST_F(AnswerTextTest, HalfACharacterWaitsForItsOtherHalf) {
  open();
  EXPECT_EQ(draw(0, 27)->text, "");
  auto p = draw(1, 28);
  EXPECT_EQ(p->text, "\xC3\xA9");
  EXPECT_EQ(p->text_offset, 0u);
}

TEST_F(AnswerTextTest, TokensBehindAStopAreDroppedUntilTheSequenceIsClosed) {
  request_.sampling.stop = {"cd"};
  open();
  EXPECT_EQ(draw(0, 0)->text, "a");
  EXPECT_EQ(draw(1, 2)->text, "") << "may be the beginning of the stop string";
  auto p = draw(2, 3);
  EXPECT_EQ(p->finish, FinishReason::kStop);
  EXPECT_EQ(p->stop_match, "cd");
  EXPECT_EQ(p->text, "");
  EXPECT_EQ(p->token_ids, std::vector<TokenId>{3});
  auto stops = answers_.take_stops();
  ASSERT_EQ(stops.size(), 1u);
  EXPECT_EQ(stops[0].sequence, kSequence);
  // The main thread was ahead.
  EXPECT_FALSE(draw(3, 4));
  EXPECT_FALSE(draw(4, 5));
  EXPECT_TRUE(answers_.take_stops().empty());
  answers_.close({kSequence, kFirst});
  EXPECT_EQ(answers_.open_answers(), 0u);
}

TEST_F(AnswerTextTest, TheMainThreadsOwnEndBehindAStopIsDroppedToo) {
  request_.sampling.stop = {"b"};
  open();
  EXPECT_EQ(draw(0, 1)->finish, FinishReason::kStop);
  EXPECT_FALSE(draw(1, 5, FinishReason::kLength));
  EXPECT_EQ(answers_.open_answers(), 0u);
}

TEST_F(AnswerTextTest, AStopAtTheLastTokenWinsOverLength) {
  request_.sampling.stop = {"b"};
  open();
  auto p = draw(0, 1, FinishReason::kLength);
  EXPECT_EQ(p->finish, FinishReason::kStop);
  EXPECT_TRUE(answers_.take_stops().empty()) << "the main thread has ended it already";
  EXPECT_EQ(answers_.open_answers(), 0u);
}

TEST_F(AnswerTextTest, WhatWasHeldBackComesOutAtTheEnd) {
  request_.sampling.stop = {"cd"};
  open();
  draw(0, 2);
  auto p = draw(1, 4, FinishReason::kLength);
  EXPECT_EQ(p->text, "ce");
  EXPECT_EQ(p->text_offset, 0u);
  open();
  draw(0, 0);
  p = draw(1, 2, FinishReason::kLength);
  EXPECT_EQ(p->text, "c");
  EXPECT_EQ(p->text_offset, 1u);
}

TEST_F(AnswerTextTest, TheEndTokenIsReportedWithoutText) {
  request_.sampling.skip_special_tokens = false;
  open();
  draw(0, 0);
  auto p = draw(1, 26, FinishReason::kStop);
  EXPECT_EQ(p->token_ids, std::vector<TokenId>{26});
  EXPECT_EQ(p->text, "");
  EXPECT_EQ(p->stop_match, "<end>");
  request_.sampling.include_stop_in_output = true;
  open();
  EXPECT_EQ(draw(0, 26, FinishReason::kStop)->text, "<end>");
}

TEST_F(AnswerTextTest, AResumedAnswerGoesOnAsIfItHadNeverStopped) {
  request_.sampling.stop = {"cdx", "yz"};
  std::vector<TokenId> tokens = {0, 2, 3, 4, 27, 28, 2, 3, 6, 24, 25, 1};
  auto run = [&](size_t resumed) {
    std::string text;
    std::vector<TokenId> generated(tokens.begin(), tokens.begin() + resumed);
    AnswerText fresh(std::make_shared<Letters>());
    fresh.open({.sequence = kSequence,
                .attempt = kFirst,
                .request = std::make_shared<const Request>(request_),
                .generated = generated});
    std::vector<std::pair<uint64_t, std::string>> pieces;
    for (size_t i = resumed; i < tokens.size(); ++i) {
      StepOutput output;
      output.tokens.push_back({.sequence = kSequence,
                               .attempt = kFirst,
                               .index = static_cast<uint32_t>(i),
                               .token = tokens[i]});
      TextReport report = fresh.step(std::move(output));
      for (auto& p : test::told(report.report, std::move(report.payload)))
        if (!p.text.empty()) pieces.emplace_back(p.text_offset, p.text);
    }
    return pieces;
  };
  auto whole = run(0);
  ASSERT_FALSE(whole.empty());
  for (size_t resumed = 1; resumed < 10; ++resumed) {
    auto part = run(resumed);
    ASSERT_LE(part.size(), whole.size());
    EXPECT_TRUE(std::equal(part.rbegin(), part.rend(), whole.rbegin()))
        << "resumed behind " << resumed;
  }
}

TEST_F(AnswerTextTest, AResumedAnswerThatHadEndedSaysSoOnce) {
  open({0, 26}, FinishReason::kStop);
  auto entries = step({});
  ASSERT_EQ(entries.size(), 1u);
  EXPECT_EQ(entries[0].finish, FinishReason::kStop);
  EXPECT_EQ(entries[0].first_index, 2u);
  EXPECT_TRUE(entries[0].token_ids.empty());
  EXPECT_TRUE(step({}).empty());
  EXPECT_EQ(answers_.open_answers(), 0u);

  request_.sampling.stop = {"b"};
  open({0, 1});  // the main thread knows nothing of stop strings
  entries = step({});
  ASSERT_EQ(entries.size(), 1u);
  EXPECT_EQ(entries[0].finish, FinishReason::kStop);
  EXPECT_EQ(answers_.take_stops().size(), 1u);
  EXPECT_FALSE(draw(2, 3));
}

TEST_F(AnswerTextTest, AnotherAttemptsTokensAreIgnored) {
  open();
  StepOutput output;
  output.tokens.push_back({.sequence = kSequence, .attempt = Attempt{2}, .index = 0, .token = 1});
  output.tokens.push_back(
      {.sequence = {RequestId{8}, 0}, .attempt = kFirst, .index = 0, .token = 1});
  EXPECT_TRUE(step(std::move(output)).empty());
}

}  // namespace
}  // namespace tailor::worker
