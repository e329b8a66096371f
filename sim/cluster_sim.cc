#include "sim/cluster_sim.h"

#include <algorithm>
#include <queue>
#include <string>
#include <variant>

namespace tailor::sim {
namespace {

using namespace coordinator;

enum class What : uint8_t { kArrival, kPrediction, kStepEnd };

struct Event {
  Time at;
  uint64_t order = 0;  // of equal times: as they were made
  What what = What::kArrival;
  uint32_t index = 0;  // request or replica
  friend bool operator>(const Event& a, const Event& b) {
    return a.at != b.at ? a.at > b.at : a.order > b.order;
  }
};

/// One replica: a planner, and what the leader's loop knows of its sequences.
class Replica {
 public:
  Replica(const SimOptions& options, uint32_t number)
      : options_(options), number_(number), planner_(options.planner) {}

  Epoch epoch;
  bool busy = false;

  void dispatch(RequestId id, Attempt attempt, uint32_t prompt_tokens, uint32_t generated) {
    const int32_t before[] = {static_cast<int32_t>(generated)};
    added_.clear();
    planner_.add(id, static_cast<int32_t>(prompt_tokens), before, added_);
    const auto index = static_cast<size_t>(added_.front());
    if (index >= sequences_.size()) sequences_.resize(index + 1);
    sequences_[index] = {id, attempt, generated};
  }
  bool has_work() const { return planner_.has_work(); }

  /// Plans a step; how long it takes. Zero: nothing can run.
  Duration begin(uint64_t& preemptions) {
    const worker::BatchPlan& plan = planner_.plan();
    preemptions += plan.preempted.size();
    drawn_.clear();
    int64_t context = 0;
    for (const worker::PlannedChunk& chunk : plan.chunks) {
      context += chunk.first_position + chunk.num_tokens;
      if (chunk.wants_logits) drawn_.push_back(chunk.index);
    }
    if (plan.chunks.empty()) return {};
    const StepTimes& t = options_.times;
    return from_seconds(t.base_s + t.sequence_s * plan.decode_tokens +
                        t.context_token_s * static_cast<double>(context) +
                        t.prefill_token_s * plan.prefill_tokens);
  }

  /// The step's tokens, as its report tells them.
  template <typename LengthOf>
  FromReplica end(const LengthOf& length_of) {
    StepReport report;
    for (const worker::SequenceIndex index : drawn_) {
      Sequence& s = sequences_[static_cast<size_t>(index)];
      const uint32_t length = length_of(s.request);
      const bool last = s.generated + 1 == length;
      report.progress.push_back({s.request, 0, s.attempt, s.generated, 1,
                                 last ? FinishReason::kStop : FinishReason::kNone});
      ++s.generated;
      if (last)
        planner_.finish(index);
      else
        planner_.token_drawn(index);
    }
    report.running_sequences = static_cast<uint32_t>(planner_.running_sequences());
    report.free_blocks = static_cast<uint32_t>(planner_.blocks().free_blocks());
    return {{ReplicaId{number_}, epoch}, std::move(report)};
  }

 private:
  struct Sequence {
    RequestId request;
    Attempt attempt;
    uint32_t generated = 0;
  };
  const SimOptions& options_;
  const uint32_t number_;
  worker::BatchPlanner planner_;
  std::vector<Sequence> sequences_;  // by SequenceIndex
  std::vector<worker::SequenceIndex> added_, drawn_;
};

class Run {
 public:
  Run(const SimOptions& options, std::span<const SimRequest> requests)
      : options_(options), requests_(requests), core_(options.core, options.policies) {
    for (uint32_t r = 0; r < options.replicas; ++r) replicas_.emplace_back(options, r);
    result_.outcomes.resize(requests.size());
    generated_.resize(requests.size());
  }

  Result<SimResult> run() {
    Hello hello;
    hello.info.slots = static_cast<uint32_t>(options_.planner.slots);
    hello.info.num_blocks = static_cast<uint32_t>(options_.planner.num_blocks);
    for (uint32_t r = 0; r < options_.replicas; ++r) tell(FromReplica{{ReplicaId{r}}, hello});
    if (!requests_.empty()) push(begin_ + requests_[0].arrival, What::kArrival, 0);
    while (!events_.empty()) {
      const Event event = events_.top();
      events_.pop();
      now_ = event.at;
      switch (event.what) {
        case What::kArrival:
          arrive(event.index);
          break;
        case What::kPrediction:
          tell(Predicted{id_of(event.index), requests_[event.index].law});
          break;
        case What::kStepEnd:
          end_step(event.index);
          break;
      }
      if (error_.code != ErrorCode::kOk) return tl::unexpected(error_);
      for (uint32_t r = 0; r < replicas_.size(); ++r) begin_step(r);
    }
    if (ended_ != requests_.size())
      return fail(ErrorCode::kInternal, std::to_string(requests_.size() - ended_) +
                                            " requests never ended in the simulation");
    result_.makespan = now_ - begin_;
    return std::move(result_);
  }

 private:
  static RequestId id_of(uint32_t index) { return RequestId{index + 1}; }
  static uint32_t index_of(RequestId id) { return static_cast<uint32_t>(id.value - 1); }

  void push(Time at, What what, uint32_t index) { events_.push({at, order_++, what, index}); }

  void arrive(uint32_t index) {
    const SimRequest& request = requests_[index];
    Arrived arrived;
    arrived.id = id_of(index);
    arrived.prompt_tokens = request.prompt_tokens;
    arrived.max_tokens = request.max_tokens;
    arrived.arrival = now_;
    tell(arrived);
    if (request.law.kind != LengthLaw::Kind::kNone)
      push(now_ + options_.prediction_delay, What::kPrediction, index);
    if (index + 1 < requests_.size())
      push(begin_ + requests_[index + 1].arrival, What::kArrival, index + 1);
  }

  void begin_step(uint32_t r) {
    Replica& replica = replicas_[r];
    if (replica.busy || !replica.has_work()) return;
    const Duration takes = replica.begin(result_.preemptions);
    if (takes == Duration{}) return;
    replica.busy = true;
    ++result_.steps;
    push(now_ + takes, What::kStepEnd, r);
  }

  void end_step(uint32_t r) {
    Replica& replica = replicas_[r];
    replica.busy = false;
    const FromReplica report =
        replica.end([&](RequestId id) { return requests_[index_of(id)].length; });
    for (const SequenceProgress& entry : std::get<StepReport>(report.report).progress) {
      const uint32_t index = index_of(entry.request);
      SimOutcome& outcome = result_.outcomes[index];
      const Duration since = now_ - begin_ - requests_[index].arrival;
      if (generated_[index]++ == 0) outcome.first_token = since;
      if (entry.finish != FinishReason::kNone) outcome.finish = since;
    }
    tell(report);
  }

  void tell(const CoreEvent& event) {
    commands_.clear();
    core_.handle(now_, event, commands_);
    for (const CoreCommand& command : commands_) {
      if (const auto* to = std::get_if<ToReplica>(&command)) {
        Replica& replica = replicas_[to->envelope.replica.value];
        replica.epoch = to->envelope.epoch;
        if (const auto* dispatch = std::get_if<Dispatch>(&to->command))
          replica.dispatch(dispatch->request, dispatch->attempt, dispatch->prompt_tokens,
                           generated_[index_of(dispatch->request)]);
      } else if (const auto* finish = std::get_if<Finish>(&command)) {
        ++ended_;
        if (finish->error.code != ErrorCode::kOk) error_ = finish->error;
      } else if (const auto* reject = std::get_if<Reject>(&command)) {
        error_ = {ErrorCode::kLimitExceeded, reject->error.message};
      }
    }
  }

  const SimOptions& options_;
  const std::span<const SimRequest> requests_;
  SchedulerCore core_;
  std::vector<Replica> replicas_;
  std::priority_queue<Event, std::vector<Event>, std::greater<>> events_;
  std::vector<CoreCommand> commands_;
  std::vector<uint32_t> generated_;
  const Time begin_{seconds(1)};
  Time now_ = begin_;
  uint64_t order_ = 0;
  size_t ended_ = 0;
  Error error_{ErrorCode::kOk, {}};
  SimResult result_;
};

}  // namespace

double SimResult::per_token_latency_s(std::span<const SimRequest> requests) const {
  double sum = 0;
  for (size_t i = 0; i < outcomes.size(); ++i)
    sum += to_seconds(outcomes[i].finish) / requests[i].length;
  return outcomes.empty() ? 0 : sum / static_cast<double>(outcomes.size());
}

double SimResult::mean_latency_s() const {
  double sum = 0;
  for (const SimOutcome& outcome : outcomes) sum += to_seconds(outcome.finish);
  return outcomes.empty() ? 0 : sum / static_cast<double>(outcomes.size());
}

Result<SimResult> simulate(const SimOptions& options, std::span<const SimRequest> requests) {
  for (size_t i = 0; i < requests.size(); ++i) {
    const SimRequest& r = requests[i];
    const std::string name = "request " + std::to_string(i) + ": ";
    if (i > 0 && r.arrival < requests[i - 1].arrival)
      return fail(ErrorCode::kInvalidArgument, name + "arrives before the one in front of it");
    if (r.length < 1 || r.length > r.max_tokens || r.prompt_tokens < 1)
      return fail(ErrorCode::kInvalidArgument, name + "expected a length from 1 to its limit of " +
                                                   std::to_string(r.max_tokens) + ", found " +
                                                   std::to_string(r.length));
  }
  return Run(options, requests).run();
}

}  // namespace tailor::sim
