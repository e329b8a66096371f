// A random world around a SchedulerCore, and a naive model that checks every command: clients that
// come, cancel and set deadlines; replicas that join, report (sometimes late, twice, or of an old
// attempt), drain and are lost. Every sample has a target length, so "no token lost or doubled" is
// a sum at the end. Under sept and tie laws come too, some late, some of a probe, and every
// dispatch must be the best by the formula itself.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <optional>
#include <random>
#include <set>
#include <tuple>
#include <vector>

#include "coordinator/scheduler_core.h"
#include "tie/law_of_largest.h"

namespace tailor::coordinator {

class RandomWorld {
 public:
  struct Options {
    uint64_t seed = 1;
    CoreOptions core;
    uint32_t replicas = 3;
    int events = 1500;
    bool check = true;
  };

  explicit RandomWorld(const Options& options)
      : options_(options), random_(options.seed), core_(options.core), replicas_(options.replicas) {
    if (row_of(options.core.policy).needs.law) math_.emplace();
    if (options.core.population.kind != LengthLaw::Kind::kNone)
      population_ = options.core.population;
  }

  /// Called with every event before the core handles it and with the commands after.
  std::function<void(Time, const CoreEvent&, const std::vector<CoreCommand>&)> on_handled;

  void run() {
    for (int i = 0; i < options_.events && !testing::Test::HasFatalFailure(); ++i) random_event();
    finish_everything();
  }

  SchedulerCore& core() { return core_; }

 private:
  struct ModelRequest {
    Arrived arrived;
    Attempt attempt;
    bool bound = false;
    uint32_t replica = 0;
    bool ended = false;
    std::vector<uint32_t> target, emitted;
    std::vector<bool> sample_ended;
    LengthLaw law;  // kind none: the population's
    uint32_t law_generated = 0;
    bool law_probed = false;
  };
  struct Run {  // on a replica
    Attempt attempt;
    std::vector<uint32_t> next;  // per sample: index of the next token to report
    std::vector<bool> done;
  };
  struct ModelReplica {
    bool joined = false, draining = false;
    Epoch epoch;
    uint32_t slots = 0;
    std::map<uint64_t, Run> runs;
  };

  uint64_t below(uint64_t n) { return random_() % n; }
  bool chance(int percent) { return below(100) < static_cast<uint64_t>(percent); }

  void random_event() {
    now_ += Duration(below(20'000'000));
    const auto choice = below(100);
    if (choice < 25) return arrive();
    if (choice < 30) return abandon();
    if (choice < 36) return join(static_cast<uint32_t>(below(replicas_.size())));
    if (choice < 38) return lose(static_cast<uint32_t>(below(replicas_.size())));
    if (choice < 39)
      return handle(DrainReplica{ReplicaId{static_cast<uint32_t>(below(replicas_.size()))}});
    if (choice < 40) return drained(static_cast<uint32_t>(below(replicas_.size())));
    if (choice < 43) return handle(Tick{});
    if (row_of(options_.core.policy).needs.law) {
      if (choice < 60) return predict();
      if (choice < 66) return probe();
      if (choice < 67) return population();
    }
    report(static_cast<uint32_t>(below(replicas_.size())));
  }

  void arrive() {
    Arrived a;
    a.id = RequestId{++last_id_};
    a.priority = static_cast<PriorityClass>(below(3));
    a.samples = chance(80) ? 1 : 1 + static_cast<uint32_t>(below(6));
    a.prompt_tokens = 1 + static_cast<uint32_t>(below(50));
    a.max_tokens = 64;
    a.arrival = now_ - Duration(below(5'000'000));  // tokenizing took a while
    if (chance(15)) a.deadline = Duration(below(400'000'000));
    ModelRequest r;
    r.arrived = a;
    for (uint32_t s = 0; s < a.samples; ++s)
      r.target.push_back(1 + static_cast<uint32_t>(below(20)));
    r.emitted.assign(a.samples, 0);
    r.sample_ended.assign(a.samples, false);
    arriving_ = r;
    handle(a);
  }

  LengthLaw random_law() {
    if (chance(5)) return {};
    if (chance(20)) {
      std::vector<double> bins(LengthLaw::kBins);
      for (double& bin : bins) bin = static_cast<double>(below(4));
      bins[below(LengthLaw::kBins)] += 1;
      return tie::histogram(bins, 1, 200);
    }
    return tie::log_t(static_cast<double>(below(500)) / 100,
                      0.1 + static_cast<double>(below(20)) / 10, 3.5);
  }
  ModelRequest* some_request() {
    if (requests_.empty()) return nullptr;
    auto it = requests_.end();
    std::advance(it, -1 - static_cast<int64_t>(below(std::min<size_t>(requests_.size(), 30))));
    return &it->second;
  }
  void predict() {  // often too late: must be harmless
    ModelRequest* request = some_request();
    if (!request) return;
    const LengthLaw law = random_law();
    if (!request->ended && !request->law_probed && law.kind != LengthLaw::Kind::kNone) {
      request->law = law;
      request->law_generated = 0;
    }
    handle(Predicted{request->arrived.id, law});
  }
  void probe() {
    ModelRequest* request = some_request();
    if (!request) return;
    LawProbed event{request->arrived.id, request->attempt,
                    static_cast<uint32_t>(below(request->target.size())), 0, random_law()};
    Epoch epoch = replicas_[request->replica].epoch;
    if (chance(50)) event.generated = static_cast<uint32_t>(below(request->emitted[0] + 1));
    if (chance(10)) ++event.attempt.value;
    if (chance(10)) --epoch.value;
    if (!request->ended && request->bound && event.attempt == request->attempt &&
        epoch == replicas_[request->replica].epoch && event.law.kind != LengthLaw::Kind::kNone &&
        (event.generated == 0 || request->target.size() == 1)) {
      request->law = event.law;
      request->law_generated = event.generated;
      request->law_probed = true;
    }
    StepReport report;
    report.free_blocks = static_cast<uint32_t>(below(101));
    report.laws.push_back(event);
    handle(FromReplica{{ReplicaId{request->replica}, epoch}, std::move(report)});
  }
  void population() {
    const LengthLaw law = random_law();
    population_ = law.kind == LengthLaw::Kind::kNone ? tie::default_population() : law;
    PredictorHello hello;
    hello.population = law;
    handle(hello);
  }

  /// ln(Score * gamma^(wait / tau)), from the formula: smaller runs first; 0 under fcfs.
  double rank(const ModelRequest& r) const {
    const PolicyRow::Needs& needs = row_of(options_.core.policy).needs;
    const PolicyParameters& with = options_.core.policy.parameters;
    if (!needs.law) return 0;
    const LengthLaw& law = r.law.kind == LengthLaw::Kind::kNone ? population_ : r.law;
    const auto n = static_cast<uint32_t>(r.target.size());
    const tie::Moments m =
        n > 1 ? tie::moments_of_largest(*math_, law, n, r.arrived.max_tokens)
              : math_->moments(law, r.arrived.max_tokens - r.law_generated,
                               std::max(r.emitted[0], r.law_generated) - r.law_generated);
    const double beta = needs.beta ? core_.beta() : 0;
    const double waited = to_seconds(now_ - r.arrived.arrival);
    return std::log(m.expected + beta * m.cvar) + waited / with.tau_seconds * std::log(with.gamma);
  }

  void abandon() {
    if (requests_.empty()) return;
    auto it = requests_.begin();
    std::advance(it, below(requests_.size()));
    handle(Abandoned{RequestId{it->first}});  // often one that has ended: must be harmless
  }

  void join(uint32_t r) {
    if (!replicas_[r].joined || chance(5)) join(r, 1 + static_cast<uint32_t>(below(6)));
  }
  void join(uint32_t r, uint32_t slots) {
    Hello hello;
    hello.info.slots = slots;
    hello.info.num_blocks = 100;
    handle(FromReplica{{ReplicaId{r}}, hello});
  }
  void lose(uint32_t r) {
    Epoch epoch = replicas_[r].epoch;
    if (chance(20) && epoch.value > 0) --epoch.value;  // old news
    handle(ReplicaLost{ReplicaId{r}, epoch});
  }
  void drained(uint32_t r) {
    if (replicas_[r].draining) handle(FromReplica{{ReplicaId{r}, replicas_[r].epoch}, Drained{}});
  }

  void report(uint32_t r, bool orderly = false) {
    ModelReplica& replica = replicas_[r];
    if (!replica.joined) return;
    std::vector<SequenceProgress> entries;
    for (auto& [id, run] : replica.runs) {
      const ModelRequest& request = requests_.at(id);
      for (uint32_t s = 0; s < run.next.size(); ++s) {
        if (run.done[s] || (!orderly && chance(30))) continue;
        SequenceProgress entry{RequestId{id}, s, run.attempt, run.next[s], 0, FinishReason::kNone};
        entry.num_tokens =
            std::min<uint32_t>(static_cast<uint32_t>(below(4)), request.target[s] - run.next[s]);
        if (orderly) entry.num_tokens = request.target[s] - run.next[s];
        if (!orderly && chance(5) && entry.first_index > 0) {  // says the last token again
          --entry.first_index;
          ++entry.num_tokens;
        }
        run.next[s] = entry.first_index + entry.num_tokens;
        if (run.next[s] == request.target[s] && (orderly || chance(70))) {
          entry.finish = FinishReason::kStop;
          run.done[s] = true;
        }
        entries.push_back(entry);
        if (!orderly && chance(3)) entries.push_back(entry);  // the same entry twice
      }
    }
    // of an attempt that never was, or of a request long gone
    if (!orderly && chance(10) && last_id_ > 0)
      entries.push_back(
          {RequestId{1 + below(last_id_)}, 0, Attempt{77}, 0, 3, FinishReason::kStop});
    Epoch epoch = replica.epoch;
    if (!orderly && chance(3)) {
      // nothing of it may count; the runs above are then behind, so lose the replica for real
      ++epoch.value;
      say(r, epoch, 0, 50, std::move(entries));
      return lose_for_sure(r);
    }
    say(r, epoch, static_cast<uint32_t>(replica.runs.size()), static_cast<uint32_t>(below(101)),
        std::move(entries));
  }
  void say(uint32_t r, Epoch epoch, uint32_t running, uint32_t free_blocks,
           std::vector<SequenceProgress> entries) {
    StepReport report;
    report.running_sequences = running;
    report.free_blocks = free_blocks;
    report.progress = std::move(entries);
    handle(FromReplica{{ReplicaId{r}, epoch}, std::move(report)});
  }
  void lose_for_sure(uint32_t r) { handle(ReplicaLost{ReplicaId{r}, replicas_[r].epoch}); }

  void finish_everything() {
    for (uint32_t r = 0; r < replicas_.size(); ++r) join(r, 6);
    for (int round = 0; round < 10000 && core_.live() > 0; ++round)
      for (uint32_t r = 0; r < replicas_.size(); ++r) report(r, true);
    ASSERT_EQ(core_.live(), 0u);
    for (const auto& [id, request] : requests_) ASSERT_TRUE(request.ended) << "request " << id;
  }

  void handle(const CoreEvent& event) {
    commands_.clear();
    core_.handle(now_, event, commands_);
    if (on_handled) on_handled(now_, event, commands_);
    if (!options_.check) {
      follow(event);
      return;
    }
    const bool was_full = model_waiting() >= options_.core.queue_limit;
    follow(event);
    core_.check_integrity();
    size_t live = 0;
    for (const auto& [id, request] : requests_) live += !request.ended;
    ASSERT_EQ(core_.live(), live);
    for (const auto& command : commands_)
      if (const auto* reject = std::get_if<Reject>(&command);
          reject && reject->error.code == ErrorCode::kQueueFull) {
        ASSERT_TRUE(was_full);
      }
    for (const auto& [id, request] : requests_)
      if (!request.ended && request.arrived.deadline != Duration::max()) {
        ASSERT_GT(request.arrived.arrival + request.arrived.deadline, now_)
            << "deadline passed unnoticed";
      }
  }

  uint32_t model_waiting() const {
    uint32_t count = 0;
    for (const auto& [id, request] : requests_) count += !request.ended && !request.bound;
    return count;
  }

  /// What the world does on the event itself, then command by command in order.
  void follow(const CoreEvent& event) {
    const auto forget = [&](uint32_t r) {
      replicas_[r].joined = replicas_[r].draining = false;
      replicas_[r].runs.clear();
      for (auto& [id, request] : requests_)
        if (request.bound && request.replica == r) request.bound = false;
    };
    const StepReport* report = nullptr;
    if (const auto* from = std::get_if<FromReplica>(&event)) {
      ModelReplica& replica = replicas_[from->envelope.replica.value];
      report = std::get_if<StepReport>(&from->report);
      if (const auto* hello = std::get_if<Hello>(&from->report)) {
        forget(from->envelope.replica.value);
        replica.joined = true;
        replica.slots = hello->info.slots;
      } else if (std::holds_alternative<Drained>(from->report) && replica.joined &&
                 replica.epoch == from->envelope.epoch) {
        forget(from->envelope.replica.value);
      }
    } else if (const auto* l = std::get_if<ReplicaLost>(&event)) {
      if (replicas_[l->replica.value].joined && replicas_[l->replica.value].epoch == l->epoch)
        forget(l->replica.value);
    }
    for (const auto& command : commands_) {
      std::visit([&](const auto& c) { apply(c, report); }, command);
      if (testing::Test::HasFatalFailure()) return;
    }
  }

  void apply(const Accept& c, const StepReport*) {
    ASSERT_EQ(c.id, arriving_.arrived.id);
    ASSERT_TRUE(requests_.emplace(c.id.value, arriving_).second);
  }
  void apply(const Reject& c, const StepReport*) {
    ASSERT_EQ(c.id, arriving_.arrived.id);
    ASSERT_FALSE(requests_.count(c.id.value));
  }
  void apply(const ToReplica& c, const StepReport*) {
    std::visit([&](const auto& command) { take(c.envelope, command); }, c.command);
  }
  void take(const Envelope& to, const Welcome&) {
    ASSERT_GT(to.epoch, replicas_[to.replica.value].epoch);
    replicas_[to.replica.value].epoch = to.epoch;
  }
  void take(const Envelope& to, const Dispatch& c) {
    auto& request = requests_.at(c.request.value);
    auto& replica = replicas_[to.replica.value];
    ASSERT_FALSE(request.ended);
    ASSERT_FALSE(request.bound);
    ASSERT_TRUE(replica.joined && !replica.draining);
    ASSERT_EQ(to.epoch, replica.epoch);
    ASSERT_EQ(c.attempt.value, request.attempt.value + 1);
    // Strict classes, the policy's order inside, then first come first served: nobody comes before
    // it. (Ranks are equal up to rounding.)
    const double own = rank(request);
    const auto before = [&](const ModelRequest& other) {
      if (other.arrived.priority != request.arrived.priority)
        return other.arrived.priority < request.arrived.priority;
      const double theirs = rank(other);
      if (std::abs(theirs - own) > 1e-9) return theirs < own;
      return !row_of(options_.core.policy).needs.law &&
             std::tuple(other.arrived.arrival, other.arrived.id) <
                 std::tuple(request.arrived.arrival, request.arrived.id);
    };
    for (const auto& [id, other] : requests_) {
      if (other.ended || other.bound || id == c.request.value) continue;
      ASSERT_FALSE(before(other)) << "overtaken";
    }
    request.attempt = c.attempt;
    request.bound = true;
    request.replica = to.replica.value;
    replica.runs[c.request.value] =
        Run{c.attempt, request.emitted, std::vector<bool>(request.target.size(), false)};
  }
  void take(const Envelope& to, const CancelRequest& c) {
    auto& replica = replicas_[to.replica.value];
    const auto run = replica.runs.find(c.request.value);
    if (run != replica.runs.end() && run->second.attempt == c.attempt) replica.runs.erase(run);
    requests_.at(c.request.value).bound = false;
  }
  void take(const Envelope& to, const Drain&) { replicas_[to.replica.value].draining = true; }
  void take(const Envelope&, const Shutdown&) {}
  void apply(const Emit& c, const StepReport* report) {
    ASSERT_TRUE(report && c.entry < report->progress.size());
    const SequenceProgress& entry = report->progress[c.entry];
    auto& request = requests_.at(entry.request.value);
    const uint32_t s = entry.sample;
    ASSERT_FALSE(request.ended);
    ASSERT_FALSE(request.sample_ended[s]);
    ASSERT_EQ(entry.attempt, request.attempt);
    ASSERT_EQ(entry.first_index + c.skip, request.emitted[s]) << "a token lost or doubled";
    request.emitted[s] += entry.num_tokens - c.skip;
    if (entry.finish != FinishReason::kNone) request.sample_ended[s] = true;
  }
  void apply(const Finish& c, const StepReport*) {
    auto& request = requests_.at(c.id.value);
    ASSERT_FALSE(request.ended) << "ended twice";
    request.ended = true;
    if (request.bound) replicas_[request.replica].runs.erase(c.id.value);
    request.bound = false;
    if (c.reason == FinishReason::kNone)
      for (uint32_t s = 0; s < request.target.size(); ++s) {
        ASSERT_TRUE(request.sample_ended[s]);
        ASSERT_EQ(request.emitted[s], request.target[s]);
      }
  }

  const Options options_;
  std::mt19937_64 random_;
  SchedulerCore core_;
  std::optional<tie::LawMath> math_;
  LengthLaw population_ = tie::default_population();
  Time now_{seconds(1000)};
  uint64_t last_id_ = 0;
  ModelRequest arriving_;
  std::map<uint64_t, ModelRequest> requests_;
  std::vector<ModelReplica> replicas_;
  std::vector<CoreCommand> commands_;
};

}  // namespace tailor::coordinator
