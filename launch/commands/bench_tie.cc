#include "launch/commands/bench_tie.h"

#include <algorithm>
#include <cstdio>
#include <functional>
#include <nlohmann/json.hpp>
#include <random>
#include <vector>

#include "base/clock.h"
#include "bench/summary.h"
#include "tie/law.h"
#include "tie/length_head.h"
#include "tie/rank_table.h"
#include "tie/score_queue.h"

namespace tailor::launch {
namespace {

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
    const auto head = tie::LengthHead::load(std::string(TAILOR_DATA_FOLDER "/predictors/default/") +
                                            name + ".safetensors");
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

/// Pushes `waiting` requests, re-keys as many, moves the level, pops and pushes at full length.
void time_queue(int waiting, uint64_t seed, std::vector<Case>& out, double& sink) {
  std::mt19937_64 random(seed);
  tie::ScoreQueue queue;
  queue.reserve(static_cast<size_t>(waiting) + 1);
  std::vector<tie::ScoreQueue::Handle> handles;
  handles.reserve(static_cast<size_t>(waiting));
  uint64_t id = 0;
  const auto tokens = [&] { return 1 + static_cast<double>(random() % 100000) / 100; };
  const auto request = [&] {
    return tie::ScoreQueue::Request{tokens(), 3 * tokens(), milliseconds(id), id++};
  };
  for (int i = 0; i < waiting; ++i) handles.push_back(queue.push(request()));

  const std::string at = " at " + std::to_string(waiting) + " waiting";
  Case push{"push" + at, {}}, rekey{"re-key" + at, {}}, pop{"pop" + at, {}};
  Case level{"beta level moves" + at, {}};
  for (int i = 0; i < 100'000; ++i) {
    const double expected = tokens(), cvar = 3 * tokens();
    const auto handle = handles[random() % handles.size()];
    Time begin = now();
    queue.predict(handle, expected, cvar);
    rekey.us.push_back(us_since(begin));

    const tie::ScoreQueue::Handle top = queue.top_handle();
    begin = now();
    sink += queue.pop().expected;
    pop.us.push_back(us_since(begin));

    const tie::ScoreQueue::Request next = request();
    begin = now();
    const auto fresh = queue.push(next);  // takes the handle that the pop freed
    push.us.push_back(us_since(begin));
    sink += static_cast<double>(fresh == top);
  }
  for (int step = 5; step <= 20; ++step) {
    const Time begin = now();
    queue.set_beta(step * tie::BetaLevel::kStep);
    level.us.push_back(us_since(begin));
  }
  for (Case* c : {&push, &rekey, &pop, &level}) out.push_back(std::move(*c));
}

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
    time_queue(options.waiting, 1 + static_cast<uint64_t>(round), cases, sink);
    rows.resize(cases.size());
    for (size_t i = 0; i < cases.size(); ++i) {
      const bench::Statistics s = bench::statistics(std::move(cases[i].us));
      rows[i].name = cases[i].name;
      rows[i].mean.push_back(s.mean);
      rows[i].p50.push_back(s.p50);
      rows[i].p99.push_back(s.p99);
    }
  }
  const auto median = [](std::vector<double> v) { return bench::statistics(std::move(v)).p50; };
  TieReport report;
  nlohmann::json json;
  char line[200];
  std::snprintf(line, sizeof line, "one thread, us; medians of %d rounds\n\n%-42s %9s %9s %9s\n",
                options.rounds, "", "mean", "P50", "P99");
  report.table = line;
  for (const Row& row : rows) {
    const double mean = median(row.mean), p50 = median(row.p50), p99 = median(row.p99);
    std::snprintf(line, sizeof line, "%-42s %9.2f %9.2f %9.2f\n", row.name.c_str(), mean, p50, p99);
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

}  // namespace tailor::launch
