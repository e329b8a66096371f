#include "coordinator/client_sessions.h"

#include <gtest/gtest.h>

#include <map>
#include <random>
#include <set>

#include "tests/coordinator/report_piece.h"

namespace tailor::coordinator {
namespace {

const Time kStart{seconds(100)};

struct World {
  explicit World(ClientSessionsOptions options = {}, RequestStoreOptions keep = {})
      : store(keep), sessions(options) {}

  void submit(ClientId client, uint64_t id, bool detached = false) {
    StoredRequest& request =
        open_request(store, id, static_cast<uint32_t>(id), 1, client, detached);
    sessions.post(client, request.accepted());
    sessions.attach(client, request, {});
  }
  StoredRequest& request(uint64_t id) {
    StoredRequest* found = store.find("r" + std::to_string(id));
    EXPECT_NE(found, nullptr);
    return *found;
  }
  void attach(ClientId client, uint64_t id, const std::vector<uint32_t>& from = {}) {
    sessions.attach(client, request(id), request(id).cursor(from));
  }
  void token(uint64_t id, const std::string& text = "x") {
    StoredRequest& one = request(id);
    const uint32_t first = one.num_tokens(0);
    auto piece = report_piece(0, first, {static_cast<TokenId>(first)}, texts[id].size(), text);
    texts[id] += text;
    ASSERT_TRUE(append(store, one, std::move(piece), 0).has_value());
    sessions.changed(one);
  }
  void end(uint64_t id) {
    sessions.changed(request(id));
    sessions.forgotten(
        store.end(static_cast<uint32_t>(id), FinishReason::kStop, {ErrorCode::kOk, {}}, now));
  }
  std::vector<ClientSessions::Message> flush() {
    auto messages = sessions.flush();
    sessions.check_integrity();
    return messages;
  }
  /// Forgets those that are gone by then.
  std::vector<ClientSessions::Gone> expire(Time heard_until) {
    auto gone = sessions.gone(heard_until);
    for (const auto& one : gone) sessions.forget(one.client);
    sessions.check_integrity();
    return gone;
  }

  Time now = kStart;
  RequestStore store;
  ClientSessions sessions;
  std::map<uint64_t, std::string> texts;
};

std::string kinds(const ClientSessions::Message& message) {
  std::string line;
  for (const auto& event : message.events) line += "ACFRSG"[event.index()];
  return line;
}

TEST(ClientSessions, OneMessagePerStepInOrderWithTheEndLast) {
  World w;
  const ClientId a{1};
  w.sessions.heard(a, w.now);
  w.submit(a, 1);
  w.submit(a, 2);
  w.token(1);
  w.token(2);
  w.token(1);
  w.end(1);
  const auto messages = w.flush();
  ASSERT_EQ(messages.size(), 1u);
  EXPECT_EQ(kinds(messages[0]), "AACFC");
  EXPECT_EQ(std::get<api::TokenChunk>(messages[0].events[2]).token_ids.size(), 2u);
  EXPECT_TRUE(w.flush().empty());
  EXPECT_EQ(w.sessions.attached(), 1u);  // the ended one is read
}

TEST(ClientSessions, ASlowClientGetsFewerLargerChunks) {
  ClientSessionsOptions options;
  options.initial_credit = 1;
  World w(options);
  const ClientId a{1};
  w.sessions.heard(a, w.now);
  w.submit(a, 1);
  EXPECT_EQ(w.flush().size(), 1u);
  for (int i = 0; i < 100; ++i) {
    w.token(1);
    EXPECT_TRUE(w.flush().empty());
  }
  w.end(1);
  EXPECT_TRUE(w.flush().empty());
  w.sessions.grant(a, 1);
  const auto messages = w.flush();
  ASSERT_EQ(messages.size(), 1u);
  EXPECT_EQ(kinds(messages[0]), "CF");
  EXPECT_EQ(std::get<api::TokenChunk>(messages[0].events[0]).token_ids.size(), 100u);
}

TEST(ClientSessions, SilentClientsAreGoneAndOnlyDetachedRequestsStay) {
  World w;
  const ClientId a{1}, b{2};
  w.sessions.heard(a, w.now);
  w.sessions.heard(b, w.now);
  w.submit(a, 1);
  w.submit(a, 2, true);
  w.submit(a, 3);
  w.submit(b, 4);
  w.end(3);
  w.sessions.heard(b, w.now + seconds(5));
  EXPECT_TRUE(w.expire(w.now + seconds(10) - Duration(1)).empty());
  const auto gone = w.expire(w.now + seconds(10));
  ASSERT_EQ(gone.size(), 1u);
  EXPECT_EQ(gone[0].client, a);
  EXPECT_EQ(gone[0].cancel, (std::vector<RequestId>{RequestId{1}}));
  w.sessions.check_integrity();
  // The detached one is found by whoever asks for it.
  w.token(2);
  const ClientId c{3};
  w.sessions.heard(c, w.now);
  w.attach(c, 2);
  const auto messages = w.flush();
  ASSERT_EQ(messages.size(), 2u);
  EXPECT_EQ(messages[0].client, b);
  EXPECT_EQ(messages[1].client, c);
}

TEST(ClientSessions, ResumeElsewhereTakesTheStreamAlong) {
  World w;
  const ClientId a{1}, b{2};
  w.sessions.heard(a, w.now);
  w.submit(a, 1);
  w.token(1);
  w.token(1);
  w.flush();
  w.sessions.unreachable(a);
  w.sessions.heard(b, w.now);
  w.attach(b, 1, {1});
  EXPECT_TRUE(w.sessions.reads(b, w.request(1)) && !w.sessions.reads(a, w.request(1)));
  const auto messages = w.flush();
  ASSERT_EQ(messages.size(), 1u);
  EXPECT_EQ(messages[0].client, b);
  EXPECT_EQ(std::get<api::TokenChunk>(messages[0].events[0]).first_index, 1u);
  EXPECT_TRUE(w.expire(w.now + seconds(20)).at(0).cancel.empty());  // a has nothing left to cancel
}

TEST(ClientSessions, TheLastWordsToAClientTellItsEndsWithoutCredit) {
  ClientSessionsOptions options;
  options.initial_credit = 0;
  World w(options);
  const ClientId a{1}, b{2};
  for (const ClientId id : {a, b}) w.sessions.heard(id, w.now);
  w.submit(a, 1);
  w.submit(a, 2, true);
  w.token(1);
  const auto gone = w.sessions.gone(w.now + seconds(10));
  ASSERT_EQ(gone.size(), 2u);
  EXPECT_EQ(gone[0].cancel, (std::vector<RequestId>{RequestId{1}}));
  w.end(1);
  EXPECT_EQ(kinds({a, w.sessions.forget(a)}), "FG");  // and the detached one is to be resumed
  w.sessions.unreachable(b);
  EXPECT_EQ(kinds({b, w.sessions.forget(b)}), "");
  EXPECT_EQ(w.sessions.attached(), 0u);
  w.sessions.check_integrity();
  EXPECT_TRUE(w.sessions.forget(a).empty());
}

TEST(ClientSessions, APauseOfOursIsNoSilenceOfAClient) {
  World w;
  w.sessions.heard(ClientId{1}, w.now);
  w.sessions.forgive(seconds(7));
  EXPECT_TRUE(w.sessions.gone(w.now + seconds(17) - Duration(1)).empty());
  EXPECT_EQ(w.sessions.gone(w.now + seconds(17)).size(), 1u);
}

TEST(ClientSessions, AClientThatComesBackUnderItsNumberIsToldToAskAnew) {
  World w;
  const ClientId a{1};
  w.sessions.heard(a, w.now);
  w.submit(a, 1);
  w.flush();
  w.sessions.unreachable(a);
  w.token(1);
  EXPECT_TRUE(w.flush().empty());
  w.sessions.heard(a, w.now);
  const auto messages = w.flush();
  ASSERT_EQ(messages.size(), 1u);
  EXPECT_EQ(kinds(messages[0]), "GC");
}

TEST(ClientSessions, AClientsRequestsEndInAnyOrder) {
  World w;
  w.sessions.heard(ClientId{1}, w.now);
  w.sessions.heard(ClientId{2}, w.now);
  for (uint64_t id = 1; id <= 20; ++id) w.submit(ClientId{1}, id);
  w.flush();
  for (uint64_t id : {7, 20, 1, 13}) w.end(id);
  w.attach(ClientId{2}, 5);
  EXPECT_EQ(w.flush().size(), 1u);
  EXPECT_EQ(w.sessions.attached(), 16u);
  EXPECT_EQ(w.sessions.gone(w.now + seconds(10)).at(0).cancel.size(), 15u);
}

TEST(ClientSessions, WhoseStreamIsTakenIsTold) {
  World w;
  const ClientId a{1}, b{2};
  for (const ClientId id : {a, b}) w.sessions.heard(id, w.now);
  w.submit(a, 1);
  w.flush();
  w.token(1);
  w.attach(b, 1);
  w.attach(b, 1);  // one's own: no word
  const auto messages = w.flush();
  ASSERT_EQ(messages.size(), 2u);
  EXPECT_EQ(kinds(messages[0]), "R");
  EXPECT_EQ(messages[0].client, a);
  EXPECT_EQ(std::get<api::Rejected>(messages[0].events[0]).request_id, "r1");
  EXPECT_EQ(kinds(messages[1]), "C");
}

TEST(ClientSessions, WhatPilesUpIsBounded) {
  ClientSessionsOptions options;
  options.initial_credit = 0;
  options.max_posted = 10;
  World w(options);
  const ClientId a{1};
  w.sessions.heard(a, w.now);
  for (int i = 0; i < 11; ++i) w.sessions.post(a, api::Rejected{});
  const auto gone = w.expire(w.now);
  ASSERT_EQ(gone.size(), 1u);
  EXPECT_FALSE(w.sessions.known(a));
  w.sessions.post(a, api::Rejected{});  // harmless
  EXPECT_TRUE(w.flush().empty());
}

TEST(ClientSessions, WhatPilesUpIsBoundedInBytes) {
  ClientSessionsOptions options;
  options.initial_credit = 0;
  options.max_posted_bytes = 100'000;
  World w(options);
  const ClientId a{1};
  w.sessions.heard(a, w.now);
  int posted = 0;
  for (; w.sessions.gone(w.now).empty(); ++posted) {
    ASSERT_LE(posted, 100);
    w.sessions.post(a, api::Rejected{"r", Error{ErrorCode::kInternal, std::string(1000, 'x')}, {}});
    w.sessions.check_integrity();
  }
  EXPECT_GE(posted, 50);
  EXPECT_EQ(w.sessions.gone(w.now)[0].client, a);
}

TEST(ClientSessions, AnAcceptedThatWaitsHoldsNoCopyOfItsPromptAndIsSentInBoundedMessages) {
  ClientSessionsOptions options;
  options.initial_credit = 0;
  options.max_posted_bytes = 400'000;  // the prompts together: 8 MB
  options.max_message_bytes = 64 << 10;
  World w(options);
  const ClientId a{1};
  w.sessions.heard(a, w.now);
  constexpr uint64_t kRequests = 500;
  for (uint64_t id = 1; id <= kRequests; ++id) {
    StoredRequest& request = open_request(w.store, id, static_cast<uint32_t>(id), 1, a, false,
                                          std::vector<TokenId>(4000, TokenId(id)));
    w.sessions.post_accepted(a, request);
    w.sessions.attach(a, request, {});
  }
  EXPECT_TRUE(w.sessions.gone(w.now).empty());
  w.sessions.grant(a, 1000);
  uint64_t told = 0;
  for (auto batch = w.flush(); !batch.empty(); batch = w.flush()) {
    ASSERT_EQ(batch.size(), 1u);
    EXPECT_LE(batch[0].events.size(), 5u);  // 16 KB each
    for (const auto& event : batch[0].events) {
      const auto& accepted = std::get<api::Accepted>(event);
      EXPECT_EQ(accepted.request_id, "r" + std::to_string(++told));
      EXPECT_EQ(accepted.prompt_token_ids.size(), 4000u);
    }
    EXPECT_TRUE(told == kRequests || w.sessions.more());
  }
  EXPECT_EQ(told, kRequests);
}

TEST(ClientSessions, WhoReadsTooSlowlyIsToldThatTheAnswerIsForgotten) {
  ClientSessionsOptions options;
  options.initial_credit = 0;
  RequestStoreOptions keep;
  keep.max_ended = 2;
  World w(options, keep);
  const ClientId a{1};
  w.sessions.heard(a, w.now);
  for (uint64_t id = 1; id <= 4; ++id) {
    StoredRequest& request = open_request(w.store, id, static_cast<uint32_t>(id), 1, a);
    w.sessions.post_accepted(a, request);
    w.sessions.attach(a, request, {});
    w.token(id);
  }
  for (uint64_t id = 1; id <= 4; ++id) w.end(id);  // the first two make room
  w.sessions.check_integrity();
  w.store.check_integrity();
  EXPECT_EQ(w.sessions.attached(), 2u);
  w.sessions.forgotten(w.store.expire(w.now + seconds(60)));  // the others are too old by then
  EXPECT_EQ(w.sessions.attached(), 0u);
  EXPECT_EQ(w.store.size(), 0u);
  w.submit(a, 5);
  w.sessions.grant(a, 1);
  const auto messages = w.flush();
  ASSERT_EQ(messages.size(), 1u);
  EXPECT_EQ(kinds(messages[0]), "RRRRA");  // of what is forgotten nothing is said but that
  for (uint64_t id = 1; id <= 4; ++id) {
    const auto& rejected = std::get<api::Rejected>(messages[0].events[id - 1]);
    EXPECT_EQ(rejected.request_id, "r" + std::to_string(id));
    EXPECT_EQ(rejected.error.code, ErrorCode::kNotFound);
  }
}

TEST(ClientSessions, WhatIsTakenOutOfTheMiddleLeavesTheOthersInOrder) {
  ClientSessionsOptions options;
  options.initial_credit = 0;
  RequestStoreOptions keep;
  keep.max_ended = 20;
  World w(options, keep);
  const ClientId a{1}, b{2};
  for (const ClientId id : {a, b}) w.sessions.heard(id, w.now);
  for (uint64_t id = 1; id <= 90; ++id) {
    StoredRequest& request = open_request(w.store, id, static_cast<uint32_t>(id), 1, a);
    w.sessions.attach(a, request, {});
    w.token(id);
  }
  // A third is read elsewhere, a third has ended and is partly forgotten, a third just waits.
  for (uint64_t id = 3; id <= 90; id += 3) {
    w.attach(b, id);
    w.sessions.check_integrity();
  }
  for (uint64_t id = 1; id <= 90; id += 3) {
    w.end(id);
    w.sessions.check_integrity();
  }
  EXPECT_EQ(w.sessions.attached(), 80u);
  w.sessions.grant(a, 1);
  w.sessions.grant(b, 1);
  std::map<uint64_t, std::string> heard;
  for (const auto& message : w.flush())
    for (const auto& event : message.events)
      if (const auto* chunk = std::get_if<api::TokenChunk>(&event))
        heard[message.client.value] += chunk->request_id + " ";
  std::map<uint64_t, std::string> expected;
  for (uint64_t id = 1; id <= 90; ++id) {
    if (id % 3 == 1 && id <= 30) continue;  // forgotten
    expected[id % 3 == 0 ? 2 : 1] += "r" + std::to_string(id) + " ";
  }
  EXPECT_EQ(heard, expected);
  w.sessions.check_integrity();
}

TEST(ClientSessions, LargeAnswersAreCutIntoMessagesOfBoundedSize) {
  ClientSessionsOptions options;
  options.max_message_bytes = 4096;
  World w(options);
  const ClientId a{1};
  w.sessions.heard(a, w.now);
  w.submit(a, 1);
  for (int i = 0; i < 100; ++i) w.token(1, std::string(200, 'x'));
  w.end(1);
  size_t text = 0, messages = 0;
  bool ended = false;
  for (auto batch = w.flush(); !batch.empty(); batch = w.flush()) {
    ASSERT_EQ(batch.size(), 1u);
    ++messages;
    size_t bytes = 0;
    for (const auto& event : batch[0].events)
      if (const auto* chunk = std::get_if<api::TokenChunk>(&event)) bytes += chunk->text.size();
    EXPECT_LE(bytes, 4096u);
    text += bytes;
    ended = std::holds_alternative<api::Finished>(batch[0].events.back());
  }
  EXPECT_EQ(text, 20'000u);
  EXPECT_GE(messages, 5u);
  EXPECT_TRUE(ended);
}

TEST(ClientSessions, EveryClientHearsEverythingOnceUnderRandomCreditAndOrder) {
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    std::mt19937_64 random(seed);
    ClientSessionsOptions options;
    options.initial_credit = random() % 3;
    options.max_message_bytes = 200 + random() % 1000;
    World w(options);
    std::map<uint64_t, uint64_t> owner;
    std::map<uint64_t, std::string> heard;
    std::map<uint64_t, size_t> tokens;
    std::set<uint64_t> accepted, finished, ended;
    uint64_t next = 1;
    const auto listen = [&] {
      std::set<uint64_t> told;
      for (const auto& message : w.flush()) {
        ASSERT_TRUE(told.insert(message.client.value).second) << "one message per client and step";
        for (const auto& event : message.events) {
          if (const auto* a = std::get_if<api::Accepted>(&event)) {
            ASSERT_TRUE(accepted.insert(std::stoull(a->request_id.substr(1))).second);
          } else if (const auto* c = std::get_if<api::TokenChunk>(&event)) {
            const uint64_t id = std::stoull(c->request_id.substr(1));
            ASSERT_EQ(owner[id], message.client.value);
            ASSERT_TRUE(accepted.count(id) && !finished.count(id));
            ASSERT_EQ(c->text_offset, heard[id].size());
            ASSERT_EQ(c->first_index, tokens[id]);
            heard[id] += c->text;
            tokens[id] += c->token_ids.size();
          } else if (const auto* f = std::get_if<api::Finished>(&event)) {
            const uint64_t id = std::stoull(f->request_id.substr(1));
            ASSERT_TRUE(finished.insert(id).second);
            ASSERT_EQ(heard[id], w.texts[id]);
            ASSERT_EQ(tokens[id], f->samples[0].completion_tokens);
          }
        }
      }
    };
    for (uint64_t c = 1; c <= 3; ++c) w.sessions.heard(ClientId{c}, w.now);
    for (int step = 0; step < 800 && !HasFatalFailure(); ++step) {
      const auto choice = random() % 10;
      if (choice == 0 && next <= 30) {
        owner[next] = 1 + random() % 3;
        w.submit(ClientId{owner[next]}, next);
        ++next;
      } else if (choice < 6 && next > 1) {
        const uint64_t id = 1 + random() % (next - 1);
        if (!ended.count(id)) w.token(id, std::string(random() % 40, 'y'));
      } else if (choice == 6 && next > 1) {
        const uint64_t id = 1 + random() % (next - 1);
        if (ended.insert(id).second) w.end(id);
      } else if (choice == 7) {
        w.sessions.grant(ClientId{1 + random() % 3}, 1 + random() % 2);
      } else {
        listen();
      }
    }
    for (uint64_t id = 1; id < next; ++id)
      if (ended.insert(id).second) w.end(id);
    for (uint64_t c = 1; c <= 3; ++c) w.sessions.grant(ClientId{c}, 10'000);
    for (int i = 0; i < 2000 && finished.size() < next - 1; ++i) listen();
    ASSERT_EQ(finished.size(), next - 1);
    ASSERT_EQ(w.sessions.attached(), 0u);
  }
}

}  // namespace
}  // namespace tailor::coordinator
