// The leader's and followers' loops around an exact engine (live_replica.h).
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <tuple>
#include <utility>

#include "predict/length_head.h"
#include "tests/worker/late_store.h"
#include "tests/worker/live_replica.h"
#include "tie/law.h"
#include "worker/offline_run.h"

namespace tailor::worker {
namespace {

using test::Answer;
using test::HashEngine;
using test::kContext;
using test::kEos;
using test::kVocab;
using test::Replica;
using test::truth;
using test::workload;

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
  bool ahead = false;  ///< two steps under way
};

class SameTokens : public testing::TestWithParam<Shape> {};

// Design, section 5: a request's tokens depend on nothing but the request.
TEST_P(SameTokens, WhateverTheBatchChunksBlocksAndRanks) {
  const Shape& shape = GetParam();
  for (uint64_t seed : {1, 2, 3}) {
    auto requests = workload(24, seed);
    Replica replica(shape.tp, shape.planner, 64, {}, shape.ahead);
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
        Shape{"tp3_preempted", 3, {.num_blocks = 16, .slots = 8, .token_budget = 20}, true},
        Shape{"ahead", 1, {.num_blocks = 800, .slots = 32, .token_budget = 512}, false, true},
        Shape{"ahead_alone", 1, {.num_blocks = 800, .slots = 1, .token_budget = 7}, false, true},
        Shape{
            "ahead_preempted", 1, {.num_blocks = 16, .slots = 32, .token_budget = 64}, true, true},
        Shape{"ahead_tp3", 3, {.num_blocks = 16, .slots = 8, .token_budget = 20}, true, true}),
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

TEST(Loop, WhatAnIdleReplicaIsToldItReportsAsTakenIntoAccount) {
  Replica replica(2, {.num_blocks = 100, .slots = 8, .token_budget = 64});
  replica.welcome(1);
  ASSERT_TRUE(replica.read([&] { return replica.last.applied_seq == 1; }));
  Request r = endless(1, 20);
  r.sampling.max_tokens = 5;
  replica.dispatch(r);
  ASSERT_TRUE(replica.read_all());
  replica.cancel(r);  // it has ended
  ASSERT_TRUE(replica.read([&] { return replica.last.applied_seq == 3; }));
  EXPECT_EQ(replica.last.step_time, Duration{}) << "no step";
  replica.send(Drain{});
  ASSERT_TRUE(replica.read([&] { return replica.drained == 1; }));
  EXPECT_EQ(replica.last.applied_seq, 4u);
}

/// Blocks behind those of the planner, each full of another byte.
std::unique_ptr<test::LateStore> late_store(int32_t num_blocks, std::set<uint64_t> failing,
                                            uint32_t seed) {
  const kv::BlockLayout layout = test::small_layout();
  auto store = std::make_unique<test::LateStore>(layout, num_blocks, std::move(failing), seed);
  for (int32_t b = 0; b < num_blocks; ++b)
    std::memset(store->device_data() + layout.slab_offset(b, 0), b,
                static_cast<size_t>(layout.block_bytes()));
  return store;
}

// Copies are late everywhere, and some fail on one rank.
TEST(Loop, OrderedBlockMovesAreOverInOrderDoneOnEveryRankOrFailedForAll) {
  constexpr int kMoves = 60, kBurst = 12, kFrom = 40, kTo = 140;
  constexpr PlannerOptions kPlanner{.num_blocks = kFrom, .slots = 8, .token_budget = 40};
  const std::set<uint64_t> failing = {1, 7, 8, 30, 60};
  struct Case {
    int tp;
    bool ahead, busy;
  };
  for (const auto& [tp, ahead, busy] : std::vector<Case>{{1, false, false},
                                                         {2, false, false},
                                                         {2, true, false},
                                                         {2, false, true},
                                                         {2, true, true}}) {
    SCOPED_TRACE("tp " + std::to_string(tp) + (ahead ? ", ahead" : "") + (busy ? ", busy" : ""));
    std::vector<std::unique_ptr<test::LateStore>> stores;
    test::Moving moving;
    MoveDesk desk;
    moving.desk = &desk;
    for (int rank = 0; rank < tp; ++rank) {
      stores.push_back(late_store(kTo + kMoves, rank + 1 == tp ? failing : std::set<uint64_t>{},
                                  static_cast<uint32_t>(5 + rank)));
      moving.stores.push_back(stores.back().get());
    }
    Replica replica(tp, kPlanner, 64, {}, ahead, nullptr, moving);
    const auto requests = workload(busy ? 12 : 2, 3);
    if (busy)
      for (const Request& r : requests) replica.dispatch(r);
    std::vector<MoveOutcome> outcomes;
    const auto deadline = now() + seconds(20);
    for (int ordered = 0; ordered < kMoves;) {
      for (const int burst = ordered + kBurst; ordered < burst; ++ordered)
        desk.wanted.push_always({.from = kFrom + ordered, .to = kTo + ordered});
      while (outcomes.size() < static_cast<size_t>(ordered)) {
        ASSERT_LT(now(), deadline) << outcomes.size() << " of " << ordered << " are over";
        for (const MoveOutcome& each : desk.over.drain_wait(milliseconds(20)))
          outcomes.push_back(each);
      }
    }
    ASSERT_EQ(outcomes.size(), static_cast<size_t>(kMoves));
    for (int i = 0; i < kMoves; ++i) {
      EXPECT_EQ(outcomes[static_cast<size_t>(i)].move.to, kTo + i);
      EXPECT_EQ(outcomes[static_cast<size_t>(i)].arrived, failing.count(i + 1u) == 0) << i;
    }
    if (!busy) {  // the ranks agreed though no step was computed, and serve when one is wanted
      const auto plans = [&] { return static_cast<int>(replica.reports.size()); };
      ASSERT_TRUE(replica.read([&] { return plans() >= kMoves / kBurst; }));
      for (const auto& store : stores) EXPECT_GT(store->asked, plans());
      for (const Request& r : requests) replica.dispatch(r);
    }
    ASSERT_TRUE(replica.read_all());
    for (const Request& r : requests) expect_truth(replica, r);
    for (const LoopExit& end : replica.stop()) EXPECT_EQ(end.code, kExitOk);
    for (const auto& store : stores) {
      for (int i = 0; i < kMoves; ++i) {
        if (failing.count(i + 1u) > 0) continue;
        EXPECT_EQ(*store->checksum(0, kTo + i, 1), *store->checksum(0, kFrom + i, 1)) << i;
      }
    }
  }
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
  replica.send_dispatch(r, {head}, 2);  // a repeat changes nothing
  replica.send_dispatch(r, {{}}, 1);    // nor does what comes late
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
        thread.send(FromReplica{{}, Drained{}});
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
    predict::HeadWeights w;
    w.info.kind = kind;
    w.info.encoder = "hidden";
    w.info.model_fingerprint = model;
    w.info.layer = layer;
    w.info.takes_generated = inputs > test::kHidden;
    w.info.input_size = inputs;
    w.info.population = tie::log_t(5, 1);
    w.mean.assign(inputs, 0);
    w.deviation.assign(inputs, 1);
    predict::HeadMember member;
    std::vector<float> weight(inputs);
    for (int i = 0; i < inputs; ++i) weight[i] = 0.5f + 0.25f * static_cast<float>(i);
    member.mu = {{inputs, 1, weight, {0.5f}}};
    member.sigma = {{inputs, 1, weight, {0.1f}}};
    w.members = {member};
    auto saved = predict::save_head(w, path_ + "/" + kind + ".safetensors");
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
  const auto whole = *predict::LengthHead::load(folder.path() + "/probe.safetensors");
  const auto rest = *predict::LengthHead::load(folder.path() + "/remaining.safetensors");

  // Few blocks: sequences are pushed out and come back, prompts are cut in chunks.
  for (const auto& [tp, ahead] : {std::pair(1, false), {2, false}, {2, true}}) {
    Replica replica(tp, {.num_blocks = 26, .slots = 6, .token_budget = 24}, 64, *probe, ahead);
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
