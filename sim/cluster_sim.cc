#include "sim/cluster_sim.h"

#include <algorithm>
#include <deque>
#include <memory>
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

class Run {
 public:
  Run(const SimOptions& options, std::span<const SimRequest> requests)
      : options_(options), requests_(requests), core_(options.core, options.policies) {
    for (uint32_t r = 0; r < options.replicas; ++r)
      replicas_.emplace_back(ReplicaId{r}, options.planner, options.times);
    busy_.resize(options.replicas);
    result_.outcomes.resize(requests.size());
    first_sequence_.reserve(requests.size());
    for (const SimRequest& r : requests) {
      first_sequence_.push_back(static_cast<uint32_t>(lengths_.size()));
      lengths_.push_back(r.length);
      lengths_.insert(lengths_.end(), r.more_lengths.begin(), r.more_lengths.end());
    }
    generated_.resize(lengths_.size());
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
    arrived.samples = request.samples();
    arrived.prompt_tokens = request.prompt_tokens;
    arrived.max_tokens = request.max_tokens;
    arrived.arrival = now_;
    arrived.hint = request.hint;
    if (core_.policy().needs.truth) arrived.truth = request.longest();
    tell(arrived);
    if (request.law.kind != LengthLaw::Kind::kNone)
      push(now_ + options_.prediction_delay, What::kPrediction, index);
    if (index + 1 < requests_.size())
      push(begin_ + requests_[index + 1].arrival, What::kArrival, index + 1);
  }

  void begin_step(uint32_t r) {
    if (busy_[r]) return;
    const auto takes = replicas_[r].begin();
    if (!takes) return;
    busy_[r] = true;
    if (*takes > Duration{}) ++result_.steps;
    push(now_ + *takes, What::kStepEnd, r);
  }

  uint32_t length_of(SequenceId id) const {
    return lengths_[first_sequence_[index_of(id.request)] + id.sample];
  }

  void end_step(uint32_t r) {
    busy_[r] = false;
    worker::ReportDraft& draft = replicas_[r].end([this](SequenceId id) { return length_of(id); });
    result_.preemptions += draft.report.preempted.size();
    for (const SequenceProgress& entry : draft.report.progress) {
      const uint32_t index = index_of(entry.request);
      SimOutcome& outcome = result_.outcomes[index];
      const Duration since = now_ - begin_ - requests_[index].arrival;
      if (outcome.first_token == Duration{}) outcome.first_token = since;
      generated_[first_sequence_[index] + entry.sample] += entry.num_tokens;
      if (entry.finish != FinishReason::kNone) outcome.finish = since;
    }
    for (const SequenceEnd& end : draft.payload.ends) error_ = end.error;
    auto& report = std::get<FromReplica>(report_);
    report.envelope = draft.envelope;
    auto& told = std::get<StepReport>(report.report);
    told = std::move(draft.report);
    tell(report_);
    draft.report = std::move(told);  // its memory
    for (FromReplica& word : replicas_[r].take_words()) tell(std::move(word));
  }

  void tell(const CoreEvent& event) {
    commands_.clear();
    core_.handle(now_, event, commands_);
    for (const CoreCommand& command : commands_) {
      if (const auto* to = std::get_if<ToReplica>(&command)) {
        pass_on(*to);
      } else if (const auto* finish = std::get_if<Finish>(&command)) {
        ++ended_;
        if (finish->error.code != ErrorCode::kOk) error_ = finish->error;
      } else if (const auto* reject = std::get_if<Reject>(&command)) {
        error_ = {ErrorCode::kLimitExceeded, reject->error.message};
      }
    }
  }

  void pass_on(const ToReplica& to) {
    SimReplica& replica = replicas_[to.envelope.replica.value];
    const auto* dispatch = std::get_if<Dispatch>(&to.command);
    if (dispatch == nullptr) return replica.apply(to);
    const uint32_t first = first_sequence_[index_of(dispatch->request)];
    replica.apply(to,
                  lengths_only(*dispatch, std::span(generated_).subspan(first, dispatch->samples),
                               std::span(lengths_).subspan(first, dispatch->samples)));
  }

  const SimOptions& options_;
  const std::span<const SimRequest> requests_;
  SchedulerCore core_;
  std::deque<SimReplica> replicas_;
  std::vector<bool> busy_;
  std::priority_queue<Event, std::vector<Event>, std::greater<>> events_;
  std::vector<CoreCommand> commands_;
  CoreEvent report_ = FromReplica{{}, StepReport{}};  // reused
  std::vector<uint32_t> first_sequence_;              // of a request, in the next two
  std::vector<uint32_t> lengths_, generated_;         // by sequence
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
    sum += to_seconds(outcomes[i].finish) / requests[i].longest();
  return outcomes.empty() ? 0 : sum / static_cast<double>(outcomes.size());
}

Result<SimResult> simulate(const SimOptions& options, std::span<const SimRequest> requests) {
  for (size_t i = 0; i < requests.size(); ++i) {
    const SimRequest& r = requests[i];
    const std::string name = "request " + std::to_string(i) + ": ";
    if (i > 0 && r.arrival < requests[i - 1].arrival)
      return fail(ErrorCode::kInvalidArgument, name + "arrives before the one in front of it");
    const auto wrong = [&](uint32_t length) { return length < 1 || length > r.max_tokens; };
    if (r.prompt_tokens < 1 || wrong(r.length) ||
        std::any_of(r.more_lengths.begin(), r.more_lengths.end(), wrong))
      return fail(ErrorCode::kInvalidArgument, name + "expected a length from 1 to its limit of " +
                                                   std::to_string(r.max_tokens) + ", found " +
                                                   std::to_string(r.length));
  }
  return Run(options, requests).run();
}

}  // namespace tailor::sim
