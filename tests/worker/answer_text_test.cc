// The text side of an answer: what a step drew becomes a report. Direct, without a thread.
#include "worker/answer_text.h"

#include <gtest/gtest.h>

#include "tests/worker/letters.h"
#include "tests/worker/told.h"

namespace tailor::worker {
namespace {

using test::Letters;
using test::Told;

constexpr SequenceId kSequence{RequestId{7}, 0};
constexpr Attempt kFirst{1};

class AnswerTextTest : public testing::Test {
 protected:
  void open(std::vector<TokenId> generated = {}, FinishReason ended = FinishReason::kNone) {
    const auto behind = static_cast<uint32_t>(generated.size());
    next_.changes.push_back({kSequence, kFirst, std::make_shared<const Request>(request_),
                             std::move(generated), ended});
    if (ended != FinishReason::kNone) add(next_, behind, {}, ended);
  }
  void close() { next_.changes.push_back({kSequence, kFirst, nullptr, {}, {}}); }
  static void add(ReportDraft& draft, uint32_t index, std::vector<TokenId> tokens,
                  FinishReason finish, SequenceId sequence = kSequence, Attempt attempt = kFirst) {
    draft.report.progress.push_back({sequence.request, sequence.sample, attempt, index,
                                     static_cast<uint32_t>(tokens.size()), finish});
    draft.payload.texts.emplace_back();
    draft.payload.token_ids.insert(draft.payload.token_ids.end(), tokens.begin(), tokens.end());
  }
  /// Sends the draft; its entries.
  std::vector<Told> report(AnswerText& answers) {
    ReportDraft draft = std::exchange(next_, {});
    answers.complete(draft);
    return test::told(draft.report, std::move(draft.payload));
  }
  /// Some tokens through one step; the report's only progress, if there is one.
  std::optional<Told> draw(uint32_t index, std::vector<TokenId> tokens,
                           FinishReason finish = FinishReason::kNone) {
    add(next_, index, std::move(tokens), finish);
    const auto told = report(answers_);
    if (told.empty()) return std::nullopt;
    EXPECT_EQ(told.size(), 1u);
    return told[0];
  }
  std::optional<Told> draw(uint32_t index, TokenId token,
                           FinishReason finish = FinishReason::kNone) {
    return draw(index, std::vector<TokenId>{token}, finish);
  }
  ReportDraft next_;
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
  close();
  EXPECT_TRUE(report(answers_).empty());
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
    open(generated);
    std::vector<std::pair<uint64_t, std::string>> pieces;
    for (size_t i = resumed; i < tokens.size(); ++i) {
      add(next_, static_cast<uint32_t>(i), {tokens[i]}, FinishReason::kNone);
      for (auto& p : report(fresh))
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
  auto told = report(answers_);
  ASSERT_EQ(told.size(), 1u);
  EXPECT_EQ(told[0].finish, FinishReason::kStop);
  EXPECT_EQ(told[0].first_index, 2u);
  EXPECT_TRUE(told[0].token_ids.empty());
  EXPECT_EQ(told[0].stop_match, "<end>");
  EXPECT_TRUE(report(answers_).empty());
  EXPECT_EQ(answers_.open_answers(), 0u);

  request_.sampling.stop = {"b"};
  open({0, 1});  // the main thread knows nothing of stop strings
  told = report(answers_);
  ASSERT_EQ(told.size(), 1u);
  EXPECT_EQ(told[0].finish, FinishReason::kStop);
  EXPECT_EQ(told[0].text_offset, 1u);
  EXPECT_EQ(told[0].stop_match, "b");
  EXPECT_EQ(answers_.take_stops().size(), 1u);
  EXPECT_FALSE(draw(2, 3));

  close();
  open({0, 1}, FinishReason::kLength);  // it knows an end, and the stop came before
  told = report(answers_);
  ASSERT_EQ(told.size(), 1u);
  EXPECT_EQ(told[0].finish, FinishReason::kStop);
  EXPECT_EQ(told[0].stop_match, "b");
  EXPECT_TRUE(answers_.take_stops().empty());
  EXPECT_EQ(answers_.open_answers(), 0u);
}

TEST_F(AnswerTextTest, ASequenceThatStopsWhileItIsOpenedIsToldBeforeWhatItDraws) {
  request_.sampling.stop = {"b"};
  open({0, 1});
  add(next_, 2, {3}, FinishReason::kNone);
  const auto told = report(answers_);
  ASSERT_EQ(told.size(), 1u);
  EXPECT_EQ(told[0].first_index, 2u);
  EXPECT_EQ(told[0].finish, FinishReason::kStop);
  EXPECT_TRUE(told[0].token_ids.empty());
}

TEST_F(AnswerTextTest, AStopWithinAnEntryOfManyTokensCutsIt) {
  request_.sampling.stop = {"cd"};
  open();
  const auto told = draw(0, std::vector<TokenId>{0, 2, 3, 4, 5}, FinishReason::kLength);
  EXPECT_EQ(told->token_ids, (std::vector<TokenId>{0, 2, 3}));
  EXPECT_EQ(told->text, "a");
  EXPECT_EQ(told->finish, FinishReason::kStop);
  EXPECT_EQ(answers_.open_answers(), 0u);
}

// ReplicaCore tells no tokens of an answer that is not open, nor of another attempt.
TEST_F(AnswerTextTest, TokensOfNoOpenAnswerAreNeverTold) {
  open();
  EXPECT_EQ(draw(0, 0)->text_offset, 0u);
  const auto told = [&](SequenceId sequence, Attempt attempt) {
    add(next_, 1, {1}, FinishReason::kNone, sequence, attempt);
    report(answers_);
  };
  EXPECT_DEATH(told(kSequence, Attempt{2}), "not open");
  EXPECT_DEATH(told({RequestId{8}, 0}, kFirst), "not open");
  add(next_, 0, {}, FinishReason::kFailed, {RequestId{8}, 0});  // refused: it was never opened
  EXPECT_EQ(report(answers_).size(), 1u);
}

}  // namespace
}  // namespace tailor::worker
