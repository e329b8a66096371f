// Ranking: the rows, how one is added, and that the core's order equals a row's formula evaluated
// anew for everybody at every instant.
#include "coordinator/ranking.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "coordinator/scheduler_core.h"

namespace tailor::coordinator {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// ---- rows ----

TEST(Ranking, RowsKeepTheirPlacesWhichEventLogsName) {
  std::vector<std::string> names;
  for (const PolicyRow& row : policies()) names.emplace_back(row.name);
  EXPECT_THAT(names, ElementsAre("fcfs", "sept", "tie"));
  for (uint8_t row = 0; row < policies().size(); ++row) {
    EXPECT_EQ(policy_named(names[row])->row, row);
    EXPECT_FALSE(policies()[row].help.empty());
    EXPECT_NE(policies()[row].waiting_key, nullptr);
  }
  EXPECT_EQ(row_of(policy_without_laws()).name, "fcfs");
  EXPECT_EQ(row_of(policy_with_laws()).name, "tie");
  EXPECT_EQ(row_of(policy_by_expected_work()).name, "sept");
  EXPECT_FALSE(row_of(policy_without_laws()).needs.law);
  EXPECT_EQ(describe(policy_with_laws()), "tie (tau 30 s, gamma 0.9)");
  const auto unknown = policy_named("shortest");
  ASSERT_FALSE(unknown.has_value());
  EXPECT_THAT(unknown.error().message, HasSubstr("known: fcfs, sept, tie"));
}

TEST(Ranking, KeysAreTheFormulasToTheBit) {
  WorkView work;
  for (const double expected : {0.0, 1e-9, 1.0, 92.75, 2048.0})
    for (const double beta : {0.1, 0.275, 0.5})
      for (const double arrived_s : {0.0, 1234.567, 1e9})
        for (const double tau : {0.05, 30.0, std::numeric_limits<double>::infinity()}) {
          work.moments = {expected, 3 * expected, 5 * expected};
          work.beta = beta;
          const Duration arrival = from_seconds(arrived_s);
          work.arrival = Time(arrival);
          const PolicyParameters with{tau, 0.9};
          const auto key = [&](const char* name) {
            return row_of(*policy_named(name)).waiting_key(work, with);
          };
          EXPECT_EQ(key("fcfs"), 0.0);
          EXPECT_EQ(key("sept"), tie::time_invariant_key(expected, arrival, tau, 0.9));
          EXPECT_EQ(key("tie"),
                    tie::time_invariant_key(expected + beta * (5 * expected), arrival, tau, 0.9));
        }
}

// ---- a row of one's own ----

constexpr PolicyRow kShortestPrompt = {
    .name = "shortest-prompt",
    .help = "the shortest prompt first",
    .needs = {},
    .waiting_key = [](const WorkView& work, const PolicyParameters&) -> double {
      return work.prompt_tokens;
    }};
constexpr PolicyRow kOracle = {
    .name = "oracle",
    .help = "the shortest answer first",
    .needs = {.truth = true},
    .waiting_key = [](const WorkView& work, const PolicyParameters&) -> double {
      return work.truth;
    }};
constexpr PolicyRow kByRank = {
    .name = "by-rank",
    .help = "the least Gittins rank first",
    .needs = {.law = true},
    .waiting_key = [](const WorkView& work, const PolicyParameters&) -> double {
      return work.moments.expected;
    },
    .ranks =
        [](const WorkView& work, const PolicyParameters&) {
          const tie::LawGrid grid(*work.math, *work.law, work.max_tokens - work.law_from);
          return tie::RankTable(*work.math, *work.law, grid,
                                {.kind = tie::RankOptions::Kind::kGittins});
        }};
constexpr PolicyRow kOwnRows[] = {kShortestPrompt, kOracle, kByRank};

TEST(Ranking, AnOracleIsNeverOfferedToACluster) {
  EXPECT_THAT(served_policies(kOwnRows), ElementsAre("shortest-prompt", "by-rank"));
  EXPECT_EQ(policies_help(kOwnRows),
            "shortest-prompt: the shortest prompt first; by-rank: the least Gittins rank first");
  EXPECT_TRUE(policy_named("oracle", kOwnRows).has_value()) << "a simulation may";
}

TEST(Ranking, ARowAddedIsAPolicyOfTheCore) {
  CoreOptions options;
  options.policy = *policy_named("shortest-prompt", kOwnRows);
  options.ahead_requests = 0;
  SchedulerCore core(options, kOwnRows);
  EXPECT_EQ(core.policy().name, "shortest-prompt");
  std::vector<CoreCommand> commands;
  const Time now{seconds(100)};
  const uint32_t prompts[] = {30, 500, 20, 40, 20};
  for (uint64_t id = 1; id <= 5; ++id) {
    Arrived arrived;
    arrived.id = RequestId{id};
    arrived.prompt_tokens = prompts[id - 1];
    arrived.max_tokens = 64;
    arrived.arrival = now;
    core.handle(now, arrived, commands);
  }
  commands.clear();
  Hello hello;
  hello.info.slots = 5;
  hello.info.num_blocks = 100;
  core.handle(now, FromReplica{{ReplicaId{0}}, hello}, commands);
  core.check_integrity();
  std::vector<uint64_t> order;
  for (const CoreCommand& command : commands)
    if (const auto* to = std::get_if<ToReplica>(&command))
      if (const auto* dispatch = std::get_if<Dispatch>(&to->command))
        order.push_back(dispatch->request.value);
  EXPECT_THAT(order, ElementsAre(3, 5, 1, 4, 2));
}

TEST(Ranking, ARowMaySayHowItsRankGoesOnWithAge) {
  for (const PolicyRow& row : policies()) EXPECT_EQ(row.ranks, nullptr) << row.name;
  const tie::LawMath math;
  const LengthLaw law = tie::log_t(5, 0.7);
  WorkView work;
  work.law = &law;
  work.math = &math;
  work.max_tokens = 2048;
  const tie::RankTable table = kByRank.ranks(work, {});
  const tie::RankTable expected(math, law, tie::LawGrid(math, law, 2048), {});
  for (const double age : {0.0, 10.0, 100.0, 1000.0, 2048.0})
    EXPECT_EQ(table.rank(age), expected.rank(age));
}

// ---- the order, at every instant ----

/// The formula as it is written, for everybody, at one instant.
struct BruteForce {
  double tau;
  long double value(const tie::Moments& m, Time arrival, double beta, Time now) const {
    const long double waited = to_seconds(now - arrival);
    const long double decay = std::isinf(tau) ? 1.0L : powl(tie::kDecayPerTau, waited / tau);
    return (m.expected + static_cast<long double>(beta) * m.cvar) * decay;
  }
};

/// Random queues under random predictions, departures and levels, one after the other through the
/// same core; whoever is dispatched must be the brute-force minimum at that instant.
class RandomQueues {
 public:
  explicit RandomQueues(double tau) : brute_{tau}, core_(options(tau)) {
    // Few distinct laws, so that ties happen.
    for (int i = 0; i < 24; ++i) {
      laws_.push_back(tie::log_t(2 + i % 6, i / 6 * 0.4 + 0.1));
      moments_.push_back(math_.moments(laws_.back(), kMaxTokens));
    }
    laws_.emplace_back();  // nobody says anything: the population's
    moments_.push_back(math_.moments(tie::default_population(), kMaxTokens));
  }

  void run(uint64_t seed) {
    random_.seed(seed);
    slots_ = 1 + static_cast<uint32_t>(random_() % 8);
    Hello hello;
    hello.info.slots = slots_;
    hello.info.num_blocks = 100;
    tell(FromReplica{{ReplicaId{0}}, hello});
    for (uint32_t i = 0; i < slots_; ++i) add(0);  // these run, and keep others waiting
    for (int step = 0; step < 30 && !testing::Test::HasFatalFailure(); ++step) {
      now_ += milliseconds(random_() % 1500);
      const auto choice = random_() % 8;
      if (waiting_.empty() || choice < 4) {
        add(random_() % laws_.size());
      } else if (choice < 6) {
        Waiting& one = waiting_[random_() % waiting_.size()];
        one.law = random_() % (laws_.size() - 1);
        tell(Predicted{one.id, laws_[one.law]});
      } else if (choice < 7) {
        const size_t at = random_() % waiting_.size();
        const RequestId id = waiting_[at].id;
        waiting_.erase(waiting_.begin() + static_cast<ptrdiff_t>(at));
        tell(Abandoned{id});
      } else {
        end_one();
      }
      ASSERT_EQ(core_.waiting(), waiting_.size());
    }
    core_.check_integrity();
    while (!running_.empty() && !testing::Test::HasFatalFailure()) end_one();
    EXPECT_EQ(core_.live(), 0u);
  }
  const CoreCounters& counters() const { return core_.counters(); }

 private:
  static constexpr uint32_t kMaxTokens = 2048;
  struct Waiting {
    RequestId id;
    Time arrival;
    size_t law = 0;
  };
  static CoreOptions options(double tau) {
    CoreOptions options;
    options.policy = policy_with_laws();
    options.policy.parameters.tau_seconds = tau;
    options.ahead_requests = 0;
    return options;
  }

  void add(size_t law) {
    Arrived arrived;
    arrived.id = RequestId{++last_id_};
    arrived.max_tokens = kMaxTokens;
    arrived.arrival = now_ - milliseconds(random_() % 20 * 500);
    waiting_.push_back({arrived.id, arrived.arrival, laws_.size() - 1});
    tell(arrived);
    if (waiting_.empty() || waiting_.back().id != arrived.id) return;  // it runs
    if (law == laws_.size() - 1) return;                               // nobody predicts it
    waiting_.back().law = law;
    tell(Predicted{arrived.id, laws_[law]});
  }
  /// One that runs ends, and the best of those that wait takes its place.
  void end_one() {
    const RequestId id = running_.front();
    running_.erase(running_.begin());
    StepReport report;
    report.running_sequences = 1;
    report.free_blocks = 100;
    report.progress.push_back({id, 0, Attempt{1}, 0, 1, FinishReason::kStop});
    const size_t before = waiting_.size();
    tell(FromReplica{{ReplicaId{0}, epoch_}, std::move(report)});
    ASSERT_EQ(waiting_.size(), before - (before > 0));
  }
  void tell(const CoreEvent& event) {
    commands_.clear();
    core_.handle(now_, event, commands_);
    // The level that BetaLevel says, of all that waited before anybody was dispatched.
    level_.update(now_, static_cast<double>(waiting_.size()), slots_);
    ASSERT_EQ(core_.beta(), level_.value());
    for (const CoreCommand& command : commands_) {
      const auto* to = std::get_if<ToReplica>(&command);
      if (!to) continue;
      if (std::holds_alternative<Welcome>(to->command)) epoch_ = to->envelope.epoch;
      if (const auto* d = std::get_if<Dispatch>(&to->command)) check_best(d->request);
    }
  }
  void check_best(RequestId dispatched) {
    const double beta = level_.value();
    const auto value = [&](const Waiting& w) {
      return brute_.value(moments_[w.law], w.arrival, beta, now_);
    };
    long double least = std::numeric_limits<long double>::infinity();
    for (const Waiting& each : waiting_) least = std::min(least, value(each));
    // Of those whose values are equal but for rounding, the earliest and then the lowest id.
    const auto first =
        std::min_element(waiting_.begin(), waiting_.end(), [&](const Waiting& a, const Waiting& b) {
          const bool a_least = value(a) <= least * (1 + 1e-12L);
          const bool b_least = value(b) <= least * (1 + 1e-12L);
          if (a_least != b_least) return a_least;
          if (a.arrival != b.arrival) return a.arrival < b.arrival;
          return a.id < b.id;
        });
    ASSERT_EQ(dispatched, first->id) << "beta " << beta << " tau " << brute_.tau;
    running_.push_back(dispatched);
    waiting_.erase(first);
  }

  std::mt19937_64 random_;
  const tie::LawMath math_;
  std::vector<LengthLaw> laws_;
  std::vector<tie::Moments> moments_;  // of each law
  const BruteForce brute_;
  SchedulerCore core_;
  tie::BetaLevel level_;
  Time now_{seconds(1000)};
  Epoch epoch_;
  uint32_t slots_ = 1;
  uint64_t last_id_ = 0;
  std::vector<Waiting> waiting_;
  std::vector<RequestId> running_;
  std::vector<CoreCommand> commands_;
};

TEST(Ranking, OrderEqualsTheFormulaInTwentyThousandRandomQueues) {
  RandomQueues queues[] = {RandomQueues(std::numeric_limits<double>::infinity()), RandomQueues(1),
                           RandomQueues(30)};
  for (uint64_t seed = 1; seed <= 20000; ++seed) {
    queues[seed % 4 == 0 ? 0 : seed % 4 == 1 ? 1 : 2].run(seed);
    ASSERT_FALSE(HasFatalFailure()) << "seed " << seed;
  }
  for (const RandomQueues& each : queues) {
    EXPECT_GT(each.counters().predicted, 1000u);
    EXPECT_GT(each.counters().rekeyed_all, 1000u) << "beta moved";
  }
}

TEST(Ranking, ALevelThatMovesTurnsTheOrder) {
  const auto key = [](const tie::Moments& moments, double beta) {
    WorkView work;
    work.moments = moments;
    work.beta = beta;
    return row_of(policy_with_laws()).waiting_key(work, {});
  };
  EXPECT_LT(key({150, 0, 200}, 0.1), key({100, 0, 900}, 0.1));      // 170 against 190
  EXPECT_LT(key({100, 0, 900}, 0.025), key({150, 0, 200}, 0.025));  // 122.5 against 155
}

}  // namespace
}  // namespace tailor::coordinator
