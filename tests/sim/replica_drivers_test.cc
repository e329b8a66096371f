// What is simulated is what is served: one trace (prompts that do not fit, n samples, stop strings
// found late, cancels, a loss, a refusal, a drain) through every driver of ReplicaCore.
#include <gtest/gtest.h>

#include <deque>

#include "base/describe.h"
#include "sim/sim_replica.h"
#include "tests/worker/letters.h"
#include "tests/worker/live_replica.h"
#include "worker/offline_run.h"

namespace tailor::worker {
namespace {

using test::Answer;
using test::HashEngine;
using test::kContext;
using test::kEos;
using test::kVocab;

constexpr TokenId kStopLetter = 9;
constexpr PlannerOptions kPlanner{.num_blocks = 14, .slots = 6, .token_budget = 40};

/// ReplicaCore, an engine and the text side in one thread; the text is read `lag` reports late.
class DirectReplica : public test::ReplicaEnd {
 public:
  DirectReplica(int depth, size_t lag)
      : lag_(lag),
        exact_(kPlanner.num_blocks, kContext, nullptr),
        delayed_(exact_, nullptr),
        engine_(depth == 2 ? static_cast<parallel::Engine&>(delayed_) : exact_),
        core_({.planner = kPlanner,
               .limits = {.eos_tokens = {kEos}, .max_context = kContext},
               .vocab_size = kVocab,
               .depth = depth}),
        layouts_(2, EngineStep({}, kPlanner.slots, 0)) {}

  const ReplicaCore& core() const { return core_; }

 private:
  void deliver(comm::CommandFrame frame) override {
    core_.apply(frame.to, std::move(frame.payload));
  }
  std::deque<comm::ReportFrame> listen() override {
    while (const Step* step = core_.begin()) {
      EngineStep& layout = layouts_[step->number % 2];
      layout.lay_out(core_, *step);
      move_slots(core_, step, engine_, scratch_);
      EXPECT_TRUE(engine_.submit(layout.input(), layout.rows()).has_value());
    }
    if (core_.steps_under_way() > 0) {
      const auto drawn = engine_.collect();
      EXPECT_TRUE(drawn.has_value());
      drafts_.push_back(std::move(core_.end({drawn->tokens, drawn->logprobs})));
      move_slots(core_, nullptr, engine_, scratch_);
    } else if (core_.unreported()) {
      drafts_.push_back(std::move(core_.report()));
    }
    const auto sound = core_.check_integrity();
    EXPECT_TRUE(sound.has_value()) << to_string(sound.error());
    const bool busy = core_.has_work() || core_.unreported();
    if (drafts_.empty() || (busy && drafts_.size() <= lag_)) return {};
    ReportDraft draft = std::move(drafts_.front());
    drafts_.pop_front();
    texts_.complete(draft);
    for (const StopFound& stop : texts_.take_stops()) core_.apply(stop);
    std::deque<comm::ReportFrame> out;
    out.push_back({{draft.envelope, std::move(draft.report)}, std::move(draft.payload)});
    if (drafts_.empty())
      for (FromReplica& word : core_.take_words()) out.push_back({std::move(word), {}});
    return out;
  }

  const size_t lag_;
  HashEngine exact_;
  parallel::testing::DelayedEngine delayed_;
  parallel::Engine& engine_;
  ReplicaCore core_;
  std::vector<EngineStep> layouts_;
  AnswerText texts_{std::make_shared<test::Letters>()};
  std::deque<ReportDraft> drafts_;
  std::vector<parallel::SlotId> scratch_;
};

/// The simulator's, told how long every answer is.
class SimulatedReplica : public test::ReplicaEnd {
 public:
  explicit SimulatedReplica(std::map<SequenceId, uint32_t> lengths)
      : lengths_(std::move(lengths)), replica_({}, kPlanner, {}) {}

 private:
  void deliver(comm::CommandFrame frame) override {
    const auto* dispatch = std::get_if<Dispatch>(&frame.to.command);
    if (dispatch == nullptr) return replica_.apply(frame.to);
    std::vector<uint32_t> generated, lengths;
    for (uint32_t s = 0; s < dispatch->samples; ++s) {
      generated.push_back(static_cast<uint32_t>(frame.payload.generated[s].size()));
      lengths.push_back(lengths_.at({dispatch->request, s}));
    }
    replica_.apply(frame.to, sim::lengths_only(*dispatch, generated, lengths));
  }
  std::deque<comm::ReportFrame> listen() override {
    std::deque<comm::ReportFrame> out;
    if (replica_.begin()) {
      ReportDraft& draft = replica_.end([this](SequenceId id) { return lengths_.at(id); });
      out.push_back({{draft.envelope, draft.report}, {{}, {}, {}, {}, draft.payload.ends}});
    }
    for (FromReplica& word : replica_.take_words()) out.push_back({std::move(word), {}});
    return out;
  }

  const std::map<SequenceId, uint32_t> lengths_;
  sim::SimReplica replica_;
};

std::vector<Request> trace_requests(bool with_stops) {
  std::vector<Request> out = test::workload(18, 11);
  for (Request& r : out) {
    SamplingParams& p = r.sampling;
    p.temperature = 1.2f;
    p.ignore_eos = false;
    p.min_tokens = 30;
    p.max_tokens = 120;
    p.stop_token_ids = {7, 8};
    if (with_stops && r.id.value % 2 == 0) p.stop = {"j"};
    if (!with_stops) p.stop_token_ids = {7, 8, 10, 11, 12};
  }
  Request wide;  // needs more blocks than there are
  wide.id = RequestId{5};
  wide.prompt.assign(390, 3);
  out.insert(out.begin() + 4, wide);
  return out;
}

/// `stays` are the requests that nobody cancels.
void run_trace(test::ReplicaEnd& replica, const std::vector<Request>& requests,
               std::vector<Request>& stays) {
  const auto wait = [&](size_t reports) {
    const size_t enough = replica.reports.size() + reports;
    ASSERT_TRUE(replica.read([&] { return replica.reports.size() >= enough; }));
  };
  const auto over = [&](const Request& r) {
    for (int s = 0; s < r.sampling.n; ++s)
      if (replica.answers[{r.id, static_cast<uint32_t>(s)}].finish == FinishReason::kNone)
        return false;
    return true;
  };
  replica.welcome(1);
  const size_t half = requests.size() / 2;
  for (size_t i = 0; i < half; ++i) replica.dispatch(requests[i]);
  wait(4);
  for (size_t i = 1; i < half; i += 4) replica.cancel(requests[i]);
  for (size_t i = half; i < requests.size(); ++i) replica.dispatch(requests[i]);
  wait(6);
  // It is lost and joins again: what has not ended is sent once more, behind what was told.
  replica.welcome(2);
  for (size_t i = 0; i < requests.size(); ++i) {
    if (i < half && i % 4 == 1) continue;
    const Request& r = requests[i];
    stays.push_back(r);
    std::vector<std::vector<TokenId>> told;
    bool open = false;
    for (int s = 0; s < r.sampling.n; ++s) {
      const Answer& a = replica.answers[{r.id, static_cast<uint32_t>(s)}];
      told.push_back(a.tokens);
      open |= a.finish == FinishReason::kNone;
    }
    // Of an ended sample the end is told again; this coordinator takes it as its first.
    for (int s = 0; s < r.sampling.n && open; ++s)
      replica.answers[{r.id, static_cast<uint32_t>(s)}].finish = FinishReason::kNone;
    if (open) replica.dispatch(r, told, 2);
  }
  wait(3);
  replica.send(Drain{});
  Request late = requests.back();
  late.id = RequestId{900};
  late.sampling.n = 1;
  replica.dispatch(late);
  ASSERT_TRUE(
      replica.read([&] { return over(late) && std::all_of(stays.begin(), stays.end(), over); }));
  EXPECT_EQ(replica.answers.at({late.id, 0}).error.code, ErrorCode::kUnavailable);
  const auto all_free = static_cast<uint32_t>(kPlanner.num_blocks);
  EXPECT_TRUE(replica.read([&] { return replica.last.free_blocks == all_free; }));
}

void expect_truth(const test::ReplicaEnd& replica, const std::vector<Request>& requests) {
  for (const Request& r : requests) {
    for (uint32_t s = 0; s < static_cast<uint32_t>(r.sampling.n); ++s) {
      const Answer& a = replica.answers.at({r.id, s});
      if (r.id == RequestId{5}) {
        EXPECT_EQ(a.error.code, ErrorCode::kOutOfBlocks);
        continue;
      }
      const Answer exact = test::truth(r, s, kStopLetter);
      EXPECT_EQ(a.tokens, exact.tokens) << r.id.value << " " << s;
      EXPECT_EQ(a.finish, exact.finish) << r.id.value << " " << s;
    }
  }
}

TEST(ReplicaDrivers, TheSameAnswersThroughEveryDriver) {
  const std::vector<Request> requests = trace_requests(true);
  for (const int depth : {1, 2}) {
    for (const size_t lag : {0, 3}) {
      SCOPED_TRACE("depth " + std::to_string(depth) + ", text " + std::to_string(lag) + " late");
      DirectReplica direct(depth, lag);
      std::vector<Request> stays;
      run_trace(direct, requests, stays);
      expect_truth(direct, stays);
      EXPECT_GT(direct.preemptions, 0);
      EXPECT_EQ(direct.drained, 1);
    }
    SCOPED_TRACE("LeaderLoop, depth " + std::to_string(depth));
    test::Replica live(1, kPlanner, 64, {}, depth == 2, std::make_shared<test::Letters>());
    std::vector<Request> stays;
    run_trace(live, requests, stays);
    expect_truth(live, stays);
    ASSERT_TRUE(live.read([&] { return live.drained == 1; }));
  }
}

TEST(ReplicaDrivers, OfflineRunGivesThemToo) {
  HashEngine engine(kPlanner.num_blocks, kContext, nullptr);
  OfflineRun run(engine, {.planner = kPlanner,
                          .limits = {.eos_tokens = {kEos}, .max_context = kContext},
                          .tokenizer = std::make_shared<test::Letters>()});
  std::vector<OfflineAnswer> ended;
  size_t stopped = 0;
  const auto requests = trace_requests(true);
  for (const Request& r : requests)
    if (r.id != RequestId{5}) run.add(r);
  while (run.has_work()) ASSERT_TRUE(run.step(ended).has_value());
  for (const OfflineAnswer& a : ended) {
    const auto r = std::find_if(requests.begin(), requests.end(),
                                [&](const Request& each) { return each.id == a.sequence.request; });
    const Answer exact = test::truth(*r, a.sequence.sample, kStopLetter);
    EXPECT_EQ(a.tokens, exact.tokens);
    EXPECT_EQ(a.finish, exact.finish);
    stopped += a.tokens.back() == kStopLetter && a.finish == FinishReason::kStop;
  }
  EXPECT_GT(stopped, 0u);
  run.add(requests[4]);
  const auto unfit = run.step(ended);
  ASSERT_FALSE(unfit.has_value());
  EXPECT_EQ(unfit.error().code, ErrorCode::kOutOfBlocks);
}

// Where no text ends an answer, the simulator's reports are the replica's to the last number.
TEST(ReplicaDrivers, TheSimulatorSendsTheVeryReportsOfTheReplica) {
  const std::vector<Request> requests = trace_requests(false);
  std::map<SequenceId, uint32_t> lengths;
  for (const Request& r : requests)
    for (uint32_t s = 0; s < static_cast<uint32_t>(r.sampling.n); ++s) {
      lengths[{r.id, s}] = 1000;
      if (r.id == RequestId{5}) continue;
      const Answer exact = test::truth(r, s);
      lengths[{r.id, s}] = static_cast<uint32_t>(exact.tokens.size());
      ASSERT_EQ(exact.finish, FinishReason::kStop) << "choose another seed";
    }
  lengths[{RequestId{900}, 0}] = 1;
  DirectReplica direct(1, 0);
  SimulatedReplica simulated(lengths);
  std::vector<Request> stays, again;
  run_trace(direct, requests, stays);
  run_trace(simulated, requests, again);
  ASSERT_EQ(direct.reports.size(), simulated.reports.size());
  EXPECT_GT(direct.preemptions, 0);
  for (size_t i = 0; i < direct.reports.size(); ++i) {
    for (test::ReplicaEnd* each :
         {static_cast<test::ReplicaEnd*>(&direct), static_cast<test::ReplicaEnd*>(&simulated)}) {
      StepReport& r = each->reports[i];
      r.step_time = r.forward_time = r.sample_time = {};
    }
    ASSERT_EQ(describe(direct.reports[i]), describe(simulated.reports[i])) << "report " << i;
  }
}

}  // namespace
}  // namespace tailor::worker
