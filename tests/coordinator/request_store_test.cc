#include "coordinator/request_store.h"

#include <gtest/gtest.h>

#include <random>

#include "tests/coordinator/report_piece.h"

namespace tailor::coordinator {
namespace {

const Time kStart{seconds(100)};

StoredRequest& open(RequestStore& store, uint64_t id, uint32_t samples = 1) {
  return open_request(store, id, static_cast<uint32_t>(id), samples);
}
/// Nobody reads it.
void close(RequestStore& store, uint64_t id, Time at, FinishReason reason = FinishReason::kNone) {
  EXPECT_TRUE(store.end(static_cast<uint32_t>(id), reason, {ErrorCode::kOk, {}}, at).empty());
}

/// A client: keeps what it is told, drops repeats by index and offset, and notices gaps.
struct Listener {
  std::vector<std::vector<TokenId>> tokens;
  std::vector<std::string> text;
  bool gap = false;
  explicit Listener(size_t samples) : tokens(samples), text(samples) {}
  void hear(const std::vector<api::ServerEvent>& events) {
    for (const auto& event : events) {
      const auto* chunk = std::get_if<api::TokenChunk>(&event);
      if (!chunk) continue;
      auto& t = tokens[chunk->sample];
      auto& s = text[chunk->sample];
      if (chunk->first_index > t.size() || chunk->text_offset > s.size()) gap = true;
      for (size_t i = 0; i < chunk->token_ids.size(); ++i)
        if (chunk->first_index + i == t.size()) t.push_back(chunk->token_ids[i]);
      if (chunk->text_offset + chunk->text.size() > s.size())
        s += chunk->text.substr(s.size() - chunk->text_offset);
    }
  }
};

TEST(RequestStore, CursorsReadEverythingOnce) {
  RequestStore store({});
  StoredRequest& r = open(store, 1, 2);
  StreamCursor cursor = r.cursor({});
  EXPECT_TRUE(r.read_up(cursor));
  ASSERT_TRUE(append(store, r, report_piece(0, 0, {10, 11}, 0, "ab"), 0).has_value());
  ASSERT_TRUE(append(store, r, report_piece(1, 0, {20}, 0, ""), 0).has_value());
  std::vector<api::ServerEvent> events;
  r.read(cursor, 1 << 20, events);
  ASSERT_EQ(events.size(), 2u);
  EXPECT_EQ(std::get<api::TokenChunk>(events[0]).token_ids, (std::vector<TokenId>{10, 11}));
  EXPECT_EQ(std::get<api::TokenChunk>(events[1]).sample, 1u);
  EXPECT_TRUE(r.read_up(cursor));
  events.clear();
  EXPECT_EQ(r.read(cursor, 1 << 20, events), 0u);
  // Text alone, set free by the end.
  ASSERT_TRUE(append(store, r, report_piece(1, 1, {}, 0, "held"), 0).has_value());
  EXPECT_FALSE(r.read_up(cursor));
  r.read(cursor, 1 << 20, events);
  ASSERT_EQ(events.size(), 1u);
  EXPECT_EQ(std::get<api::TokenChunk>(events[0]).text, "held");
  EXPECT_EQ(r.generated(), (std::vector<std::vector<TokenId>>{{10, 11}, {20}}));
}

TEST(RequestStore, RepeatsAfterALossAreDroppedAndGapsAreRefused) {
  RequestStore store({});
  StoredRequest& r = open(store, 1);
  ASSERT_TRUE(append(store, r, report_piece(0, 0, {1, 2, 3}, 0, "abc"), 0).has_value());
  ASSERT_TRUE(append(store, r, report_piece(0, 1, {2, 3, 4}, 1, "bcd"), 2).has_value());
  EXPECT_EQ(r.generated()[0], (std::vector<TokenId>{1, 2, 3, 4}));
  StreamCursor cursor = r.cursor({});
  std::vector<api::ServerEvent> events;
  r.read(cursor, 1000, events);
  EXPECT_EQ(std::get<api::TokenChunk>(events[0]).text, "abcd");
  const auto gap = append(store, r, report_piece(0, 4, {5}, 9, "x"), 0);
  ASSERT_FALSE(gap.has_value());
  EXPECT_EQ(gap.error().code, ErrorCode::kDataLoss);
  const auto empty = append(store, r, report_piece(0, 4, {5}, 9, ""), 0);
  ASSERT_FALSE(empty.has_value());
  EXPECT_EQ(empty.error().code, ErrorCode::kDataLoss);
  EXPECT_EQ(r.num_tokens(0), 4u);
}

TEST(RequestStore, FinishedTellsEachSamplesOwnEndAndTheFirstError) {
  RequestStore store({});
  StoredRequest& r = open(store, 1, 3);
  auto stopped = report_piece(0, 0, {1, 2}, 0, "ab");
  stopped.progress.finish = FinishReason::kStop;
  stopped.end.stop_match = "END";
  auto failed = report_piece(1, 0, {1}, 0, "a");
  failed.progress.finish = FinishReason::kFailed;
  failed.end.error = {ErrorCode::kOutOfBlocks, "too long"};
  ASSERT_TRUE(append(store, r, std::move(stopped), 0).has_value());
  ASSERT_TRUE(append(store, r, std::move(failed), 0).has_value());
  close(store, 1, kStart, FinishReason::kCancelled);
  const auto& end = r.finished();
  EXPECT_EQ(end.samples[0].reason, FinishReason::kStop);
  EXPECT_EQ(end.samples[0].stop_match, "END");
  EXPECT_EQ(end.samples[0].completion_tokens, 2u);
  EXPECT_EQ(end.samples[1].reason, FinishReason::kFailed);
  EXPECT_EQ(end.samples[2].reason, FinishReason::kCancelled);
  EXPECT_EQ(end.error.code, ErrorCode::kOutOfBlocks);
}

TEST(RequestStore, AnEndedRequestLeavesItsSlotAndIsFoundByItsName) {
  RequestStore store({});
  StoredRequest& first = open_request(store, 1, 0);
  ASSERT_TRUE(append(store, first, report_piece(0, 0, {5}, 0, "a"), 0).has_value());
  EXPECT_EQ(&store.live(0), &first);
  first.cached_tokens = 16;
  first.timings.attempts = 3;
  EXPECT_TRUE(store.end(0, FinishReason::kStop, {ErrorCode::kOk, {}}, kStart).empty());
  StoredRequest& second = open_request(store, 2, 0);
  EXPECT_EQ(&store.live(0), &second);
  EXPECT_EQ(store.live_count(), 1u);
  EXPECT_EQ(store.find("r1"), &first);
  EXPECT_EQ(store.find("r2"), &second);
  EXPECT_TRUE(first.ended() && !second.ended());
  EXPECT_EQ(first.finished().prompt_tokens, 2u);
  EXPECT_EQ(first.finished().cached_tokens, 16u);
  EXPECT_EQ(first.finished().timings.attempts, 3u);
  EXPECT_EQ(first.accepted().prompt_token_ids, (std::vector<TokenId>{1, 2}));
  StreamCursor cursor;
  std::vector<api::ServerEvent> events;
  first.read(cursor, 1000, events);
  EXPECT_EQ(std::get<api::TokenChunk>(events.at(0)).text, "a");
  store.check_integrity();
}

TEST(RequestStore, EndedStreamsAreKeptWithinAgeCountAndBytes) {
  RequestStoreOptions options;
  options.max_ended = 3;
  RequestStore store(options);
  for (uint64_t id = 1; id <= 5; ++id) {
    open(store, id);
    close(store, id, kStart + seconds(id));
  }
  EXPECT_EQ(store.find("r2"), nullptr);
  ASSERT_NE(store.find("r3"), nullptr);
  EXPECT_EQ(store.find("r3")->id, RequestId{3});
  EXPECT_TRUE(store.expire(kStart + seconds(3) + options.keep).empty());
  EXPECT_EQ(store.find("r3"), nullptr);
  EXPECT_NE(store.find("r4"), nullptr);
  store.check_integrity();

  options = {};
  options.max_ended_bytes = 5000;
  RequestStore small(options);
  for (uint64_t id = 1; id <= 5; ++id) {
    StoredRequest& r = open(small, id);
    ASSERT_TRUE(
        append(small, r, report_piece(0, 0, {1}, 0, std::string(2000, 'x')), 0).has_value());
    close(small, id, kStart);
  }
  EXPECT_LE(small.bytes(), 5600u);
  EXPECT_NE(small.find("r5"), nullptr);
  small.check_integrity();
}

TEST(RequestStore, ResumeFromAnyTokenAndAnyMessageSizeGivesTheWholeAnswer) {
  const std::vector<std::string> pieces = {"a", "", "é", "世界", "", " the", "😀", "."};
  for (uint64_t seed = 1; seed <= 30; ++seed) {
    std::mt19937_64 random(seed);
    RequestStore store({});
    StoredRequest& r = open(store, 1, 2);
    std::vector<std::vector<TokenId>> tokens(2);
    std::vector<std::string> text(2);
    Listener steady(2), resuming(2);
    StreamCursor steady_cursor = r.cursor({}), cursor = r.cursor({});
    for (int step = 0; step < 60; ++step) {
      const uint32_t s = random() % 2;
      std::vector<TokenId> ids;
      std::string piece;
      for (uint64_t i = random() % 5; i > 0; --i) {
        ids.push_back(static_cast<TokenId>(random() % 1000));
        piece += pieces[random() % pieces.size()];
      }
      ASSERT_TRUE(append(store, r, report_piece(s, tokens[s].size(), ids, text[s].size(), piece), 0)
                      .has_value());
      tokens[s].insert(tokens[s].end(), ids.begin(), ids.end());
      text[s] += piece;
      std::vector<api::ServerEvent> events;
      if (random() % 2) r.read(steady_cursor, 1 + random() % 200, events);
      steady.hear(events);
      events.clear();
      if (random() % 3 == 0)  // the connection broke: from the tokens it has
        cursor = r.cursor({static_cast<uint32_t>(resuming.tokens[0].size()),
                           static_cast<uint32_t>(resuming.tokens[1].size())});
      r.read(cursor, 1 + random() % 200, events);
      resuming.hear(events);
      store.check_integrity();
    }
    for (auto* pair : {&steady, &resuming}) {
      auto& c = pair == &steady ? steady_cursor : cursor;
      for (int i = 0; i < 10000 && !r.read_up(c); ++i) {
        std::vector<api::ServerEvent> events;
        r.read(c, 90, events);
        pair->hear(events);
      }
      EXPECT_FALSE(pair->gap);
      EXPECT_EQ(pair->tokens, tokens);
      EXPECT_EQ(pair->text, text);
    }
  }
}

}  // namespace
}  // namespace tailor::coordinator
