// SchedulerCore and ReplicaCores closed on each other, with nothing between them but messages that
// take their time: requests that come, go and miss deadlines; replicas that are lost, drain and
// join again. Every request ends once, with every token once, and nothing stays behind.
#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <map>
#include <memory>
#include <random>

#include "coordinator/scheduler_core.h"
#include "sim/sim_replica.h"

namespace tailor::sim {
namespace {

using namespace coordinator;

constexpr worker::PlannerOptions kPlanner{.num_blocks = 14, .slots = 4, .token_budget = 32};
constexpr uint32_t kReplicas = 3;

class World {
 public:
  explicit World(uint32_t seed) : random_(seed), core_(options()), links_(kReplicas) {
    for (uint32_t r = 0; r < kReplicas; ++r) join(r);
  }

  void run() {
    for (int i = 0; i < 3000 && !::testing::Test::HasFatalFailure(); ++i) event();
    for (int i = 0; i < 100000 && core_.live() > 0; ++i) {
      now_ += milliseconds(10);
      for (uint32_t r = 0; r < kReplicas; ++r) {
        if (!links_[r].replica && links_[r].reports.empty()) join(r);
        deliver(r);
        step(r);
        read(r);
      }
    }
    ASSERT_EQ(core_.live(), 0u);
    for (const auto& [id, request] : requests_) EXPECT_TRUE(request.ended) << id;
    for (uint32_t r = 0; r < kReplicas; ++r) {
      for (int i = 0; i < 1000 && links_[r].replica; ++i) deliver(r), step(r), read(r);
      if (!links_[r].replica) continue;
      EXPECT_FALSE(links_[r].replica->core().has_work());
      const auto& blocks = links_[r].replica->core().planner().blocks();
      EXPECT_EQ(blocks.free_blocks(), kPlanner.num_blocks);
    }
  }
  uint64_t whole = 0, unfit = 0, preempted = 0;

 private:
  struct Asked {
    uint32_t prompt_tokens = 0;
    std::vector<uint32_t> lengths, seen;
    bool ended = false, failed = false;
  };
  struct Link {
    std::unique_ptr<SimReplica> replica;
    Epoch epoch;
    std::deque<std::pair<ToReplica, DispatchPayload>> commands;
    std::deque<std::pair<FromReplica, std::vector<SequenceEnd>>> reports;
    bool under_way = false;
  };
  static CoreOptions options() {
    CoreOptions o;
    o.queue_limit = 60;
    o.max_losses = 1000;
    o.expected_replicas = kReplicas;
    return o;
  }
  uint32_t below(uint32_t n) { return static_cast<uint32_t>(random_() % n); }

  void event() {
    now_ += Duration(below(20'000'000));
    const uint32_t what = below(1000), r = below(kReplicas);
    if (what < 120) return arrive();
    if (what < 140 && last_id_ > 0) return tell(Abandoned{RequestId{1 + below(last_id_)}});
    if (what < 160) return tell(Tick{});
    if (what < 164) return lose(r);
    if (what < 166) return tell(DrainReplica{ReplicaId{r}});
    if (what < 180 && !links_[r].replica) return join(r);
    if (what < 450) return deliver(r);
    if (what < 800) return step(r);
    read(r);
  }

  void arrive() {
    Arrived a;
    a.id = RequestId{++last_id_};
    a.samples = below(4) == 0 ? 1 + below(4) : 1;
    a.prompt_tokens = 1 + below(below(20) == 0 ? 300 : 90);
    a.max_tokens = 80;
    a.arrival = now_;
    if (below(8) == 0) a.deadline = Duration(below(2'000'000'000));
    Asked& asked = asked_[a.id];
    asked.prompt_tokens = a.prompt_tokens;
    for (uint32_t s = 0; s < a.samples; ++s) asked.lengths.push_back(1 + below(80));
    asked.seen.resize(a.samples);
    tell(a);
  }
  void join(uint32_t r) {
    links_[r] =
        Link{std::make_unique<SimReplica>(ReplicaId{r}, kPlanner, StepTimes{}), {}, {}, {}, false};
    Hello hello;
    hello.info.slots = kPlanner.slots;
    hello.info.num_blocks = kPlanner.num_blocks;
    tell(FromReplica{{ReplicaId{r}}, hello});
  }
  /// What it said before may still arrive.
  void lose(uint32_t r) {
    if (!links_[r].replica) return;
    const Epoch epoch = links_[r].epoch;
    links_[r].replica.reset();
    links_[r].commands.clear();
    tell(ReplicaLost{ReplicaId{r}, epoch});
  }

  void deliver(uint32_t r) {
    Link& link = links_[r];
    if (link.commands.empty()) return;
    auto [command, payload] = std::move(link.commands.front());
    link.commands.pop_front();
    if (link.replica) link.replica->apply(command, std::move(payload));
  }
  void step(uint32_t r) {
    Link& link = links_[r];
    if (!link.replica) return;
    if (!link.under_way) {
      link.under_way = link.replica->begin().has_value();
    } else {
      link.under_way = false;
      worker::ReportDraft& draft = link.replica->end(
          [this](SequenceId id) { return asked_.at(id.request).lengths[id.sample]; });
      preempted += draft.report.preempted.size();
      link.reports.push_back({{draft.envelope, draft.report}, draft.payload.ends});
    }
    const auto sound = link.replica->core().check_integrity();
    ASSERT_TRUE(sound.has_value()) << to_string(sound.error());
    bool leaves = false;
    for (FromReplica& word : link.replica->take_words()) {
      leaves |= std::holds_alternative<Drained>(word.report);
      link.reports.push_back({std::move(word), {}});
    }
    if (leaves) link.replica.reset();
  }
  void read(uint32_t r) {
    if (links_[r].reports.empty()) return;
    const auto [report, ends] = std::move(links_[r].reports.front());
    links_[r].reports.pop_front();
    ends_ = ends;
    tell(report);
  }

  void tell(const CoreEvent& event) {
    std::vector<CoreCommand> commands;
    core_.handle(now_, event, commands);
    core_.check_integrity();
    const auto* from = std::get_if<FromReplica>(&event);
    const auto* report = from ? std::get_if<StepReport>(&from->report) : nullptr;
    for (const CoreCommand& command : commands) {
      if (const auto* accept = std::get_if<Accept>(&command)) {
        requests_.emplace(accept->id.value, asked_.at(accept->id));
      } else if (const auto* to = std::get_if<ToReplica>(&command)) {
        send(*to);
      } else if (const auto* emit = std::get_if<Emit>(&command)) {
        take(report->progress[emit->entry], emit->skip, emit->entry);
      } else if (const auto* finish = std::get_if<Finish>(&command)) {
        end(*finish);
      }
    }
  }
  void send(const ToReplica& to) {
    Link& link = links_[to.envelope.replica.value];
    if (std::holds_alternative<Welcome>(to.command)) link.epoch = to.envelope.epoch;
    DispatchPayload payload;
    if (const auto* dispatch = std::get_if<Dispatch>(&to.command)) {
      const Asked& asked = requests_.at(dispatch->request.value);
      payload = lengths_only(*dispatch, asked.seen, asked.lengths);
    }
    link.commands.emplace_back(to, std::move(payload));
  }
  void take(const SequenceProgress& entry, uint32_t skip, uint32_t index) {
    Asked& asked = requests_.at(entry.request.value);
    ASSERT_FALSE(asked.ended);
    ASSERT_EQ(entry.first_index + skip, asked.seen[entry.sample]) << "a token is lost or doubled";
    asked.seen[entry.sample] += entry.num_tokens - skip;
    if (entry.finish != FinishReason::kFailed) return;
    const auto end = std::find_if(ends_.begin(), ends_.end(),
                                  [&](const SequenceEnd& each) { return each.entry == index; });
    ASSERT_NE(end, ends_.end());
    ASSERT_EQ(end->error.code, ErrorCode::kOutOfBlocks) << to_string(end->error);
    ASSERT_FALSE(fits(asked, entry.sample)) << "it would have had its turn";
    asked.failed = true;
  }
  void end(const Finish& finish) {
    Asked& asked = requests_.at(finish.id.value);
    ASSERT_FALSE(asked.ended) << "ended twice";
    asked.ended = true;
    unfit += asked.failed;
    if (finish.reason != FinishReason::kNone || asked.failed) return;
    ASSERT_EQ(asked.seen, asked.lengths);
    for (uint32_t s = 0; s < asked.lengths.size(); ++s) ASSERT_TRUE(fits(asked, s));
    ++whole;
  }

  /// Into all blocks of a replica; the last token is drawn and not kept.
  static bool fits(const Asked& asked, uint32_t sample) {
    return asked.prompt_tokens + asked.lengths[sample] - 1 <=
           static_cast<uint32_t>(kPlanner.num_blocks * kPlanner.block_tokens);
  }

  std::mt19937 random_;
  SchedulerCore core_;
  std::vector<Link> links_;
  Time now_{seconds(1000)};
  uint64_t last_id_ = 0;
  std::map<RequestId, Asked> asked_;
  std::map<uint64_t, Asked> requests_;  // accepted
  std::vector<SequenceEnd> ends_;       // of the report that is told
};

TEST(TwoCores, EveryRequestEndsOnceAndNothingStaysBehind) {
  uint64_t whole = 0, preempted = 0, unfit = 0;
  for (uint32_t seed = 0; seed < 25; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    World world(seed);
    world.run();
    whole += world.whole;
    preempted += world.preempted;
    unfit += world.unfit;
  }
  EXPECT_GT(whole, 1500u);
  EXPECT_GT(preempted, 300u);
  EXPECT_GT(unfit, 25u);
}

// `tailor status` counts them.
TEST(TwoCores, NothingStaysInFlightToAnIdleReplica) {
  const Time now{seconds(1000)};
  SchedulerCore core(CoreOptions{});
  SimReplica replica(ReplicaId{0}, kPlanner, StepTimes{});
  const std::vector<uint32_t> length = {3}, none = {0};
  const auto tell = [&](const CoreEvent& event) {
    std::vector<CoreCommand> commands;
    core.handle(now, event, commands);
    for (const CoreCommand& command : commands) {
      const auto* to = std::get_if<ToReplica>(&command);
      if (to == nullptr) continue;
      const auto* dispatch = std::get_if<Dispatch>(&to->command);
      replica.apply(*to, dispatch ? lengths_only(*dispatch, none, length) : DispatchPayload{});
    }
    return core.replica(ReplicaId{0}).commands_in_flight;
  };
  const auto step = [&]() -> FromReplica {
    EXPECT_TRUE(replica.begin().has_value());
    worker::ReportDraft& draft = replica.end([](SequenceId) { return 3u; });
    return {draft.envelope, draft.report};
  };
  Hello hello;
  hello.info.slots = kPlanner.slots;
  hello.info.num_blocks = kPlanner.num_blocks;
  EXPECT_EQ(tell(FromReplica{{ReplicaId{0}}, hello}), 1u) << "its Welcome";
  EXPECT_EQ(tell(step()), 0u);
  EXPECT_FALSE(replica.begin().has_value()) << "once";

  Arrived arrived;
  arrived.id = RequestId{1};
  arrived.prompt_tokens = 5;
  arrived.max_tokens = 80;
  arrived.arrival = now;
  EXPECT_EQ(tell(arrived), 1u) << "its Dispatch";
  EXPECT_EQ(tell(step()), 0u);
  const FromReplica second = step(), third = step();  // with the end; on their way
  EXPECT_EQ(tell(Abandoned{RequestId{1}}), 1u) << "its cancel, which meets nothing";
  tell(second);
  EXPECT_EQ(tell(third), 1u);
  EXPECT_EQ(tell(step()), 0u);
  EXPECT_FALSE(replica.begin().has_value());
}

}  // namespace
}  // namespace tailor::sim
