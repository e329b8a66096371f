#include "coordinator/coordinator_loop.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>
#include <zmq.h>  // tidy: allow, a bare socket: client::Client always grants credit

#include <cmath>
#include <filesystem>
#include <set>

#include "comm/codec_api.h"
#include "comm/zmq_socket.h"
#include "tests/coordinator/live_cluster.h"

namespace tailor::coordinator {
namespace {

void expect_answer(const Caller::Answer& answer, uint32_t tokens, size_t samples = 1) {
  EXPECT_EQ(answer.accepted, 1);
  ASSERT_EQ(answer.finished.size(), 1u)
      << (answer.rejected.empty() ? "" : to_string(answer.rejected[0].error));
  EXPECT_EQ(answer.finished[0].error.code, ErrorCode::kOk) << to_string(answer.finished[0].error);
  ASSERT_EQ(answer.text.size(), samples);
  for (size_t s = 0; s < samples; ++s) {
    EXPECT_EQ(answer.text[s], answer_text(tokens));
    EXPECT_EQ(answer.tokens[s].size(), tokens);
    EXPECT_EQ(answer.finished[0].samples[s].reason, FinishReason::kLength);
    EXPECT_EQ(answer.finished[0].samples[s].completion_tokens, tokens);
  }
}

TEST(CoordinatorLoop, ServesManyClientsAndTellsEachItsOwn) {
  LiveCluster cluster;
  auto leader = cluster.leader();
  std::vector<std::unique_ptr<Caller>> callers;
  for (int c = 0; c < 4; ++c) {
    callers.push_back(std::make_unique<Caller>(cluster.endpoint()));
    for (int i = 0; i < 10; ++i) {
      auto submit =
          Caller::ask("c" + std::to_string(c) + "-" + std::to_string(i), "hello", 5 + i * 7);
      submit.sampling.n = i % 3 == 0 ? 2 : 1;
      callers.back()->submit(submit);
    }
  }
  for (int c = 0; c < 4; ++c) {
    std::vector<std::string> ids;
    for (int i = 0; i < 10; ++i) ids.push_back("c" + std::to_string(c) + "-" + std::to_string(i));
    ASSERT_TRUE(callers[c]->listen_until_over(ids));
    EXPECT_EQ(callers[c]->answers.size(), 10u);
    for (int i = 0; i < 10; ++i)
      expect_answer(callers[c]->answers[ids[i]], 5 + i * 7, i % 3 == 0 ? 2 : 1);
    const auto& end = callers[c]->answers[ids[0]].finished[0];
    EXPECT_EQ(end.prompt_tokens, 5u);
    EXPECT_GE(end.timings.finished, end.timings.first_token);
    EXPECT_GE(end.timings.first_token, end.timings.dispatched);
    EXPECT_GT(end.timings.first_token, Duration{});
  }
  const auto status = callers[0]->status();
  EXPECT_TRUE(status.ready);
  ASSERT_EQ(status.replicas.size(), 1u);
  EXPECT_GT(status.replicas[0].tokens, 1000u);
  EXPECT_EQ(status.replicas[0].commands_in_flight, 0u);
  EXPECT_EQ(status.active_requests + status.waiting_requests, 0u);
  EXPECT_EQ(status.model, "letters");
}

TEST(CoordinatorLoop, AnswersWhatIsWrongWithARequest) {
  CoordinatorOptions options;
  options.clients.max_context = 64;
  LiveCluster cluster(options);
  auto leader = cluster.leader();
  Caller caller(cluster.endpoint());
  ASSERT_TRUE(caller.wait_ready());
  caller.submit(Caller::ask("long", std::string(64, 'x'), 8));
  caller.submit(Caller::ask("empty", "", 8));
  auto hot = Caller::ask("nan", "x", 8);
  hot.sampling.temperature = std::nanf("");
  caller.submit(hot);
  auto chat = Caller::ask("chat", "", 8);
  chat.prompt = std::vector<api::ChatMessage>{{"user", "hi"}};
  caller.submit(chat);
  auto ids = Caller::ask("ids", "", 8);
  ids.prompt = std::vector<TokenId>{1, 256};
  caller.submit(ids);
  auto wide = Caller::ask("wide", "x", 8);
  wide.sampling.n = 5;
  caller.submit(wide);
  caller.submit(Caller::ask("cut", std::string(60, 'x'), 1000));
  ASSERT_TRUE(caller.listen_until_over({"long", "empty", "nan", "chat", "ids", "wide", "cut"}));
  const auto expect_rejected = [&](const std::string& id, ErrorCode code,
                                   const std::string& words) {
    ASSERT_EQ(caller.answers[id].rejected.size(), 1u) << id;
    EXPECT_EQ(caller.answers[id].rejected[0].error.code, code) << id;
    EXPECT_NE(caller.answers[id].rejected[0].error.message.find(words), std::string::npos)
        << caller.answers[id].rejected[0].error.message;
    EXPECT_EQ(caller.answers[id].accepted, 0);
  };
  expect_rejected("long", ErrorCode::kLimitExceeded,
                  "64 tokens, but prompt and answer together may have 64");
  expect_rejected("empty", ErrorCode::kInvalidArgument, "empty");
  expect_rejected("nan", ErrorCode::kInvalidArgument, "temperature");
  expect_rejected("chat", ErrorCode::kInvalidArgument, "chat template");
  expect_rejected("ids", ErrorCode::kInvalidArgument, "0..255");
  expect_answer(caller.answers["wide"], 8, 5);  // 5 samples on 4 slots
  EXPECT_EQ(caller.answers["cut"].acceptance.max_tokens, 4u);
  expect_answer(caller.answers["cut"], 4);
}

TEST(CoordinatorLoop, ALostReplicasRequestsContinueBehindTheirTokens) {
  CoordinatorOptions options;
  options.heartbeat_timeout = milliseconds(400);
  std::atomic<int32_t> lost_pid{0};
  options.on_lost = [&](const ReplicaInfo& info) { lost_pid = info.pid; };
  LiveCluster cluster(options);
  ScriptedLeader::Options dying;
  dying.die_after_tokens = 150;
  auto first = cluster.leader(dying);
  Caller caller(cluster.endpoint());
  std::vector<std::string> ids;
  for (int i = 0; i < 6; ++i) {
    ids.push_back("r" + std::to_string(i));
    caller.submit(Caller::ask(ids.back(), "hello", 100));
  }
  first->wait_until_gone();
  // Silence: the coordinator notices by itself.
  ASSERT_TRUE(caller.listen([&] { return caller.status().replicas.empty(); }));
  EXPECT_EQ(lost_pid, first->pid());
  auto second = cluster.leader();
  ASSERT_TRUE(caller.listen_until_over(ids));
  uint32_t most_attempts = 0;
  for (const auto& id : ids) {
    expect_answer(caller.answers[id], 100);
    most_attempts = std::max(most_attempts, caller.answers[id].finished[0].timings.attempts);
  }
  EXPECT_EQ(most_attempts, 2u);
}

TEST(CoordinatorLoopDeathTest, AStuckMainThreadEndsItsProcess) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(
      {
        Progress main;
        main.busy = true;
        Watchdog watchdog({{"main", &main}}, {.stuck_after = milliseconds(1000)});
        watchdog.started();
        CoordinatorOptions options;
        options.heartbeat_timeout = milliseconds(400);
        options.progress = &main;
        Mailbox<int> never(1);
        options.on_lost = [&](const ReplicaInfo&) { never.drain_wait(seconds(3600)); };
        LiveCluster cluster(options);
        ScriptedLeader::Options dying;
        dying.die_after_tokens = 1;
        auto leader = cluster.leader(dying);
        Caller caller(cluster.endpoint());
        caller.submit(Caller::ask("r", "hello", 100));
        caller.listen_until_over({"r"});
        _exit(1);
      },
      testing::ExitedWithCode(kStuckExitCode), "");
}

TEST(CoordinatorLoop, HelloOfASuccessorRequeuesAtOnce) {
  CoordinatorOptions options;
  options.heartbeat_timeout = seconds(100);
  LiveCluster cluster(options);
  ScriptedLeader::Options paused;
  paused.pause_after_tokens = 10;
  auto first = cluster.leader(paused);
  Caller caller(cluster.endpoint());
  caller.submit(Caller::ask("r", "hello", 50));
  ASSERT_TRUE(caller.listen([&] { return !caller.answers["r"].tokens.empty(); }));
  auto second = cluster.leader();
  ASSERT_TRUE(caller.listen_until_over({"r"}));
  expect_answer(caller.answers["r"], 50);
  EXPECT_EQ(caller.status().replicas.at(0).epoch, Epoch{2});
  first->wait_until_gone();  // it lost its number and is told to leave
  EXPECT_TRUE(first->was_shut_down());
  EXPECT_FALSE(second->was_shut_down());
}

TEST(CoordinatorLoop, APromptLongerThanTheLostReplicasContextIsRefusedDuringAnOutage) {
  CoordinatorOptions options;
  options.heartbeat_timeout = milliseconds(400);
  LiveCluster cluster(options);
  ScriptedLeader::Options small;
  small.max_context = 64;
  auto leader = cluster.leader(small);
  Caller caller(cluster.endpoint());
  ASSERT_TRUE(caller.wait_ready());
  leader.reset();
  ASSERT_TRUE(
      caller.wait_status([](const api::StatusReport& status) { return status.replicas.empty(); }));
  caller.submit(Caller::ask("long", std::string(100, 'x'), 8));
  ASSERT_TRUE(caller.listen_until_over({"long"}));
  ASSERT_EQ(caller.answers["long"].rejected.size(), 1u);
  EXPECT_EQ(caller.answers["long"].rejected[0].error.code, ErrorCode::kLimitExceeded);
}

TEST(CoordinatorLoop, AnAnswerThatMayOutgrowTheMemoryIsRefusedWithItsNumbers) {
  CoordinatorOptions options;
  options.clients.max_answer_bytes = 1 << 20;
  LiveCluster cluster(options);
  auto leader = cluster.leader({});
  Caller caller(cluster.endpoint());
  ASSERT_TRUE(caller.wait_ready());
  auto wide = Caller::ask("wide", "x", 1000);  // 64 x 1,000 x 32 bytes
  wide.sampling.n = 64;
  caller.submit(wide);
  auto deep = Caller::ask("deep", "x", 2000);  // 4 x 2,000 x (32 + 48 + 20 x 8)
  deep.sampling.n = 4;
  deep.sampling.logprobs = 20;
  caller.submit(deep);
  ASSERT_TRUE(caller.listen_until_over({"wide", "deep"}));
  for (const char* id : {"wide", "deep"}) {
    ASSERT_EQ(caller.answers[id].rejected.size(), 1u) << id;
    EXPECT_EQ(caller.answers[id].rejected[0].error.code, ErrorCode::kLimitExceeded) << id;
  }
  EXPECT_EQ(caller.answers["deep"].rejected[0].error.message,
            "an answer of n 4 x max_tokens 2000 with logprobs 20 may come to hold 2 MiB here, the "
            "limit is 1 MiB; lower one of them");
  deep.request_id = "narrow";
  deep.sampling.n = 2;
  deep.sampling.max_tokens = 4;
  caller.submit(deep);
  ASSERT_TRUE(caller.listen_until_over({"narrow"}));
  expect_answer(caller.answers["narrow"], 4, 2);
}

TEST(CoordinatorLoop, RefusesAReplicaOfAnotherModel) {
  CoordinatorOptions options;
  options.core.expected_replicas = 2;
  LiveCluster cluster(options);
  auto leader = cluster.leader();
  Caller caller(cluster.endpoint());
  ASSERT_TRUE(caller.wait_ready());
  ScriptedLeader::Options other;
  other.replica = 1;
  other.fingerprint = "model-2";
  auto stranger = cluster.leader(other);
  stranger->wait_until_gone();
  EXPECT_TRUE(stranger->was_shut_down());
  EXPECT_FALSE(caller.status().ready);
}

TEST(CoordinatorLoop, AnOperatorsOrderDrainsAReplica) {
  int orders[2];
  ASSERT_EQ(pipe2(orders, O_NONBLOCK), 0);
  CoordinatorOptions options;
  options.core.expected_replicas = 2;
  options.orders_fd = orders[0];
  std::set<uint32_t> drained;
  options.on_drained = [&](ReplicaId replica) { drained.insert(replica.value); };
  {
    LiveCluster cluster(options);
    ScriptedLeader::Options other;
    other.replica = 1;
    auto stays = cluster.leader(), drains = cluster.leader(other);
    Caller caller(cluster.endpoint());
    ASSERT_TRUE(caller.wait_status([](const auto& status) { return status.ready; }));
    ASSERT_EQ(write(orders[1], "drain 1\n", 8), 8);
    ASSERT_TRUE(caller.wait_status([](const auto& status) {
      return status.replicas.size() < 2 || status.replicas[1].draining;
    }));
    std::vector<std::string> ids;
    for (int i = 0; i < 6; ++i) {
      ids.push_back("r" + std::to_string(i));
      caller.submit(Caller::ask(ids.back(), "hello", 20));
    }
    ASSERT_TRUE(caller.listen_until_over(ids));
    for (const auto& id : ids) {
      expect_answer(caller.answers[id], 20);
      EXPECT_EQ(caller.answers[id].finished[0].timings.replica, 0u);
    }
    const auto status = caller.status();
    EXPECT_TRUE(status.ready);  // nobody waits for who leaves
    EXPECT_EQ(status.expected_replicas, 1u);

    // The last one: not by the same words.
    ASSERT_EQ(write(orders[1], "\ndrain 0\n", 9), 9);
    caller.submit(Caller::ask("served", "hello", 20));
    ASSERT_TRUE(caller.listen_until_over({"served"}));
    expect_answer(caller.answers["served"], 20);
    ASSERT_EQ(write(orders[1], "\ndrain 0 last\n", 14), 14);
    ASSERT_TRUE(
        caller.wait_status([](const auto& status) { return status.expected_replicas == 0; }));
    caller.submit(Caller::ask("late", "hello", 20));
    ASSERT_TRUE(caller.listen_until_over({"late"}));
    ASSERT_EQ(caller.answers["late"].rejected.size(), 1u);
    EXPECT_EQ(caller.answers["late"].rejected[0].error.code, ErrorCode::kUnavailable);
    ASSERT_TRUE(caller.wait_status([](const auto& status) { return status.drained.size() == 2; }));
  }
  EXPECT_EQ(drained, (std::set<uint32_t>{0, 1}));
  close(orders[0]);
  close(orders[1]);
}

TEST(CoordinatorLoop, CancelAndDeadlineEndARequestOnce) {
  LiveCluster cluster;
  ScriptedLeader::Options paused;
  paused.pause_after_tokens = 5;
  auto leader = cluster.leader(paused);
  Caller caller(cluster.endpoint());
  caller.submit(Caller::ask("cancelled", "hello", 50));
  auto due = Caller::ask("due", "hello", 50);
  due.deadline = milliseconds(200);
  caller.submit(due);
  ASSERT_TRUE(caller.listen([&] {
    return caller.answers["cancelled"].accepted == 1 && caller.answers["due"].accepted == 1;
  }));
  ASSERT_TRUE(caller.client().cancel("cancelled").has_value());
  ASSERT_TRUE(caller.listen_until_over({"cancelled", "due"}));
  EXPECT_EQ(caller.answers["cancelled"].finished.at(0).samples.at(0).reason,
            FinishReason::kCancelled);
  EXPECT_EQ(caller.answers["cancelled"].finished.at(0).error.code, ErrorCode::kCancelled);
  EXPECT_EQ(caller.answers["due"].finished.at(0).error.code, ErrorCode::kDeadlineExceeded);
  ASSERT_TRUE(caller.client().cancel("never").has_value());
  ASSERT_TRUE(caller.listen_until_over({"never"}));
  EXPECT_EQ(caller.answers["never"].rejected.at(0).error.code, ErrorCode::kNotFound);
}

TEST(CoordinatorLoop, OnlyItsClientOrItsTokenCancelsOrResumesARequest) {
  LiveCluster cluster;
  ScriptedLeader::Options paused;
  paused.pause_after_tokens = 5;
  auto leader = cluster.leader(paused);
  Caller owner(cluster.endpoint()), other(cluster.endpoint());
  ASSERT_TRUE(owner.wait_ready());
  owner.submit(Caller::ask("r", "hello", 50));
  owner.submit(Caller::ask("s", "hello", 50));
  ASSERT_TRUE(owner.listen(
      [&] { return !owner.answers["r"].tokens.empty() && owner.answers["s"].accepted == 1; }));
  const std::string token = owner.answers["r"].acceptance.token;
  EXPECT_EQ(token.size(), 32u);
  EXPECT_NE(token, owner.answers["s"].acceptance.token);

  std::string nearly = token;
  nearly.back() ^= 1;
  const auto refusals = [&] { return other.answers["r"].rejected.size(); };
  for (const std::string& wrong : {std::string(), nearly, token.substr(1), token + "0"}) {
    const size_t before = refusals();
    ASSERT_TRUE(other.client().cancel("r", wrong).has_value());
    ASSERT_TRUE(other.listen([&] { return refusals() == before + 1; }));
    ASSERT_TRUE(other.client().resume({"r", {}, wrong}).has_value());
    ASSERT_TRUE(other.listen([&] { return refusals() == before + 2; }));
  }
  for (const auto& rejected : other.answers["r"].rejected)
    EXPECT_EQ(rejected.error.code, ErrorCode::kUnauthenticated);
  EXPECT_EQ(other.answers["r"].accepted, 0);
  EXPECT_EQ(owner.status().active_requests, 2u);
  EXPECT_TRUE(owner.answers["r"].rejected.empty());

  // With the token the stream moves, and whoever read it is told.
  ASSERT_TRUE(other.client().resume({"r", {}, token}).has_value());
  ASSERT_TRUE(other.listen([&] { return !other.answers["r"].tokens.empty(); }));
  EXPECT_EQ(other.answers["r"].acceptance.token, token);
  ASSERT_TRUE(owner.listen([&] { return !owner.answers["r"].rejected.empty(); }));
  EXPECT_EQ(owner.answers["r"].rejected[0].error.code, ErrorCode::kUnavailable);
  EXPECT_EQ(owner.answers["r"].rejected[0].retry_after, Duration{});
  // It is no longer its own, but it has the token. Both hear the end that it asks for.
  ASSERT_TRUE(owner.client().cancel("r").has_value());
  ASSERT_TRUE(owner.listen([&] { return owner.answers["r"].rejected.size() == 2; }));
  EXPECT_EQ(owner.answers["r"].rejected[1].error.code, ErrorCode::kUnauthenticated);
  ASSERT_TRUE(owner.client().cancel("r", token).has_value());
  ASSERT_TRUE(owner.listen([&] { return !owner.answers["r"].finished.empty(); }));
  ASSERT_TRUE(other.listen([&] { return !other.answers["r"].finished.empty(); }));
  for (const Caller* caller : {&owner, &other})
    EXPECT_EQ(caller->answers.at("r").finished[0].samples.at(0).reason, FinishReason::kCancelled);
  // One that has ended says its end again to whoever cancels it.
  ASSERT_TRUE(other.client().cancel("r", token).has_value());
  ASSERT_TRUE(other.listen([&] { return other.answers["r"].finished.size() == 2; }));
}

TEST(CoordinatorLoop, ACancelRightBehindItsSubmitNeedsNoToken) {
  LiveCluster cluster;
  ScriptedLeader::Options paused;
  paused.pause_after_tokens = 0;
  auto leader = cluster.leader(paused);
  Caller caller(cluster.endpoint());
  caller.submit(Caller::ask("r", "hello", 50));
  ASSERT_TRUE(caller.client().cancel("r").has_value());  // nothing has been heard yet
  ASSERT_TRUE(caller.listen_until_over({"r"}));
  const auto& answer = caller.answers["r"];
  EXPECT_EQ((answer.finished.empty() ? answer.rejected.at(0).error : answer.finished[0].error).code,
            ErrorCode::kCancelled);
}

TEST(CoordinatorLoop, ARepeatedSubmitIsOneRequest) {
  LiveCluster cluster;
  ScriptedLeader::Options paused;
  paused.pause_after_tokens = 5;
  auto leader = cluster.leader(paused);
  Caller caller(cluster.endpoint()), other(cluster.endpoint());
  ASSERT_TRUE(caller.wait_ready());  // accepted requests run at once then, they do not wait
  caller.submit(Caller::ask("r", "hello", 50));
  ASSERT_TRUE(caller.listen([&] { return caller.answers["r"].accepted == 1; }));
  const uint64_t seed = caller.answers["r"].acceptance.seed;
  caller.submit(Caller::ask("r", "hello", 50));
  ASSERT_TRUE(caller.listen([&] { return caller.answers["r"].accepted == 2; }));
  EXPECT_EQ(caller.answers["r"].acceptance.seed, seed);
  EXPECT_NE(seed, 0u);
  other.submit(Caller::ask("r", "hello", 50));
  ASSERT_TRUE(other.listen_until_over({"r"}));
  EXPECT_EQ(other.answers["r"].rejected.at(0).error.code, ErrorCode::kInvalidArgument);
  const auto status = caller.status();
  EXPECT_EQ(status.active_requests, 1u);
}

TEST(CoordinatorLoop, ADetachedRequestIsReadElsewhereAfterItsClientHasGone) {
  CoordinatorOptions options;
  options.sessions.lease = milliseconds(300);
  LiveCluster cluster(options);
  ScriptedLeader::Options paused;
  paused.pause_after_tokens = 30;
  auto slow = cluster.leader(paused);
  api::Accepted first_acceptance;
  std::string dropped_token;
  {
    Caller first(cluster.endpoint());
    auto kept = Caller::ask("kept", "hello", 200);
    kept.detach = true;
    first.submit(kept);
    first.submit(Caller::ask("dropped", "hello", 200));
    ASSERT_TRUE(first.listen(
        [&] { return first.answers["kept"].accepted && first.answers["dropped"].accepted; }));
    first_acceptance = first.answers["kept"].acceptance;
    dropped_token = first.answers["dropped"].acceptance.token;
  }
  Caller second(cluster.endpoint());
  ASSERT_TRUE(second.listen(
      [&] { return second.status().active_requests == 1; }));  // the other one was cancelled
  auto fast = cluster.leader();
  ASSERT_TRUE(second.client().resume({"kept", {}, first_acceptance.token}).has_value());
  ASSERT_TRUE(second.client().resume({"dropped", {}, dropped_token}).has_value());
  ASSERT_TRUE(second.listen_until_over({"kept", "dropped"}));
  EXPECT_EQ(second.answers["kept"].text.at(0), answer_text(200));
  EXPECT_EQ(second.answers["kept"].acceptance.prompt_token_ids, first_acceptance.prompt_token_ids);
  EXPECT_EQ(second.answers["kept"].acceptance.seed, first_acceptance.seed);
  EXPECT_EQ(second.answers["dropped"].finished.at(0).samples.at(0).reason,
            FinishReason::kCancelled);
  // And once more, by a third, from the middle.
  Caller third(cluster.endpoint());
  ASSERT_TRUE(third.client().resume({"kept", {}, first_acceptance.token}).has_value());
  ASSERT_TRUE(third.listen_until_over({"kept"}));
  EXPECT_EQ(third.answers["kept"].text.at(0), answer_text(200));
}

TEST(CoordinatorLoop, AClientThatWasAwayLongerThanItsLeaseHearsOfTheEnd) {
  CoordinatorOptions options;
  options.sessions.lease = milliseconds(500);
  LiveCluster cluster(options);
  ScriptedLeader::Options paused;
  paused.pause_after_tokens = 5;
  auto leader = cluster.leader(paused);
  Caller away(cluster.endpoint(), milliseconds(250)), other(cluster.endpoint());
  away.submit(Caller::ask("r", "hello", 50));
  ASSERT_TRUE(away.listen([&] { return !away.answers["r"].tokens.empty(); }));
  // Its connection lives, but nobody polls it.
  ASSERT_TRUE(other.listen([&] { return other.status().active_requests == 0; }));
  ASSERT_TRUE(away.listen_until_over({"r"}));
  EXPECT_EQ(away.answers["r"].finished.at(0).samples.at(0).reason, FinishReason::kCancelled);
}

TEST(CoordinatorLoop, AClientThatIsForgottenWhileItLivesHearsItsEnds) {
  CoordinatorOptions options;
  options.sessions.lease = milliseconds(1000);
  LiveCluster cluster(options);
  ScriptedLeader::Options paused;
  paused.pause_after_tokens = 5;
  auto leader = cluster.leader(paused);
  // It never asks again by itself: only what it is told can end its requests.
  Caller quiet(cluster.endpoint(), std::chrono::hours(1)), other(cluster.endpoint());
  ASSERT_TRUE(other.wait_ready());
  quiet.submit(Caller::ask("r", "hello", 50));
  auto kept = Caller::ask("kept", "hello", 50);
  kept.detach = true;
  quiet.submit(kept);
  ASSERT_TRUE(quiet.listen(
      [&] { return !quiet.answers["r"].tokens.empty() && quiet.answers["kept"].accepted; }));
  ASSERT_TRUE(other.wait_status(
      [](const api::StatusReport& status) { return status.active_requests == 1; }));
  auto second = cluster.leader();
  ASSERT_TRUE(quiet.listen_until_over({"r", "kept"}));
  EXPECT_EQ(quiet.answers["r"].finished.at(0).samples.at(0).reason, FinishReason::kCancelled);
  EXPECT_EQ(quiet.answers["kept"].text.at(0), answer_text(50));
}

/// A cluster in a process of its own: it can be paused while its clients live on.
class ForkedCluster {
 public:
  explicit ForkedCluster(const CoordinatorOptions& options) {
    int up[2], down[2];
    EXPECT_EQ(pipe(up) | pipe(down), 0);
    pid_ = fork();
    if (pid_ == 0) {
      close(down[1]);
      LiveCluster cluster(options);
      std::unique_ptr<ScriptedLeader> leader;
      const std::string& endpoint = cluster.endpoint();
      (void)!write(up[1], endpoint.c_str(), endpoint.size() + 1);
      for (char order; read(down[0], &order, 1) == 1;) leader = cluster.leader();
      _exit(0);
    }
    close(up[1]);
    close(down[0]);
    for (char c; read(up[0], &c, 1) == 1 && c != 0;) endpoint_ += c;
    close(up[0]);
    orders_ = down[1];
  }
  ~ForkedCluster() {
    go_on();
    close(orders_);
    waitpid(pid_, nullptr, 0);
  }
  void pause() { kill(pid_, SIGSTOP); }
  void go_on() { kill(pid_, SIGCONT); }
  void start_leader() { EXPECT_EQ(write(orders_, "l", 1), 1); }
  const std::string& endpoint() const { return endpoint_; }

 private:
  pid_t pid_ = -1;
  int orders_ = -1;
  std::string endpoint_;
};

TEST(CoordinatorLoop, APauseOfTheCoordinatorLongerThanTheLeaseCancelsNothing) {
  CoordinatorOptions options;
  options.sessions.lease = milliseconds(1000);
  ForkedCluster cluster(options);
  Caller caller(cluster.endpoint()), detached(cluster.endpoint());
  caller.submit(Caller::ask("r", "hello", 50));
  auto kept = Caller::ask("kept", "hello", 50);
  kept.detach = true;
  detached.submit(kept);
  ASSERT_TRUE(caller.listen([&] { return caller.answers["r"].accepted == 1; }));
  ASSERT_TRUE(detached.listen([&] { return detached.answers["kept"].accepted == 1; }));
  const double before = caller.status().uptime_s;
  // Both go on speaking while nobody reads it, and afterwards for longer than a lease.
  const auto speak = [&] {
    (void)caller.client().status(milliseconds(20));
    (void)detached.client().status(milliseconds(20));
  };
  cluster.pause();
  for (const Time until = now() + milliseconds(2500); now() < until;) speak();
  cluster.go_on();
  while (caller.status().uptime_s < before + 4) speak();
  cluster.start_leader();
  ASSERT_TRUE(caller.listen_until_over({"r"}));
  ASSERT_TRUE(detached.listen_until_over({"kept"}));
  expect_answer(caller.answers["r"], 50);
  expect_answer(detached.answers["kept"], 50);
}

TEST(CoordinatorLoop, StopEndsEveryRequestAndTellsTheReplicasToLeave) {
  LiveCluster cluster;
  ScriptedLeader::Options paused;
  paused.pause_after_tokens = 5;
  auto leader = cluster.leader(paused);
  Caller caller(cluster.endpoint());
  caller.submit(Caller::ask("r", "hello", 50));
  ASSERT_TRUE(caller.listen([&] { return !caller.answers["r"].tokens.empty(); }));
  cluster.stop();
  ASSERT_TRUE(caller.listen_until_over({"r"}));
  EXPECT_EQ(caller.answers["r"].finished.at(0).error.code, ErrorCode::kShutdown);
  leader->wait_until_gone();
  EXPECT_TRUE(leader->was_shut_down());
}

// A client that grants no credit and reads nothing.
class Hoarder {
 public:
  explicit Hoarder(const std::string& endpoint) {
    socket_ = std::move(*comm::ZmqSocket::open(context_, ZMQ_DEALER));
    socket_.set(ZMQ_LINGER, 0);
    socket_.set(ZMQ_SNDHWM, 0);
    EXPECT_TRUE(socket_.connect(endpoint));
  }
  void say(const api::ClientMessage& message) {
    EXPECT_EQ(socket_.send({comm::encode(message)}), comm::SendStatus::kSent);
  }

 private:
  comm::ZmqContext context_;
  comm::ZmqSocket socket_;
};

TEST(CoordinatorLoop, WhatAClientWithoutCreditIsOwedIsBoundedInBytes) {
  CoordinatorOptions options;
  options.sessions.initial_credit = 2;
  options.sessions.max_posted_bytes = 50'000;
  LiveCluster cluster(options);
  ScriptedLeader::Options paused;
  paused.pause_after_tokens = 5;
  auto leader = cluster.leader(paused);
  Caller caller(cluster.endpoint());
  Hoarder hoarder(cluster.endpoint());
  hoarder.say(Caller::ask("hoarded", "hello", 50));
  ASSERT_TRUE(caller.wait_status([](const auto& s) { return s.active_requests == 1; }));
  for (int i = 0; i < 500; ++i) hoarder.say(api::StatusQuery{});  // a KB and more each
  ASSERT_TRUE(caller.wait_status([](const auto& s) { return s.active_requests == 0; }));
}

TEST(CoordinatorLoop, PromptsThatWaitToBeTokenizedAreBoundedInBytesAndEndWhenAskedTo) {
  CoordinatorOptions options;
  options.clients.max_context = 1u << 30;
  options.clients.tokenizing.max_bytes = 2'000'000;
  LiveCluster cluster(options);
  Caller caller(cluster.endpoint());
  const std::string large(300'000, 'x');
  std::vector<std::string> ids;
  for (int i = 0; i < 12; ++i) {
    ids.push_back("large" + std::to_string(i));
    caller.submit(Caller::ask(ids.back(), large, 8));
  }
  auto late = Caller::ask("late", "x", 8);
  late.deadline = milliseconds(1);
  caller.submit(late);
  caller.submit(Caller::ask("unwanted", "x", 8));
  ASSERT_TRUE(caller.client().cancel("unwanted").has_value());
  // One client's line is tokenized in its order: these two stood behind the large ones.
  ASSERT_TRUE(caller.listen_until_over({"late", "unwanted"}));
  EXPECT_EQ(caller.answers["late"].rejected.at(0).error.code, ErrorCode::kDeadlineExceeded);
  EXPECT_EQ(caller.answers["unwanted"].rejected.at(0).error.code, ErrorCode::kCancelled);
  int refused = 0;
  ASSERT_TRUE(caller.listen([&] {
    return std::all_of(ids.begin(), ids.end(), [&](const auto& id) {
      return caller.answers[id].accepted == 1 || caller.answers[id].over();
    });
  }));
  for (const auto& id : ids) {
    if (caller.answers[id].accepted == 1) continue;
    ++refused;
    EXPECT_EQ(caller.answers[id].rejected.at(0).error.code, ErrorCode::kQueueFull);
    EXPECT_GT(caller.answers[id].rejected.at(0).retry_after, Duration{});
  }
  EXPECT_GE(refused, 1);
  EXPECT_LT(refused, 12);
  EXPECT_EQ(caller.counter("tokenizing"), 0);
  caller.submit(Caller::ask("then", large, 8));
  ASSERT_TRUE(caller.listen([&] { return caller.answers["then"].accepted == 1; }));
}

TEST(CoordinatorLoop, LiveRequestsAreBoundedInBytes) {
  CoordinatorOptions options;
  options.clients.max_live_bytes = 40'000;
  LiveCluster cluster(options);
  ScriptedLeader::Options paused;
  paused.pause_after_tokens = 5;
  auto leader = cluster.leader(paused);
  Caller caller(cluster.endpoint());
  ASSERT_TRUE(caller.wait_ready());
  const std::string prompt(2000, 'x');  // 8 KB of tokens
  std::vector<std::string> ids;
  for (int i = 0; i < 8; ++i) {
    ids.push_back("r" + std::to_string(i));
    caller.submit(Caller::ask(ids.back(), prompt, 40));
  }
  ASSERT_TRUE(caller.listen_until_over({"r5", "r6", "r7"}));
  EXPECT_EQ(caller.answers["r7"].rejected.at(0).error.code, ErrorCode::kQueueFull);
  EXPECT_GT(caller.answers["r7"].rejected.at(0).retry_after, Duration{});
  EXPECT_EQ(caller.answers["r4"].accepted, 1);
  for (int i = 0; i < 5; ++i) ASSERT_TRUE(caller.client().cancel(ids[i]).has_value());
  ASSERT_TRUE(caller.listen_until_over(ids));
  caller.submit(Caller::ask("then", prompt, 40));
  ASSERT_TRUE(caller.listen([&] { return caller.answers["then"].accepted == 1; }));
}

TEST(CoordinatorLoop, AClientsMessagesWaitWhileTheIoThreadIsBehind) {
  CoordinatorOptions options;
  options.clients.max_outbound_bytes = 1;
  LiveCluster cluster(options);
  auto leader = cluster.leader();
  Caller caller(cluster.endpoint());
  std::vector<std::string> ids;
  for (int i = 0; i < 30; ++i) {
    ids.push_back("r" + std::to_string(i));
    caller.submit(Caller::ask(ids.back(), "hello", 20));
  }
  ASSERT_TRUE(caller.listen_until_over(ids));
  for (const auto& id : ids) expect_answer(caller.answers[id], 20);
}

TEST(CoordinatorLoop, ItsRecordReplays) {
  const std::string path =
      std::filesystem::temp_directory_path() / ("tailor_record_" + std::to_string(getpid()));
  {
    CoordinatorOptions options;
    options.record_path = path;
    LiveCluster cluster(options);
    auto leader = cluster.leader();
    Caller caller(cluster.endpoint());
    std::vector<std::string> ids;
    for (int i = 0; i < 20; ++i) {
      ids.push_back("r" + std::to_string(i));
      caller.submit(Caller::ask(ids.back(), "hello", 20));
    }
    ASSERT_TRUE(caller.listen_until_over(ids));
    cluster.stop();
  }
  const auto summary = replay_log(path);
  std::filesystem::remove(path);
  ASSERT_TRUE(summary.has_value());
  EXPECT_EQ(summary->damage, "");
  EXPECT_EQ(summary->counters.finished, 20u);
  EXPECT_EQ(summary->counters.tokens, 400u);
  EXPECT_EQ(summary->live_at_end, 0u);
}

// ---- the predictor

CoordinatorOptions under_tie() {
  CoordinatorOptions options;
  options.core.policy = *policy_named("tie");
  options.core.ahead_requests = 0;
  options.predictor.silent_after = milliseconds(500);
  return options;
}
/// "len 40": exp(mu) = 40.
std::optional<LengthLaw> by_its_own_word(const Predict& question) {
  return tie::log_t(std::log(std::stod(question.prompt.substr(4))), 0.2);
}

TEST(CoordinatorLoop, PredictedLawsOrderTheQueue) {
  LiveCluster cluster(under_tie());
  ScriptedPredictor predictor(cluster.control(), by_its_own_word);
  Caller caller(cluster.endpoint());
  ASSERT_TRUE(caller.wait_predictor("ready: scripted"));
  const std::vector<std::string> ids = {"len 300", "len 20", "len 1000", "len 80"};
  for (const auto& id : ids) caller.submit(Caller::ask(id, id, 1024));
  ASSERT_TRUE(caller.wait_counter("predictor_answered", 4));
  ScriptedLeader::Options one_slot;
  one_slot.slots = 1;
  auto leader = cluster.leader(one_slot);
  ASSERT_TRUE(caller.listen_until_over(ids));
  std::vector<std::pair<Duration, std::string>> order;
  for (const auto& id : ids) {
    expect_answer(caller.answers[id], 1024);
    // They came together and ran one after the other, a thousand tokens each.
    order.emplace_back(caller.answers[id].finished[0].timings.dispatched, id);
  }
  std::sort(order.begin(), order.end());
  EXPECT_EQ(order[0].second, "len 20");
  EXPECT_EQ(order[1].second, "len 80");
  EXPECT_EQ(order[2].second, "len 300");
  EXPECT_EQ(order[3].second, "len 1000");
}

TEST(CoordinatorLoop, AMissingMuteOrLostPredictorDelaysNobody) {
  LiveCluster cluster(under_tie());
  auto leader = cluster.leader();
  Caller caller(cluster.endpoint());
  ASSERT_TRUE(caller.wait_ready());
  const auto ask = [&](const std::string& id) {
    caller.submit(Caller::ask(id, "len 10", 20));
    ASSERT_TRUE(caller.listen_until_over({id}));
    expect_answer(caller.answers[id], 20);
  };
  EXPECT_EQ(caller.status().predictor, "none");
  ask("nobody");
  EXPECT_EQ(caller.counter("predictor_unasked"), 1);
  {
    ScriptedPredictor mute(cluster.control(), [](const Predict&) { return std::nullopt; });
    ASSERT_TRUE(caller.wait_predictor("ready"));
    ask("mute");
    EXPECT_EQ(caller.counter("predictor_open"), 1);
  }
  ASSERT_TRUE(caller.wait_predictor("lost"));
  EXPECT_EQ(caller.counter("predictor_unanswered"), 1);
  ask("lost");
  EXPECT_EQ(caller.counter("predictor_unasked"), 2);
  ScriptedPredictor next(cluster.control(), by_its_own_word);
  ASSERT_TRUE(caller.wait_predictor("ready"));
  ask("back");
  ASSERT_TRUE(caller.wait_counter("predictor_answered", 1));
}

TEST(CoordinatorLoop, APredictorThatAnswersNothingIsLostAndOneThatAnswersAgainIsBack) {
  auto options = under_tie();
  options.predictor.silent_after = seconds(100);
  options.predictor.answer_within = milliseconds(300);
  LiveCluster cluster(options);
  std::atomic<bool> answers{false};
  ScriptedPredictor predictor(cluster.control(), [&](const Predict&) -> std::optional<LengthLaw> {
    if (!answers) return std::nullopt;
    return tie::log_t(3, 0.5);
  });
  auto leader = cluster.leader();
  Caller caller(cluster.endpoint());
  ASSERT_TRUE(caller.wait_ready() && caller.wait_predictor("ready"));
  caller.submit(Caller::ask("unanswered", "len 10", 5));
  ASSERT_TRUE(caller.wait_predictor("lost"));  // though it says hello all the time
  answers = true;
  for (int i = 0; caller.status().predictor.rfind("ready", 0) != 0; ++i) {
    ASSERT_LT(i, 10'000);
    const std::string id = "r" + std::to_string(i);
    caller.submit(Caller::ask(id, "len 10", 5));
    ASSERT_TRUE(caller.listen_until_over({id}));
  }
  EXPECT_GT(caller.counter("predictor_answered"), 0);
}

TEST(CoordinatorLoop, NoMoreQuestionsAreOpenThanTheLimitAndTokenIdsAreNotAskedAbout) {
  auto options = under_tie();
  options.predictor.max_open = 2;
  LiveCluster cluster(options);
  ScriptedPredictor mute(cluster.control(), [](const Predict&) { return std::nullopt; });
  auto leader = cluster.leader();
  Caller caller(cluster.endpoint());
  ASSERT_TRUE(caller.wait_ready() && caller.wait_predictor("ready"));
  auto tokens = Caller::ask("ids", "", 5);
  tokens.prompt = std::vector<TokenId>{1, 2, 3};
  caller.submit(tokens);
  std::vector<std::string> ids = {"ids"};
  for (int i = 0; i < 5; ++i) {
    ids.push_back("r" + std::to_string(i));
    caller.submit(Caller::ask(ids.back(), "len 10", 5));
  }
  ASSERT_TRUE(caller.listen_until_over(ids));
  EXPECT_EQ(caller.counter("predictor_asked"), 2);
  EXPECT_EQ(caller.counter("predictor_dropped"), 3);
}

}  // namespace
}  // namespace tailor::coordinator
