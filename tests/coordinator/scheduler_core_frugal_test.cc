// Frugal: this binary counts every allocation. Once the tables have grown, requests come, run and
// end without one.
#include <gtest/gtest.h>

#include "coordinator/scheduler_core.h"
#include "tests/base/allocation_counter.h"

namespace tailor::coordinator {
namespace {

using tailor::testing::allocations;

/// Each request is predicted, every law moves the queue, and the probe speaks each step.
/// Keeps 64 requests in a cluster of 2 replicas with 16 slots: every step reports one token of each
/// running sequence; every eighth token ends a request and another one arrives.
class SteadyLoad {
 public:
  SteadyLoad() : core_(options()) {
    commands_.reserve(512);
    running_.resize(2);
    for (auto& running : running_) running.reserve(64);
    Hello hello;
    hello.info.slots = 16;
    hello.info.num_blocks = 1000;
    for (uint32_t r = 0; r < 2; ++r) tell(FromReplica{{ReplicaId{r}}, hello});
    report().progress.reserve(256);
    report().laws.reserve(1);
    report().running_sequences = 16;
    report().free_blocks = 500;
    for (int i = 0; i < 64; ++i) arrive();
  }

  void step() {
    for (uint32_t r = 0; r < 2; ++r) {
      report().progress.clear();
      report().laws.clear();
      size_t ends = 0;
      for (size_t i = 0; i < running_[r].size() && i < 16; ++i) {
        auto& run = running_[r][i];
        const bool last = run.tokens + 1 == 8;
        ends += last;
        report().progress.push_back({run.id, 0, run.attempt, run.tokens++, 1,
                                     last ? FinishReason::kStop : FinishReason::kNone});
      }
      std::erase_if(running_[r], [](const Run& run) { return run.tokens == 8; });
      if (!running_[r].empty())
        report().laws.push_back(
            {running_[r][0].id, running_[r][0].attempt, 0, 0, tie::log_t(2, 0.4)});
      std::get<FromReplica>(step_).envelope.replica.value = r;
      tell(step_);
      for (; ends > 0; --ends) arrive();
    }
    now_ += milliseconds(20);
    tell(Tick{});
  }

  const SchedulerCore& core() const { return core_; }

 private:
  struct Run {
    RequestId id;
    Attempt attempt;
    uint32_t tokens;
  };
  static CoreOptions options() {
    CoreOptions o;
    o.policy = *policy_named("tie");
    o.expected_replicas = 2;
    return o;
  }
  void arrive() {
    tell(Arrived{RequestId{++last_}, static_cast<PriorityClass>(last_ % 3), 1, 10, 64, now_,
                 seconds(100)});
    tell(Predicted{RequestId{last_}, tie::log_t(2 + static_cast<double>(last_ % 7) / 4, 0.4)});
  }
  StepReport& report() { return std::get<StepReport>(std::get<FromReplica>(step_).report); }
  void tell(const CoreEvent& event) {
    commands_.clear();
    core_.handle(now_, event, commands_);
    for (const auto& command : commands_)
      if (const auto* to = std::get_if<ToReplica>(&command))
        if (const auto* d = std::get_if<Dispatch>(&to->command))
          running_[to->envelope.replica.value].push_back({d->request, d->attempt, 0});
  }

  SchedulerCore core_;
  Time now_{seconds(10)};
  uint64_t last_ = 0;
  std::vector<std::vector<Run>> running_;
  CoreEvent step_ = FromReplica{{ReplicaId{0}, Epoch{1}}, StepReport{}};
  std::vector<CoreCommand> commands_;
};

TEST(SchedulerCore, FrugalNoAllocationPerSequenceAndStepInSteadyState) {
  SteadyLoad load;
  for (int i = 0; i < 100; ++i) load.step();
  const int64_t before = allocations;
  const uint64_t tokens = load.core().counters().tokens;
  for (int i = 0; i < 1000; ++i) load.step();
  EXPECT_EQ(allocations - before, 0);
  EXPECT_GT(load.core().counters().tokens - tokens, 30'000u);
  EXPECT_GT(load.core().counters().finished, 3'000u);
  EXPECT_GT(load.core().counters().predicted, 1'000u);
  EXPECT_GT(load.core().counters().probed, 1'000u);
  auto counted_at_all = std::make_unique<int>(1);
  EXPECT_GT(allocations, before);  // the counter counts
}

}  // namespace
}  // namespace tailor::coordinator
