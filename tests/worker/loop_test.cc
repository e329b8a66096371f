// The leader's and followers' loops around an exact engine (hash_engine.h), in one process: real
// planner, sampler, text thread, plan channel and collective; only the wire to the coordinator is a
// pair of mailboxes.
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>
#include <mutex>
#include <random>
#include <thread>
#include <tuple>

#include "base/clock.h"
#include "comm/collective_inprocess.h"
#include "tests/worker/hash_engine.h"
#include "tests/worker/told.h"
#include "tie/law.h"
#include "tie/length_head.h"
#include "worker/follower_loop.h"
#include "worker/leader_loop.h"
#include "worker/offline_run.h"

namespace tailor::worker {
namespace {

using test::HashEngine;
using test::kEos;
using test::kVocab;

/// A WorkerIo whose other end is in this process.
class LocalIo : public comm::WorkerIo {
 public:
  Mailbox<comm::WorkerInput>& inbox() override { return inbox_; }
  void report(comm::ReportFrame report) override { reports_.push_always(std::move(report)); }
  size_t backlog() const override { return reports_.size(); }
  void ring() override {
    for (LocalIo* f : followers) f->inbox_.push_always(comm::Doorbell{});
  }
  const std::string& doorbell_endpoint() const override { return endpoint_; }
  Mailbox<comm::ReportFrame>& reports() { return reports_; }

  std::vector<LocalIo*> followers;

 private:
  Mailbox<comm::WorkerInput> inbox_{4096};
  Mailbox<comm::ReportFrame> reports_{1 << 20};
  std::string endpoint_ = "here";
};

struct Answer {
  std::vector<TokenId> tokens;
  FinishReason finish = FinishReason::kNone;
  Error error;
  std::vector<LogprobEntry> logprobs;
};

constexpr int32_t kContext = 400;

/// A whole replica of `tp` threads, and the coordinator's end of its link.
class Replica {
 public:
  Replica(int tp, PlannerOptions planner, size_t max_backlog = 64, LengthProbe probe = {})
      : group_(tp, seconds(20)) {
    for (int rank = 0; rank < tp; ++rank) ios_.push_back(std::make_unique<LocalIo>());
    for (int rank = 1; rank < tp; ++rank) ios_[0]->followers.push_back(ios_[rank].get());
    progress_ = std::vector<Progress>(tp);
    exits_.resize(tp);
    for (int rank = 0; rank < tp; ++rank) {
      threads_.emplace_back([this, rank, tp, planner, max_backlog, probe] {
        auto collective = group_.join(rank);
        HashEngine engine(planner.num_blocks, kContext, collective.get());
        if (rank > 0) {
          exits_[rank] =
              run_follower({engine, *collective, *ios_[rank], progress_[rank]}, milliseconds(50));
          return;
        }
        LeaderOptions options{.planner = planner,
                              .limits = {.eos_tokens = {kEos}, .max_context = kContext},
                              .max_backlog = max_backlog,
                              .idle_wait = milliseconds(50),
                              .probe = probe};
        options.hello.info.num_blocks = planner.num_blocks;
        LeaderLoop loop(
            {engine, tp > 1 ? collective.get() : nullptr, *ios_[0], progress_[0], nullptr},
            options);
        exits_[rank] = loop.run();
      });
    }
  }
  ~Replica() {
    if (!joined_) stop();
  }

  void send(WorkerCommand command, DispatchPayload payload = {}) {
    ios_[0]->inbox().push_always(comm::CommandFrame{
        {{ReplicaId{0}, epoch_, ++sequence_}, std::move(command)}, std::move(payload)});
  }
  void welcome(uint32_t epoch) {
    epoch_ = Epoch{epoch};
    send(Welcome{});
  }
  void dispatch(Attempt attempt, const Request& request,
                std::vector<std::vector<TokenId>> generated) {
    send(Dispatch{request.id, attempt, static_cast<uint32_t>(request.sampling.n),
                  static_cast<uint32_t>(request.prompt.size()),
                  static_cast<uint32_t>(request.sampling.max_tokens)},
         {std::make_shared<const Request>(request), std::move(generated)});
  }
  void send_input(comm::WorkerInput input) { ios_[0]->inbox().push_always(std::move(input)); }
  void dispatch(const Request& request, std::vector<std::vector<TokenId>> generated = {},
                uint32_t attempt = 1) {
    generated.resize(request.sampling.n);
    for (int s = 0; s < request.sampling.n; ++s) {
      const bool again = answers.count({request.id, static_cast<uint32_t>(s)}) > 0;
      answers[{request.id, static_cast<uint32_t>(s)}].tokens = generated[s];
      if (!again) ++open_;
    }
    attempts_[request.id] = Attempt{attempt};
    dispatch(Attempt{attempt}, request, generated);
  }
  void cancel(const Request& request) { send(CancelRequest{request.id, attempts_[request.id]}); }

  /// Reads reports until `until` holds; false after 20 s.
  bool read(const std::function<bool()>& until) {
    const auto deadline = now() + seconds(20);
    while (!until()) {
      if (now() > deadline) return false;
      for (auto& report : ios_[0]->reports().drain_wait(milliseconds(20))) take(report);
    }
    return true;
  }
  bool read_all() {
    return read([this] { return open_ == 0; });
  }
  std::vector<LoopExit> stop(bool cluster_stops = true) {
    send(Shutdown{cluster_stops});
    return join();
  }
  std::vector<LoopExit> join() {
    for (auto& t : threads_) t.join();
    joined_ = true;
    return exits_;
  }

  std::map<SequenceId, Answer> answers;
  std::vector<LawProbed> laws;
  int preemptions = 0, prefills = 0, hellos = 0, drained = 0;
  StepReport last;

 private:
  void take(comm::ReportFrame& frame) {
    WorkerReport& report = frame.from.report;
    if (std::holds_alternative<Hello>(report)) ++hellos;
    if (std::holds_alternative<Drained>(report)) ++drained;
    auto* step = std::get_if<StepReport>(&report);
    if (step == nullptr) return;
    EXPECT_GE(step->step_time, step->forward_time + step->sample_time);
    for (auto& p : test::told(*step, std::move(frame.payload))) {
      Answer& a = answers[p.sequence];
      if (p.attempt < attempts_[p.sequence.request]) continue;
      EXPECT_EQ(p.attempt, attempts_[p.sequence.request]);
      EXPECT_EQ(a.finish, FinishReason::kNone) << "reported behind its end";
      EXPECT_EQ(p.first_index, a.tokens.size()) << "a token is lost or doubled";
      a.tokens.insert(a.tokens.end(), p.token_ids.begin(), p.token_ids.end());
      a.logprobs.insert(a.logprobs.end(), p.logprobs.begin(), p.logprobs.end());
      if (p.finish == FinishReason::kNone) continue;
      a.finish = p.finish;
      a.error = p.error;
      --open_;
    }
    preemptions += static_cast<int>(step->preempted.size());
    prefills += static_cast<int>(step->prefills.size());
    laws.insert(laws.end(), step->laws.begin(), step->laws.end());
    step->progress.clear();
    last = *step;
  }

  comm::InProcessGroup group_;
  std::vector<std::unique_ptr<LocalIo>> ios_;
  std::vector<Progress> progress_;
  std::vector<LoopExit> exits_;
  std::vector<std::thread> threads_;
  std::map<RequestId, Attempt> attempts_;
  uint64_t sequence_ = 0;
  Epoch epoch_;
  int open_ = 0;
  bool joined_ = false;
};

/// The answer as the definition gives it: token by token, alone, without blocks.
Answer truth(const Request& r, uint32_t sample) {
  parallel::Sampler sampler(kVocab, {kEos});
  SequenceLimits limits{.eos_tokens = {kEos}, .max_context = kContext};
  Answer a;
  while (a.finish == FinishReason::kNone) {
    std::vector<TokenId> all = r.prompt;
    all.insert(all.end(), a.tokens.begin(), a.tokens.end());
    LogprobEntry e;
    a.tokens.push_back(*sampler.sample(r, sample, a.tokens, test::logits_of(all), &e));
    if (r.sampling.logprobs >= 0) a.logprobs.push_back(e);
    a.finish = finish_reason(r, a.tokens, limits);
  }
  return a;
}

std::vector<Request> workload(int count, uint64_t seed) {
  std::mt19937_64 rng(seed);
  auto between = [&](int a, int b) { return a + static_cast<int>(rng() % (b - a + 1)); };
  std::vector<Request> out;
  for (int i = 0; i < count; ++i) {
    Request r;
    r.id = RequestId{static_cast<uint64_t>(100 + i)};
    for (int n = between(1, 90); n > 0; --n) r.prompt.push_back(between(1, 60));
    SamplingParams& p = r.sampling;
    p.temperature = between(0, 2) == 0 ? 0.0f : 1.2f;
    p.seed = rng();
    p.max_tokens = between(1, 70);
    p.min_tokens = between(0, 1) ? between(0, p.max_tokens) : 0;
    p.ignore_eos = between(0, 3) == 0;
    if (between(0, 2) == 0) p.top_p = 0.8f;
    if (between(0, 2) == 0) p.repetition_penalty = 1.3f;
    if (between(0, 2) == 0) p.stop_token_ids = {7};
    if (between(0, 3) == 0) p.n = between(2, 4);
    if (between(0, 3) == 0) p.logprobs = 2;
    out.push_back(std::move(r));
  }
  return out;
}

void expect_truth(const Replica& replica, const Request& r) {
  for (int s = 0; s < r.sampling.n; ++s) {
    SequenceId id{r.id, static_cast<uint32_t>(s)};
    Answer t = truth(r, id.sample);
    const Answer& a = replica.answers.at(id);
    EXPECT_EQ(a.tokens, t.tokens) << "request " << r.id.value << " sample " << s;
    EXPECT_EQ(a.finish, t.finish);
    if (r.sampling.logprobs < 0) continue;
    ASSERT_EQ(a.logprobs.size(), t.logprobs.size());
    for (size_t i = 0; i < t.logprobs.size(); ++i) {
      EXPECT_EQ(a.logprobs[i].chosen.logprob, t.logprobs[i].chosen.logprob);
      EXPECT_EQ(a.logprobs[i].top.size(), 2u);
    }
  }
}

struct Shape {
  const char* name;
  int tp;
  PlannerOptions planner;
  bool preempts = false;
};

class SameTokens : public testing::TestWithParam<Shape> {};

// Design, section 5: a request's tokens depend on nothing but the request.
TEST_P(SameTokens, WhateverTheBatchChunksBlocksAndRanks) {
  const Shape& shape = GetParam();
  for (uint64_t seed : {1, 2, 3}) {
    auto requests = workload(24, seed);
    Replica replica(shape.tp, shape.planner);
    for (const auto& r : requests) replica.dispatch(r);
    ASSERT_TRUE(replica.read_all());
    for (const auto& r : requests) expect_truth(replica, r);
    EXPECT_EQ(replica.preemptions > 0, shape.preempts);
    EXPECT_EQ(replica.prefills, 24);
    EXPECT_EQ(replica.last.free_blocks, static_cast<uint32_t>(shape.planner.num_blocks));
    EXPECT_EQ(replica.last.applied_seq, 24u);
    for (LoopExit e : replica.stop()) {
      EXPECT_EQ(e.code, kExitOk);
      EXPECT_TRUE(e.together);
    }
  }
}
INSTANTIATE_TEST_SUITE_P(
    Shapes, SameTokens,
    testing::Values(
        Shape{"alone", 1, {.num_blocks = 800, .slots = 1, .token_budget = 512}},
        Shape{"batched", 1, {.num_blocks = 800, .slots = 32, .token_budget = 512}},
        Shape{"chunked", 1, {.num_blocks = 800, .slots = 32, .token_budget = 7}},
        Shape{"preempted", 1, {.num_blocks = 16, .slots = 32, .token_budget = 64}, true},
        Shape{"tp2", 2, {.num_blocks = 800, .slots = 8, .token_budget = 64}},
        Shape{"tp3_preempted", 3, {.num_blocks = 16, .slots = 8, .token_budget = 20}, true}),
    [](const auto& info) { return info.param.name; });

TEST(Loop, ContinuesBehindGeneratedTokensAndNeverReportsThemAgain) {
  auto requests = workload(16, 9);
  Replica replica(1, {.num_blocks = 40, .slots = 6, .token_budget = 32});
  std::mt19937 rng(4);
  for (const auto& r : requests) {
    std::vector<std::vector<TokenId>> generated;
    for (int s = 0; s < r.sampling.n; ++s) {
      auto t = truth(r, s).tokens;
      t.resize(rng() % (t.size() + 1));  // up to a whole answer, whose end was not reported
      generated.push_back(t);
    }
    replica.dispatch(r, generated, 3);
  }
  ASSERT_TRUE(replica.read_all());
  for (const auto& r : requests)
    for (int s = 0; s < r.sampling.n; ++s) {
      Answer t = truth(r, s);
      EXPECT_EQ(replica.answers.at({r.id, static_cast<uint32_t>(s)}).tokens, t.tokens);
      EXPECT_EQ(replica.answers.at({r.id, static_cast<uint32_t>(s)}).finish, t.finish);
    }
}

Request endless(uint64_t id, int prompt) {
  Request r;
  r.id = RequestId{id};
  r.prompt.assign(prompt, static_cast<TokenId>(1 + id % 50));
  r.sampling.temperature = 0;
  r.sampling.ignore_eos = true;
  r.sampling.max_tokens = kContext;
  return r;
}

TEST(Loop, ACancelledRequestFreesItsBlocksAndTheOthersNoticeNothing) {
  Replica replica(2, {.num_blocks = 800, .slots = 8, .token_budget = 64});
  Request gone = endless(1, 40), stays = endless(2, 40);
  gone.sampling.n = 2;
  replica.dispatch(gone);
  replica.dispatch(stays);
  ASSERT_TRUE(replica.read([&] { return replica.answers[{gone.id, 1}].tokens.size() > 3; }));
  replica.cancel(gone);
  ASSERT_TRUE(replica.read([&] {
    return replica.answers[{stays.id, 0}].finish != FinishReason::kNone;
  }));
  ASSERT_TRUE(replica.read([&] { return replica.last.free_blocks == 800; }));
  expect_truth(replica, stays);
  EXPECT_EQ(replica.answers.at({stays.id, 0}).finish, FinishReason::kLength)
      << "the context is full";
  EXPECT_LE(replica.answers.at({gone.id, 0}).tokens.size(), static_cast<size_t>(kContext));
}

TEST(Loop, SleepsAndWakesWithItsFollowers) {
  Replica replica(3, {.num_blocks = 100, .slots = 8, .token_budget = 64});
  for (uint64_t round = 0; round < 5; ++round) {
    Request r = endless(round, 20);
    r.sampling.max_tokens = 5;
    replica.dispatch(r);
    ASSERT_TRUE(replica.read_all());
    expect_truth(replica, r);
  }
  EXPECT_EQ(replica.hellos, 1);
}

TEST(Loop, WrongRequestsAreAnsweredAndServingGoesOn) {
  Replica replica(1, {.num_blocks = 20, .slots = 8, .token_budget = 64});
  Request empty = endless(1, 0), outside = endless(2, 5), negative = endless(3, 5),
          long_one = endless(4, kContext), nan = endless(5, 5), wide = endless(6, 330),
          good = endless(7, 5);
  outside.prompt[3] = kVocab;
  negative.prompt[3] = -1;
  nan.sampling.temperature = std::nanf("");
  good.sampling.max_tokens = 10;
  for (const auto* r : {&empty, &outside, &negative, &long_one, &nan, &wide, &good})
    replica.dispatch(*r);
  ASSERT_TRUE(replica.read_all());
  auto error_of = [&](const Request& r) { return replica.answers.at({r.id, 0}).error; };
  EXPECT_EQ(error_of(empty).code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(error_of(outside).code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(error_of(negative).code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(error_of(long_one).code, ErrorCode::kLimitExceeded);
  EXPECT_EQ(error_of(nan).code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(error_of(wide).code, ErrorCode::kOutOfBlocks);
  EXPECT_NE(error_of(wide).message.find("21"), std::string::npos) << error_of(wide).message;
  expect_truth(replica, good);
}

TEST(Loop, NotANumberFailsOneSequenceOnly) {
  Replica replica(1, {.num_blocks = 100, .slots = 8, .token_budget = 64});
  Request poisoned = endless(1, 5), good = endless(2, 5);
  poisoned.prompt[0] = test::kPoison;
  good.sampling.max_tokens = 30;
  replica.dispatch(poisoned);
  replica.dispatch(good);
  ASSERT_TRUE(replica.read_all());
  const Answer& a = replica.answers.at({poisoned.id, 0});
  EXPECT_EQ(a.finish, FinishReason::kFailed);
  EXPECT_EQ(a.error.code, ErrorCode::kDeviceFailure);
  EXPECT_EQ(a.tokens.size(), test::kPoisonAt - 5);
  expect_truth(replica, good);
}

TEST(Loop, DrainFinishesWhatRunsAndRefusesTheRest) {
  Replica replica(2, {.num_blocks = 100, .slots = 8, .token_budget = 64});
  Request running = endless(1, 5), late = endless(2, 5);
  running.sampling.max_tokens = 60;
  replica.dispatch(running);
  replica.send(Drain{});
  replica.dispatch(late);
  ASSERT_TRUE(replica.read([&] { return replica.drained == 1; }));
  ASSERT_TRUE(replica.read_all());
  expect_truth(replica, running);
  EXPECT_EQ(replica.answers.at({late.id, 0}).error.code, ErrorCode::kUnavailable);
  for (LoopExit e : replica.stop()) EXPECT_EQ(e.code, kExitOk);
}

TEST(Loop, AnotherEpochDropsWhatRanForTheOldOne) {
  Replica replica(1, {.num_blocks = 100, .slots = 8, .token_budget = 64}, 1 << 20);
  replica.welcome(1);
  Request old = endless(1, 5), fresh = endless(2, 5);
  fresh.sampling.max_tokens = 10;
  replica.dispatch(old);
  replica.welcome(2);
  replica.dispatch(fresh);
  ASSERT_TRUE(replica.read([&] {
    return replica.answers[{fresh.id, 0}].finish != FinishReason::kNone;
  }));
  ASSERT_TRUE(replica.read([&] { return replica.last.free_blocks == 100; }));
  EXPECT_TRUE(replica.answers.at({old.id, 0}).finish == FinishReason::kNone);
}

TEST(Loop, ANewerAttemptReplacesTheOlder) {
  Replica replica(1, {.num_blocks = 100, .slots = 8, .token_budget = 64}, 1 << 20);
  Request r = endless(1, 5);
  r.sampling.max_tokens = 300;
  replica.dispatch(r, {}, 1);
  auto head = truth(r, 0).tokens;
  head.resize(4);
  replica.dispatch(r, {head}, 2);
  replica.dispatch(Attempt{2}, r, {head});  // a repeat changes nothing
  replica.dispatch(Attempt{1}, r, {{}});    // nor does what comes late
  ASSERT_TRUE(replica.read_all());
  expect_truth(replica, r);
}

TEST(Loop, AReplicaThatIsGivenUpLeavesWithACodeThatHasItStartedAgain) {
  Replica replica(2, {.num_blocks = 100, .slots = 8, .token_budget = 64});
  for (LoopExit e : replica.stop(false)) {
    EXPECT_EQ(e.code, kExitUnavailable);
    EXPECT_TRUE(e.together);
  }
}

TEST(LoopDeathTest, AStuckTextThreadEndsTheProcessThoughMainGoesOn) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(
      {
        Progress main;
        Progress text;
        Watchdog watchdog({{"main", &main}, {"text", &text}}, {.stuck_after = milliseconds(300)});
        watchdog.started();
        Mailbox<int> never(1);
        Mailbox<int> nor_this(1);
        TextThread thread(
            nullptr, [&](comm::ReportFrame) { never.drain_wait(seconds(3600)); }, &text);
        thread.send(comm::ReportFrame{{{}, Drained{}}, {}});
        main.busy = true;
        for (;; ++main.counter) nor_this.drain_wait(milliseconds(10));
      },
      testing::ExitedWithCode(kStuckExitCode), "");
}

TEST(Loop, LinkDownEndsAllRanksWithTheirExitCode) {
  Replica replica(2, {.num_blocks = 100, .slots = 8, .token_budget = 64});
  replica.dispatch(endless(1, 5));
  replica.send_input(comm::LinkDown{});
  for (LoopExit e : replica.join()) {
    EXPECT_EQ(e.code, kExitCoordinatorLost);
    EXPECT_TRUE(e.together);
  }
}

TEST(Loop, AFailedStepEndsTheRankAtOnce) {
  Replica replica(2, {.num_blocks = 100, .slots = 8, .token_budget = 64});
  Request broken = endless(1, 5);
  broken.prompt[0] = test::kBroken;
  replica.dispatch(broken);
  for (LoopExit e : replica.join()) {
    EXPECT_EQ(e.code, kExitDevice);
    EXPECT_FALSE(e.together);
  }
}

TEST(Loop, StopsPlanningWhileReportsAreNotTaken) {
  Replica replica(2, {.num_blocks = 100, .slots = 8, .token_budget = 64}, 5);
  Request r = endless(1, 5);
  r.sampling.max_tokens = 200;
  replica.dispatch(r);
  // Nobody reads: the loop must halt by itself, and go on when somebody does.
  ASSERT_TRUE(replica.read_all());
  expect_truth(replica, r);
}

/// Heads linear in the hash engine's hidden states, saved to and loaded from a folder.
class ProbeFolder {
 public:
  ProbeFolder() : path_(::testing::TempDir() + "tailor_probe_" + std::to_string(getpid())) {
    std::filesystem::create_directories(path_);
  }
  ~ProbeFolder() { std::filesystem::remove_all(path_); }

  const std::string& path() const { return path_; }
  void save(const std::string& kind, int layer, int inputs, const std::string& model = "model") {
    tie::HeadWeights w;
    w.info.kind = kind;
    w.info.encoder = "hidden";
    w.info.model_fingerprint = model;
    w.info.layer = layer;
    w.info.takes_generated = inputs > test::kHidden;
    w.info.input_size = inputs;
    w.info.population = tie::log_t(5, 1);
    w.mean.assign(inputs, 0);
    w.deviation.assign(inputs, 1);
    tie::HeadMember member;
    std::vector<float> weight(inputs);
    for (int i = 0; i < inputs; ++i) weight[i] = 0.5f + 0.25f * static_cast<float>(i);
    member.mu = {{inputs, 1, weight, {0.5f}}};
    member.sigma = {{inputs, 1, weight, {0.1f}}};
    w.members = {member};
    auto saved = tie::save_head(w, path_ + "/" + kind + ".safetensors");
    ASSERT_TRUE(saved.has_value()) << to_string(saved.error());
  }
  Result<LengthProbe> load() const {
    return LengthProbe::load(path_, "model",
                             {.num_layers = test::kLayers, .hidden_size = test::kHidden});
  }

 private:
  const std::string path_;
};

/// Prompt and the first `generated` tokens of the answer.
std::vector<TokenId> tokens_until(const Request& r, const Answer& answer, size_t generated) {
  std::vector<TokenId> out = r.prompt;
  out.insert(out.end(), answer.tokens.begin(),
             answer.tokens.begin() + static_cast<int64_t>(generated));
  return out;
}

TEST(Loop, TheProbeReadsTheHiddenStateBehindItsTokens) {
  ProbeFolder folder;
  folder.save("probe", 2, test::kHidden);
  folder.save("remaining", 3, test::kHidden + 1);
  const auto probe = folder.load();
  ASSERT_TRUE(probe.has_value()) << to_string(probe.error());
  const auto whole = *tie::LengthHead::load(folder.path() + "/probe.safetensors");
  const auto rest = *tie::LengthHead::load(folder.path() + "/remaining.safetensors");

  // Few blocks: sequences are pushed out and come back, prompts are cut in chunks.
  for (int tp : {1, 2}) {
    Replica replica(tp, {.num_blocks = 26, .slots = 6, .token_budget = 24}, 64, *probe);
    std::vector<Request> requests = workload(20, 7);
    for (Request& r : requests) {
      r.sampling.ignore_eos = true;
      r.sampling.min_tokens = 0;
      r.sampling.max_tokens = 40 + static_cast<int>(r.id.value % 60);
      r.sampling.n = 1 + static_cast<int>(r.id.value % 2);
      replica.dispatch(r);
    }
    ASSERT_TRUE(replica.read_all());
    EXPECT_GT(replica.preemptions, 0);
    std::map<std::tuple<uint64_t, uint32_t, uint32_t>, LengthLaw> told;
    for (const LawProbed& law : replica.laws)
      told[{law.request.value, law.sample, law.generated}] = law.law;
    for (const Request& r : requests) {
      for (int s = 0; s < r.sampling.n; ++s) {
        const Answer& answer = replica.answers.at({r.id, static_cast<uint32_t>(s)});
        const auto end = static_cast<uint32_t>(answer.tokens.size());
        for (uint32_t g = s == 0 ? 0 : LengthProbe::kEvery; g < end; g += LengthProbe::kEvery) {
          auto features = test::hidden_of(tokens_until(r, answer, g), g == 0 ? 2 : 3);
          if (g > 0) features.push_back(std::log1p(static_cast<float>(g)));
          const LengthLaw wanted = (g == 0 ? whole : rest).predict(features);
          const auto at = told.find({r.id.value, static_cast<uint32_t>(s), g});
          ASSERT_NE(at, told.end()) << "request " << r.id.value << " after " << g;
          EXPECT_EQ(at->second, wanted) << "request " << r.id.value << " after " << g;
          told.erase(at);
        }
      }
    }
    EXPECT_TRUE(told.empty()) << told.size() << " laws that nobody should have looked for";
  }
}

TEST(Loop, AProbeOfAnotherModelIsRefused) {
  ProbeFolder folder;
  const auto none = folder.load();
  ASSERT_FALSE(none.has_value());
  EXPECT_EQ(none.error().code, ErrorCode::kNotFound);
  folder.save("probe", 2, test::kHidden, "another");
  const auto other = folder.load();
  ASSERT_FALSE(other.has_value());
  EXPECT_NE(other.error().message.find("another"), std::string::npos);
  folder.save("probe", static_cast<int>(test::kLayers) + 1, test::kHidden);
  EXPECT_FALSE(folder.load().has_value());
  folder.save("probe", 2, test::kHidden);
  EXPECT_TRUE(folder.load().has_value());
}

TEST(OfflineRun, GivesTheAnswersAndStatesOfAReplica) {
  HashEngine engine(26, kContext, nullptr);
  OfflineOptions options{.planner = {.num_blocks = 26, .slots = 6, .token_budget = 24},
                         .limits = {.eos_tokens = {kEos}, .max_context = kContext},
                         .layers = {1, 3},
                         .tap_every = 8};
  OfflineRun run(engine, options);
  std::map<std::tuple<uint64_t, uint32_t, uint32_t>, std::vector<float>> states;
  run.on_hidden = [&](SequenceId id, uint32_t generated, std::span<const float> values) {
    states[{id.request.value, id.sample, generated}].assign(values.begin(), values.end());
  };
  const std::vector<Request> requests = workload(25, 3);
  size_t wanted = 0;
  for (const Request& r : requests) {
    run.add(r);
    wanted += static_cast<size_t>(r.sampling.n);
  }
  std::vector<OfflineAnswer> ended;
  while (run.has_work()) ASSERT_TRUE(run.step(ended).has_value());
  ASSERT_EQ(ended.size(), wanted);
  for (const OfflineAnswer& a : ended) {
    const Request& r = *std::find_if(requests.begin(), requests.end(), [&](const Request& each) {
      return each.id == a.sequence.request;
    });
    const Answer exact = truth(r, a.sequence.sample);
    EXPECT_EQ(a.tokens, exact.tokens);
    EXPECT_EQ(a.finish, exact.finish);
    EXPECT_EQ(a.prompt_tokens, r.prompt.size());
    for (uint32_t g = a.sequence.sample == 0 ? 0 : 8; g < exact.tokens.size(); g += 8) {
      auto expected = test::hidden_of(tokens_until(r, exact, g), 1);
      const auto third = test::hidden_of(tokens_until(r, exact, g), 3);
      expected.insert(expected.end(), third.begin(), third.end());
      EXPECT_EQ((states[{r.id.value, a.sequence.sample, g}]), expected);
    }
  }
}

}  // namespace
}  // namespace tailor::worker
