#include "bench/tie_bench.h"

#include <algorithm>
#include <cstdio>
#include <functional>
#include <nlohmann/json.hpp>
#include <random>
#include <vector>

#include "base/clock.h"
#include "bench/summary.h"
#include "coordinator/scheduler_core.h"
#include "predict/length_head.h"
#include "tie/law.h"
#include "tie/rank_table.h"

namespace tailor::bench {
namespace {

using namespace coordinator;
using Kind = tie::RankOptions::Kind;

double us_since(Time begin) { return to_seconds(now() - begin) * 1e6; }

/// One operation, timed one call at a time (the clock's own cost is inside).
struct Case {
  std::string name;
  std::vector<double> us;
};

/// Laws as a predictor would give them: all different, so that no branch or cache line is spared.
std::vector<LengthLaw> log_t_laws() {
  std::mt19937_64 random(1);
  std::vector<LengthLaw> laws;
  for (int i = 0; i < 512; ++i)
    laws.push_back(tie::log_t(3 + 4 * static_cast<double>(random() % 1000) / 1000,
                              0.1 + 1.2 * static_cast<double>(random() % 1000) / 1000));
  return laws;
}
std::vector<LengthLaw> histogram_laws() {
  std::mt19937_64 random(2);
  std::vector<LengthLaw> laws;
  for (int i = 0; i < 512; ++i) {
    std::vector<double> p(LengthLaw::kBins);
    for (double& each : p) each = static_cast<double>(random() % 100);
    laws.push_back(tie::histogram(p, 1, 4096));
  }
  return laws;
}

void time_laws(const std::string& kind, const std::vector<LengthLaw>& laws, std::vector<Case>& out,
               double& sink) {
  constexpr double kLimit = 2048;
  const tie::LawMath math;
  const auto add = [&](const std::string& name, const std::function<double(const LengthLaw&)>& f) {
    Case c{kind + ": " + name, {}};
    for (int repeat = 0; repeat < 4; ++repeat)
      for (const LengthLaw& law : laws) {
        const Time begin = now();
        sink += f(law);
        c.us.push_back(us_since(begin));
      }
    out.push_back(std::move(c));
  };
  add("E, VaR, CVaR", [&](const LengthLaw& law) { return math.moments(law, kLimit).cvar; });
  add("E, VaR, CVaR, 100 out",
      [&](const LengthLaw& law) { return math.moments(law, kLimit, 100).cvar; });
  for (const auto& [name, rank] : {std::pair{"rank table, gittins", Kind::kGittins},
                                   std::pair{"rank table, conditional tie", Kind::kConditionalTie}})
    add(name, [&, rank = rank](const LengthLaw& law) {
      const tie::LawGrid grid(math, law, kLimit);
      return tie::RankTable(math, law, grid, {.kind = rank}).rank(100);
    });
}

/// The heads that ship, on numbers of any kind.
void time_heads(std::vector<Case>& out, double& sink) {
  std::mt19937_64 random(3);
  for (const char* name : {"prompt", "probe", "remaining"}) {
    const auto head = predict::LengthHead::load(
        std::string(TAILOR_DATA_FOLDER "/predictors/default/") + name + ".safetensors");
    if (!head) continue;
    Case c{std::string("shipped head: ") + name, {}};
    std::vector<float> input(static_cast<size_t>(head->info().input_size));
    for (int repeat = 0; repeat < 500; ++repeat) {
      for (float& x : input) x = static_cast<float>(random() % 2000) / 1000 - 1;
      const Time begin = now();
      sink += static_cast<double>(head->predict(input).mu);
      c.us.push_back(us_since(begin));
    }
    out.push_back(std::move(c));
  }
}

/// A SchedulerCore that serves, at a constant number of waiting requests: what each thing that
/// happens to it costs, the decision that follows from it included.
class BusyCore {
 public:
  BusyCore(uint32_t waiting, uint64_t seed)
      : random_(seed),
        slots_(std::max(1u, waiting / (2 * kReplicas))),
        core_(options(waiting)),
        running_(kReplicas) {
    Hello hello;
    hello.info.slots = slots_;
    hello.info.num_blocks = 1000;
    for (uint32_t r = 0; r < kReplicas; ++r) tell(FromReplica{{ReplicaId{r}}, hello});
    for (uint32_t i = 0; i < kReplicas * slots_ + waiting; ++i) arrive(), predict(last_id_);
  }

  void time(std::vector<Case>& out) {
    const std::string at = " at " + std::to_string(core_.waiting()) + " waiting";
    const uint32_t tokens = std::min(slots_, 256u);
    Case arrived{"core: arrived" + at, {}}, predicted{"core: law, re-keyed" + at, {}};
    Case ended{"core: one ends, the next starts" + at, {}};
    Case reported{"core: report of " + std::to_string(tokens) + " tokens" + at, {}};
    Case level{"core: beta level moves" + at, {}};
    for (int i = 0; i < 20'000; ++i) {
      predicted.us.push_back(predict(waiting_[random_() % waiting_.size()]));
      ended.us.push_back(report(static_cast<uint32_t>(i) % kReplicas, 1, FinishReason::kStop));
      arrived.us.push_back(arrive());
    }
    for (uint32_t i = 0; i < 1'000; ++i)
      reported.us.push_back(report(i % kReplicas, tokens, FinishReason::kNone));
    for (uint32_t r = 0; r < 5; ++r) {  // fewer slots for the same queue: from beta 0.2 to 0.5
      now_ += tie::BetaLevel::kHold;
      level.us.push_back(tell(DrainReplica{ReplicaId{r}}));
    }
    for (Case* c : {&arrived, &predicted, &ended, &reported, &level}) out.push_back(std::move(*c));
  }
  double sum() const { return static_cast<double>(core_.counters().dispatches) + core_.beta(); }

 private:
  static constexpr uint32_t kReplicas = 8;
  struct Running {
    RequestId id;
    uint32_t tokens = 0;
  };
  static CoreOptions options(uint32_t waiting) {
    CoreOptions o;
    o.policy = policy_with_laws();
    o.queue_limit = waiting + 1;
    o.ahead_requests = 0;
    return o;
  }

  double arrive() {
    place_.push_back(waiting_.size());
    waiting_.push_back(++last_id_);
    return tell(Arrived{RequestId{last_id_}, PriorityClass::kStandard, 1, 100, 2048, now_,
                        Duration::max()});
  }
  double predict(uint64_t id) {
    const double mu = 3 + 4 * static_cast<double>(random_() % 1000) / 1000;
    return tell(Predicted{RequestId{id}, tie::log_t(mu, 0.7)});
  }
  /// The next tokens of the first `count` that run on a replica.
  double report(uint32_t replica, uint32_t count, FinishReason finish) {
    auto& running = running_[replica];
    StepReport report;
    report.running_sequences = slots_;
    report.free_blocks = 500;
    for (uint32_t i = 0; i < count; ++i)
      report.progress.push_back({running[i].id, 0, Attempt{1}, running[i].tokens++, 1, finish});
    if (finish != FinishReason::kNone) {
      std::swap(running.front(), running.back());
      running.pop_back();
    }
    return tell(FromReplica{{ReplicaId{replica}, Epoch{1}}, std::move(report)});
  }
  double tell(const CoreEvent& event) {
    commands_.clear();
    const Time begin = now();
    core_.handle(now_, event, commands_);
    const double us = us_since(begin);
    for (const CoreCommand& command : commands_)
      if (const auto* to = std::get_if<ToReplica>(&command)) {
        const auto* dispatch = std::get_if<Dispatch>(&to->command);
        if (!dispatch) continue;
        running_[to->envelope.replica.value].push_back({dispatch->request, 0});
        const size_t place = place_[dispatch->request.value - 1];
        waiting_[place] = waiting_.back();
        place_[waiting_[place] - 1] = place;
        waiting_.pop_back();
      }
    return us;
  }

  std::mt19937_64 random_;
  const uint32_t slots_;
  SchedulerCore core_;
  Time now_{seconds(1000)};
  uint64_t last_id_ = 0;
  std::vector<std::vector<Running>> running_;
  std::vector<uint64_t> waiting_;  // ids, and where each one's is in there
  std::vector<size_t> place_;
  std::vector<CoreCommand> commands_;
};

}  // namespace

TieReport bench_tie(const TieBench& options) {
  struct Row {
    std::string name;
    std::vector<double> mean, p50, p99;
  };
  std::vector<Row> rows;
  double sink = 0;
  for (int round = 0; round < options.rounds; ++round) {
    std::vector<Case> cases;
    time_laws("log-t", log_t_laws(), cases, sink);
    time_laws("histogram", histogram_laws(), cases, sink);
    time_heads(cases, sink);
    for (const int share : {100, 10, 1}) {
      BusyCore core(static_cast<uint32_t>(std::max(1, options.waiting / share)),
                    1 + static_cast<uint64_t>(round));
      core.time(cases);
      sink += core.sum();
    }
    rows.resize(cases.size());
    for (size_t i = 0; i < cases.size(); ++i) {
      const Statistics s = statistics(std::move(cases[i].us));
      rows[i].name = cases[i].name;
      rows[i].mean.push_back(s.mean);
      rows[i].p50.push_back(s.p50);
      rows[i].p99.push_back(s.p99);
    }
  }
  const auto median = [](std::vector<double> v) { return statistics(std::move(v)).p50; };
  TieReport report;
  nlohmann::json json;
  char line[200];
  std::snprintf(line, sizeof line, "one thread, us; medians of %d rounds\n\n%-58s %9s %9s %9s\n",
                options.rounds, "", "mean", "P50", "P99");
  report.table = line;
  for (const Row& row : rows) {
    const double mean = median(row.mean), p50 = median(row.p50), p99 = median(row.p99);
    std::snprintf(line, sizeof line, "%-58s %9.2f %9.2f %9.2f\n", row.name.c_str(), mean, p50, p99);
    report.table += line;
    json["rows"].push_back(
        {{"name", row.name}, {"mean_us", mean}, {"p50_us", p50}, {"p99_us", p99}});
  }
  json["waiting"] = options.waiting;
  json["rounds"] = options.rounds;
  json["checksum"] = sink;  // also keeps the compiler from dropping the work
  report.json = json.dump(1);
  return report;
}

}  // namespace tailor::bench
