#include "coordinator/stream_store.h"

#include <gtest/gtest.h>

#include <random>

#include "tests/coordinator/report_piece.h"

namespace tailor::coordinator {
namespace {

const Time kStart{seconds(100)};

void open(StreamStore& store, uint64_t id, uint32_t samples = 1) {
  store.open(RequestId{id}, samples, api::Accepted{"r" + std::to_string(id), {1, 2}, 7, 64},
             ClientId{1});
}
void close(StreamStore& store, uint64_t id, Time at, FinishReason reason = FinishReason::kNone,
           Error error = {ErrorCode::kOk, {}}) {
  store.close(RequestId{id}, reason, std::move(error), 2, {}, at);
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

TEST(StreamStore, CursorsReadEverythingOnce) {
  StreamStore store({});
  open(store, 1, 2);
  StreamCursor cursor = store.cursor(RequestId{1}, {});
  EXPECT_TRUE(store.read_up(RequestId{1}, cursor));
  ASSERT_TRUE(append(store, RequestId{1}, report_piece(0, 0, {10, 11}, 0, "ab"), 0).has_value());
  ASSERT_TRUE(append(store, RequestId{1}, report_piece(1, 0, {20}, 0, ""), 0).has_value());
  std::vector<api::ServerEvent> events;
  store.read(RequestId{1}, cursor, 1 << 20, events);
  ASSERT_EQ(events.size(), 2u);
  EXPECT_EQ(std::get<api::TokenChunk>(events[0]).token_ids, (std::vector<TokenId>{10, 11}));
  EXPECT_EQ(std::get<api::TokenChunk>(events[1]).sample, 1u);
  EXPECT_TRUE(store.read_up(RequestId{1}, cursor));
  events.clear();
  EXPECT_EQ(store.read(RequestId{1}, cursor, 1 << 20, events), 0u);
  // Text alone, set free by the end.
  ASSERT_TRUE(append(store, RequestId{1}, report_piece(1, 1, {}, 0, "held"), 0).has_value());
  EXPECT_FALSE(store.read_up(RequestId{1}, cursor));
  store.read(RequestId{1}, cursor, 1 << 20, events);
  ASSERT_EQ(events.size(), 1u);
  EXPECT_EQ(std::get<api::TokenChunk>(events[0]).text, "held");
  EXPECT_EQ(store.generated(RequestId{1}), (std::vector<std::vector<TokenId>>{{10, 11}, {20}}));
}

TEST(StreamStore, RepeatsAfterALossAreDroppedAndGapsAreRefused) {
  StreamStore store({});
  open(store, 1);
  ASSERT_TRUE(append(store, RequestId{1}, report_piece(0, 0, {1, 2, 3}, 0, "abc"), 0).has_value());
  ASSERT_TRUE(append(store, RequestId{1}, report_piece(0, 1, {2, 3, 4}, 1, "bcd"), 2).has_value());
  EXPECT_EQ(store.generated(RequestId{1})[0], (std::vector<TokenId>{1, 2, 3, 4}));
  StreamCursor cursor = store.cursor(RequestId{1}, {});
  std::vector<api::ServerEvent> events;
  store.read(RequestId{1}, cursor, 1000, events);
  EXPECT_EQ(std::get<api::TokenChunk>(events[0]).text, "abcd");
  const auto gap = append(store, RequestId{1}, report_piece(0, 4, {5}, 9, "x"), 0);
  ASSERT_FALSE(gap.has_value());
  EXPECT_EQ(gap.error().code, ErrorCode::kDataLoss);
  const auto empty = append(store, RequestId{1}, report_piece(0, 4, {5}, 9, ""), 0);
  ASSERT_FALSE(empty.has_value());
  EXPECT_EQ(empty.error().code, ErrorCode::kDataLoss);
  EXPECT_EQ(store.num_tokens(RequestId{1}, 0), 4u);
}

TEST(StreamStore, FinishedTellsEachSamplesOwnEndAndTheFirstError) {
  StreamStore store({});
  open(store, 1, 3);
  auto stopped = report_piece(0, 0, {1, 2}, 0, "ab");
  stopped.progress.finish = FinishReason::kStop;
  stopped.end.stop_match = "END";
  auto failed = report_piece(1, 0, {1}, 0, "a");
  failed.progress.finish = FinishReason::kFailed;
  failed.end.error = {ErrorCode::kOutOfBlocks, "too long"};
  ASSERT_TRUE(append(store, RequestId{1}, std::move(stopped), 0).has_value());
  ASSERT_TRUE(append(store, RequestId{1}, std::move(failed), 0).has_value());
  close(store, 1, kStart, FinishReason::kCancelled);
  const auto& end = store.finished(RequestId{1});
  EXPECT_EQ(end.samples[0].reason, FinishReason::kStop);
  EXPECT_EQ(end.samples[0].stop_match, "END");
  EXPECT_EQ(end.samples[0].completion_tokens, 2u);
  EXPECT_EQ(end.samples[1].reason, FinishReason::kFailed);
  EXPECT_EQ(end.samples[2].reason, FinishReason::kCancelled);
  EXPECT_EQ(end.error.code, ErrorCode::kOutOfBlocks);
}

TEST(StreamStore, EndedStreamsAreKeptWithinAgeCountAndBytes) {
  StreamStoreOptions options;
  options.max_ended = 3;
  StreamStore store(options);
  for (uint64_t id = 1; id <= 5; ++id) {
    open(store, id);
    close(store, id, kStart + seconds(id));
  }
  EXPECT_EQ(store.find("r2"), RequestId{0});
  EXPECT_EQ(store.find("r3"), RequestId{3});
  store.expire(kStart + seconds(3) + options.keep);
  EXPECT_FALSE(store.contains(RequestId{3}));
  EXPECT_TRUE(store.contains(RequestId{4}));
  store.check_integrity();

  options = {};
  options.max_ended_bytes = 5000;
  StreamStore small(options);
  for (uint64_t id = 1; id <= 5; ++id) {
    open(small, id);
    ASSERT_TRUE(append(small, RequestId{id}, report_piece(0, 0, {1}, 0, std::string(2000, 'x')), 0)
                    .has_value());
    close(small, id, kStart);
  }
  EXPECT_LE(small.bytes(), 5600u);
  EXPECT_TRUE(small.contains(RequestId{5}));
  small.check_integrity();
}

TEST(StreamStore, ResumeFromAnyTokenAndAnyMessageSizeGivesTheWholeAnswer) {
  const std::vector<std::string> pieces = {"a", "", "é", "世界", "", " the", "😀", "."};
  for (uint64_t seed = 1; seed <= 30; ++seed) {
    std::mt19937_64 random(seed);
    StreamStore store({});
    open(store, 1, 2);
    std::vector<std::vector<TokenId>> tokens(2);
    std::vector<std::string> text(2);
    Listener steady(2), resuming(2);
    StreamCursor steady_cursor = store.cursor(RequestId{1}, {}), cursor = steady_cursor;
    for (int step = 0; step < 60; ++step) {
      const uint32_t s = random() % 2;
      std::vector<TokenId> ids;
      std::string piece;
      for (uint64_t i = random() % 5; i > 0; --i) {
        ids.push_back(static_cast<TokenId>(random() % 1000));
        piece += pieces[random() % pieces.size()];
      }
      ASSERT_TRUE(append(store, RequestId{1},
                         report_piece(s, tokens[s].size(), ids, text[s].size(), piece), 0)
                      .has_value());
      tokens[s].insert(tokens[s].end(), ids.begin(), ids.end());
      text[s] += piece;
      std::vector<api::ServerEvent> events;
      if (random() % 2) store.read(RequestId{1}, steady_cursor, 1 + random() % 200, events);
      steady.hear(events);
      events.clear();
      if (random() % 3 == 0)  // the connection broke: from the tokens it has
        cursor = store.cursor(RequestId{1}, {static_cast<uint32_t>(resuming.tokens[0].size()),
                                             static_cast<uint32_t>(resuming.tokens[1].size())});
      store.read(RequestId{1}, cursor, 1 + random() % 200, events);
      resuming.hear(events);
      store.check_integrity();
    }
    for (auto* pair : {&steady, &resuming}) {
      auto& c = pair == &steady ? steady_cursor : cursor;
      for (int i = 0; i < 10000 && !store.read_up(RequestId{1}, c); ++i) {
        std::vector<api::ServerEvent> events;
        store.read(RequestId{1}, c, 90, events);
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
