#include "coordinator/scheduler_core.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "tests/coordinator/command_lines.h"
#include "tests/coordinator/random_world.h"

namespace tailor::coordinator {
namespace {

class Core {
 public:
  explicit Core(CoreOptions options = {}) : core(options) {}

  std::vector<std::string> tell(const CoreEvent& event) {
    commands.clear();
    core.handle(now, event, commands);
    core.check_integrity();
    std::vector<std::string> lines;
    for (const auto& command : commands) lines.push_back(CommandLine::of(command));
    return lines;
  }
  std::vector<std::string> arrive(uint64_t id, uint32_t samples = 1,
                                  PriorityClass priority = PriorityClass::kStandard,
                                  Duration deadline = Duration::max()) {
    return tell(Arrived{RequestId{id}, priority, samples, 8, 64, now, deadline});
  }
  std::vector<std::string> join(uint32_t replica, uint32_t slots) {
    Hello hello;
    hello.info.slots = slots;
    hello.info.num_blocks = 100;
    return tell(FromReplica{{ReplicaId{replica}}, hello});
  }
  std::vector<std::string> report(uint32_t replica, uint32_t epoch,
                                  std::vector<SequenceProgress> progress,
                                  uint32_t free_blocks = 100) {
    StepReport report;
    report.running_sequences = 1;
    report.free_blocks = free_blocks;
    report.progress = std::move(progress);
    return tell(FromReplica{{ReplicaId{replica}, Epoch{epoch}}, std::move(report)});
  }
  std::vector<std::string> probe(uint64_t request, uint32_t attempt, uint32_t generated,
                                 const LengthLaw& law) {
    StepReport report;
    report.free_blocks = 100;
    report.laws.push_back({RequestId{request}, Attempt{attempt}, 0, generated, law});
    return tell(FromReplica{{ReplicaId{0}, Epoch{1}}, std::move(report)});
  }
  std::vector<std::string> population(const LengthLaw& law) {
    PredictorHello hello;
    hello.population = law;
    return tell(hello);
  }

  Time now{seconds(100)};
  SchedulerCore core;
  std::vector<CoreCommand> commands;
};

SequenceProgress entry(uint64_t id, uint32_t attempt, uint32_t first, uint32_t count,
                       bool ends = false, uint32_t sample = 0) {
  return {RequestId{id}, sample, Attempt{attempt},
          first,         count,  ends ? FinishReason::kStop : FinishReason::kNone};
}
using Lines = std::vector<std::string>;

TEST(SchedulerCore, AcceptsDispatchesEmitsAndFinishes) {
  Core c;
  EXPECT_EQ(c.arrive(1), Lines({"accept request=1"}));
  EXPECT_EQ(c.join(0, 2),
            Lines({"welcome replica=0 epoch=1", "dispatch replica=0 epoch=1 request=1 attempt=1"}));
  EXPECT_EQ(c.report(0, 1, {entry(1, 1, 0, 3)}), Lines({"emit index=0 skip=0"}));
  EXPECT_EQ(c.report(0, 1, {entry(1, 1, 3, 1, true)}),
            Lines({"emit index=0 skip=0", "finish request=1 reason=none"}));
  EXPECT_EQ(c.report(0, 1, {entry(1, 1, 4, 1)}), Lines());
  EXPECT_EQ(c.core.counters().stale_entries, 1u);
}

TEST(SchedulerCore, KeepsEachReplicaTwoRequestsAheadAndTheRestUnbound) {
  Core c;
  c.join(0, 2);
  for (uint64_t id = 1; id <= 6; ++id) c.arrive(id);
  EXPECT_EQ(c.core.waiting(), 2u);
  EXPECT_EQ(c.core.replica(ReplicaId{0}).slots_in_use, 2u);
  EXPECT_EQ(c.core.replica(ReplicaId{0}).ahead, 2u);
  EXPECT_EQ(c.report(0, 1, {entry(1, 1, 0, 1, true)}).back(),
            "dispatch replica=0 epoch=1 request=5 attempt=1");
}

TEST(SchedulerCore, BindsLateToTheReplicaWithMostFreeSlotsThenLeastKvThenInTurn) {
  Core c;
  c.join(0, 2);
  c.join(1, 4);
  EXPECT_EQ(c.arrive(1).back(), "dispatch replica=1 epoch=1 request=1 attempt=1");
  EXPECT_EQ(c.arrive(2).back(), "dispatch replica=1 epoch=1 request=2 attempt=1");
  c.report(1, 1, {}, 40);  // both have 2 free slots now, replica 1 uses more of its blocks
  EXPECT_EQ(c.arrive(3).back(), "dispatch replica=0 epoch=1 request=3 attempt=1");
  Core even;
  even.join(0, 4);
  even.join(1, 4);
  EXPECT_EQ(even.arrive(1).back(), "dispatch replica=0 epoch=1 request=1 attempt=1");
  EXPECT_EQ(even.arrive(2).back(), "dispatch replica=1 epoch=1 request=2 attempt=1");
  even.report(0, 1, {entry(1, 1, 0, 1, true)});
  even.report(1, 1, {entry(2, 1, 0, 1, true)});
  EXPECT_EQ(even.arrive(3).back(), "dispatch replica=0 epoch=1 request=3 attempt=1");
  EXPECT_EQ(even.arrive(4).back(), "dispatch replica=1 epoch=1 request=4 attempt=1");
}

TEST(SchedulerCore, ClassesAreStrictAndArrivalOrdersInside) {
  Core c;
  c.arrive(1, 1, PriorityClass::kBatch);
  c.arrive(2, 1, PriorityClass::kStandard);
  c.arrive(3, 1, PriorityClass::kInteractive);
  c.tell(Arrived{RequestId{4}, PriorityClass::kStandard, 1, 8, 64, c.now - seconds(1),
                 Duration::max()});
  const auto lines = c.join(0, 4);
  EXPECT_EQ(lines,
            Lines({"welcome replica=0 epoch=1", "dispatch replica=0 epoch=1 request=3 attempt=1",
                   "dispatch replica=0 epoch=1 request=4 attempt=1",
                   "dispatch replica=0 epoch=1 request=2 attempt=1",
                   "dispatch replica=0 epoch=1 request=1 attempt=1"}));
}

TEST(SchedulerCore, FullQueueAnswersAtOnceWithTheTimeToComeBack) {
  CoreOptions options;
  options.queue_limit = 4;
  Core c(options);
  c.join(0, 1);
  for (uint64_t id = 1; id <= 7; ++id) c.arrive(id);  // 1 runs, 2 ahead, 4 wait
  c.arrive(8);
  const auto first = std::get<Reject>(c.commands.at(0));
  EXPECT_EQ(first.error.code, ErrorCode::kQueueFull);
  EXPECT_EQ(first.retry_after, seconds(1));  // nothing known yet
  for (uint64_t id = 1; id <= 3; ++id) {
    c.now += milliseconds(400);
    c.report(0, 1, {entry(id, 1, 0, 1, true)});
    c.arrive(10 + id);
  }
  c.arrive(20);
  EXPECT_EQ(std::get<Reject>(c.commands.at(0)).retry_after, milliseconds(400));
}

TEST(SchedulerCore, DeadlineEndsWaitingAndRunningRequests) {
  Core c;
  c.join(0, 1);
  c.arrive(1, 1, PriorityClass::kStandard, milliseconds(50));
  EXPECT_EQ(c.core.next_deadline(), c.now + milliseconds(50));
  c.now += milliseconds(49);
  EXPECT_EQ(c.tell(Tick{}), Lines());
  c.now += milliseconds(1);
  EXPECT_EQ(
      c.tell(Tick{}),
      Lines({"cancel replica=0 epoch=1 request=1 attempt=1",
             "finish request=1 reason=failed DeadlineExceeded: the deadline passed after 50 ms"}));
  EXPECT_EQ(c.core.next_deadline(), Time::max());
  // One that has already passed on arrival is accepted and ends in the same breath.
  EXPECT_EQ(c.arrive(2, 1, PriorityClass::kStandard, Duration{0}).back(),
            "finish request=2 reason=failed DeadlineExceeded: the deadline passed after 0 ms");
}

TEST(SchedulerCore, CancelEndsWaitingAndRunningRequestsOnce) {
  Core c;
  c.arrive(1);
  EXPECT_EQ(c.tell(Abandoned{RequestId{1}}),
            Lines({"finish request=1 reason=cancelled Cancelled: "}));
  EXPECT_EQ(c.tell(Abandoned{RequestId{1}}), Lines());
  c.join(0, 1);
  c.arrive(2);
  EXPECT_EQ(c.tell(Abandoned{RequestId{2}}),
            Lines({"cancel replica=0 epoch=1 request=2 attempt=1",
                   "finish request=2 reason=cancelled Cancelled: "}));
  EXPECT_EQ(c.core.replica(ReplicaId{0}).slots_in_use, 0u);
}

TEST(SchedulerCore, LostReplicaHandsItsRequestsBackInFrontAndTheyContinue) {
  CoreOptions options;
  options.ahead_requests = 0;
  Core c(options);
  c.join(0, 1);
  c.arrive(1);
  c.now += milliseconds(1);
  c.arrive(2);
  c.report(0, 1, {entry(1, 1, 0, 5)});
  EXPECT_EQ(c.tell(ReplicaLost{ReplicaId{0}, Epoch{1}}), Lines());
  EXPECT_EQ(c.join(0, 1),
            Lines({"welcome replica=0 epoch=2", "dispatch replica=0 epoch=2 request=1 attempt=2"}));
  // Late words of the first attempt and epoch do not count.
  EXPECT_EQ(c.report(0, 1, {entry(1, 1, 5, 2)}), Lines());
  EXPECT_EQ(c.report(0, 2, {entry(1, 1, 5, 2)}), Lines());
  EXPECT_EQ(c.report(0, 2, {entry(1, 2, 5, 2)}), Lines({"emit index=0 skip=0"}));
}

TEST(SchedulerCore, HelloOfALivingReplicaLosesItsOldEpoch) {
  Core c;
  c.join(0, 1);
  c.arrive(1);
  EXPECT_EQ(c.join(0, 1),
            Lines({"welcome replica=0 epoch=2", "dispatch replica=0 epoch=2 request=1 attempt=2"}));
}

TEST(SchedulerCore, EpochsBeginAboveTheBaseOfThisCoordinator) {
  CoreOptions options;
  options.epoch_base = 700;
  Core c(options);
  EXPECT_EQ(c.join(0, 1), Lines({"welcome replica=0 epoch=701"}));
  EXPECT_EQ(c.join(0, 1), Lines({"welcome replica=0 epoch=702"}));
}

TEST(SchedulerCore, ARequestThatOutlivesTooManyReplicasFails) {
  CoreOptions options;
  options.max_losses = 2;
  Core c(options);
  c.join(0, 1);
  c.arrive(1);
  c.join(0, 1);
  EXPECT_EQ(c.join(0, 1), Lines({"finish request=1 reason=failed ReplicaLost: 2 replicas were lost "
                                 "while they ran this request",
                                 "welcome replica=0 epoch=3"}));
}

TEST(SchedulerCore, RepeatedTokensAreSkippedAndAGapFailsTheRequest) {
  Core c;
  c.join(0, 1);
  c.arrive(1);
  c.report(0, 1, {entry(1, 1, 0, 4)});
  EXPECT_EQ(c.report(0, 1, {entry(1, 1, 2, 4)}), Lines({"emit index=0 skip=2"}));
  const auto lines = c.report(0, 1, {entry(1, 1, 7, 1)});
  ASSERT_EQ(lines.size(), 2u);
  EXPECT_EQ(lines[0], "cancel replica=0 epoch=1 request=1 attempt=1");
  EXPECT_EQ(lines[1].substr(0, 41), "finish request=1 reason=failed Protocol: ");
}

TEST(SchedulerCore, SamplesAreOneUnitOfNSlots) {
  CoreOptions options;
  options.ahead_requests = 0;
  Core c(options);
  c.join(0, 4);
  c.arrive(1, 3);
  EXPECT_EQ(c.core.replica(ReplicaId{0}).slots_in_use, 3u);
  EXPECT_EQ(c.arrive(2, 2), Lines({"accept request=2"}));
  EXPECT_EQ(c.arrive(3, 1), Lines({"accept request=3"}));  // would fit, but may not overtake
  EXPECT_EQ(c.report(0, 1, {entry(1, 1, 0, 1, true, 2)}),
            Lines({"emit index=0 skip=0", "dispatch replica=0 epoch=1 request=2 attempt=1"}));
  EXPECT_EQ(c.report(0, 1, {entry(1, 1, 0, 1, true, 0)}).back(),
            "dispatch replica=0 epoch=1 request=3 attempt=1");
  EXPECT_EQ(c.report(0, 1, {entry(1, 1, 0, 1, true, 1)}).back(), "finish request=1 reason=none");
}

TEST(SchedulerCore, MoreSamplesThanSlotsHaveAReplicaToThemselves) {
  CoreOptions options;
  options.ahead_requests = 0;
  Core c(options);
  c.join(0, 2);
  c.arrive(1, 1);
  EXPECT_EQ(c.arrive(2, 5), Lines({"accept request=2"}));
  EXPECT_EQ(c.arrive(3, 1), Lines({"accept request=3"}));  // would fit, but may not overtake
  EXPECT_EQ(c.report(0, 1, {entry(1, 1, 0, 1, true)}).back(),
            "dispatch replica=0 epoch=1 request=2 attempt=1");
  EXPECT_EQ(c.core.replica(ReplicaId{0}).slots_in_use, 5u);
  for (uint32_t sample = 0; sample < 3; ++sample)  // two left: both slots are taken
    c.report(0, 1, {entry(2, 1, 0, 1, true, sample)});
  EXPECT_EQ(c.core.waiting(), 1u);
  EXPECT_EQ(c.report(0, 1, {entry(2, 1, 0, 1, true, 3)}).back(),
            "dispatch replica=0 epoch=1 request=3 attempt=1");
  c.core.check_integrity();
}

TEST(SchedulerCore, SampleThatEndedBeforeTheLossIsNotRunToItsEndAgain) {
  Core c;
  c.join(0, 2);
  c.arrive(1, 2);
  c.report(0, 1, {entry(1, 1, 0, 2, true, 0), entry(1, 1, 0, 1, false, 1)});
  EXPECT_EQ(c.join(0, 2).back(), "dispatch replica=0 epoch=2 request=1 attempt=2");
  EXPECT_EQ(c.report(0, 2, {entry(1, 2, 2, 1, false, 0), entry(1, 2, 1, 1, true, 1)}),
            Lines({"emit index=1 skip=0", "cancel replica=0 epoch=2 request=1 attempt=2",
                   "finish request=1 reason=none"}));
}

TEST(SchedulerCore, OnceAllDrainNobodyComesForWhatWaits) {
  CoreOptions options;
  options.expected_replicas = 2;
  Core c(options);
  c.join(0, 1);
  c.join(1, 1);
  for (uint64_t id = 1; id <= 7; ++id) c.arrive(id);  // each runs one and has two ahead
  EXPECT_EQ(c.core.waiting(), 1u);
  c.tell(DrainReplica{ReplicaId{0}, true});
  EXPECT_EQ(c.core.waiting(), 3u);
  EXPECT_EQ(c.tell(DrainReplica{ReplicaId{1}, true}), Lines()) << "the last one is spared";
  EXPECT_FALSE(c.core.replica(ReplicaId{1}).draining);

  const auto lines = c.tell(DrainReplica{ReplicaId{1}});
  ASSERT_EQ(lines.size(), 8u) << "drain, 2 cancelled, 5 that wait ended";
  for (size_t i = 3; i < lines.size(); ++i)
    EXPECT_NE(lines[i].find("reason=failed Unavailable: not ready: every replica drains"),
              std::string::npos)
        << lines[i];
  EXPECT_EQ(c.core.live(), 2u) << "what runs ends by itself";
  c.arrive(8);
  EXPECT_EQ(std::get<Reject>(c.commands.at(0)).error.code, ErrorCode::kUnavailable);
  EXPECT_EQ(std::get<Reject>(c.commands.at(0)).retry_after, Duration{});
  EXPECT_EQ(c.report(0, 1, {entry(1, 1, 0, 1, true)}).back(), "finish request=1 reason=none");
  EXPECT_EQ(c.tell(FromReplica{{ReplicaId{0}, Epoch{1}}, Drained{}}), Lines());

  // One that is lost while it drains is expected back: what it ran waits for it.
  EXPECT_EQ(c.tell(ReplicaLost{ReplicaId{1}, Epoch{1}}), Lines());
  EXPECT_EQ(c.core.waiting(), 1u);
  EXPECT_EQ(c.arrive(9), Lines({"accept request=9"}));
  EXPECT_EQ(c.join(1, 1),
            Lines({"welcome replica=1 epoch=2", "dispatch replica=1 epoch=2 request=2 attempt=2",
                   "dispatch replica=1 epoch=2 request=9 attempt=1"}));
  EXPECT_EQ(c.core.replica(ReplicaId{0}).drained, Epoch{1});
  EXPECT_EQ(c.core.replica(ReplicaId{1}).drained, Epoch{0}) << "it was lost";
}

TEST(SchedulerCore, WhoHasNotJoinedYetIsWaitedFor) {
  CoreOptions options;
  options.expected_replicas = 2;
  Core c(options);
  c.join(0, 1);
  c.tell(DrainReplica{ReplicaId{0}});
  c.tell(FromReplica{{ReplicaId{0}, Epoch{1}}, Drained{}});
  EXPECT_EQ(c.arrive(1), Lines({"accept request=1"}));
  EXPECT_EQ(c.join(0, 1).back(), "dispatch replica=0 epoch=2 request=1 attempt=1") << "or anew";
}

TEST(SchedulerCore, OneThatDrainsUnaskedIsLost) {
  Core c;
  c.join(0, 1);
  c.arrive(1);
  EXPECT_EQ(c.tell(FromReplica{{ReplicaId{0}, Epoch{1}}, Drained{}}), Lines());
  EXPECT_EQ(c.core.replica(ReplicaId{0}).drained, Epoch{0});
  EXPECT_EQ(c.arrive(2), Lines({"accept request=2"})) << "it is expected back";
}

TEST(SchedulerCore, TheTimeToComeBackCountsNoTimeInWhichNobodyWaited) {
  CoreOptions options;
  options.queue_limit = 4;
  Core c(options);
  c.join(0, 1);
  c.arrive(1);
  c.report(0, 1, {entry(1, 1, 0, 1, true)});
  c.now += seconds(40);
  for (uint64_t id = 2; id <= 8; ++id) c.arrive(id);  // 1 runs, 2 ahead, 4 wait
  uint64_t next = 9;
  for (uint64_t id = 2; id <= 4; ++id) {
    c.now += milliseconds(300);
    c.report(0, 1, {entry(id, 1, 0, 1, true)});
    c.arrive(next++);
  }
  c.arrive(next);
  EXPECT_EQ(std::get<Reject>(c.commands.at(0)).retry_after, milliseconds(300));
}

TEST(SchedulerCore, WhatIsSaidOfARequestCountsFromWhoRunsIt) {
  Core c;
  c.join(0, 1);
  c.join(1, 1);
  c.arrive(1);
  const auto preempted = [&](uint32_t replica, uint32_t epoch, uint32_t attempt) {
    StepReport report;
    report.running_sequences = 77;
    report.preempted.push_back({RequestId{1}, 0, Attempt{attempt}, 3});
    c.tell(FromReplica{{ReplicaId{replica}, Epoch{epoch}}, std::move(report)});
    return c.core.counters().preemptions;
  };
  EXPECT_EQ(preempted(1, 1, 1), 0u) << "another replica";
  EXPECT_EQ(preempted(0, 2, 1), 0u) << "another epoch";
  EXPECT_EQ(preempted(0, 1, 2), 0u) << "another attempt";
  EXPECT_EQ(preempted(0, 1, 1), 1u);
  EXPECT_EQ(c.core.replica(ReplicaId{0}).running_sequences, 1u) << "at most its slots";
  const auto slot = [&](uint32_t replica, uint32_t epoch, uint32_t attempt) {
    return c.core.slot_of({ReplicaId{replica}, Epoch{epoch}}, RequestId{1}, Attempt{attempt});
  };
  EXPECT_EQ(slot(0, 1, 1), c.core.slot_of(RequestId{1}));
  for (const auto other : {slot(1, 1, 1), slot(0, 2, 1), slot(0, 1, 2), slot(9, 1, 1)})
    EXPECT_EQ(other, SchedulerCore::kNoSlot);
}

TEST(SchedulerCore, DrainTakesBackWhatHasNotBegunAndSendsNothingNew) {
  CoreOptions options;
  options.expected_replicas = 2;
  Core c(options);
  c.join(0, 1);
  c.arrive(1);
  c.arrive(2);
  EXPECT_EQ(c.tell(DrainReplica{ReplicaId{0}}),
            Lines({"drain replica=0 epoch=1", "cancel replica=0 epoch=1 request=2 attempt=1"}));
  EXPECT_EQ(c.arrive(3), Lines({"accept request=3"}));
  EXPECT_EQ(c.report(0, 1, {entry(1, 1, 0, 1, true)}).back(), "finish request=1 reason=none");
  c.tell(FromReplica{{ReplicaId{0}, Epoch{1}}, Drained{}});
  EXPECT_EQ(c.join(1, 4),
            Lines({"welcome replica=1 epoch=1", "dispatch replica=1 epoch=1 request=2 attempt=2",
                   "dispatch replica=1 epoch=1 request=3 attempt=1"}));
}

TEST(SchedulerCore, StopEndsEverythingAndRefusesWhatComes) {
  Core c;
  c.join(0, 1);
  c.arrive(1);
  c.arrive(2);
  const auto lines = c.tell(Stop{});
  EXPECT_EQ(lines.back(), "shutdown replica=0 epoch=1");
  EXPECT_EQ(c.core.live(), 0u);
  c.arrive(3);
  EXPECT_EQ(std::get<Reject>(c.commands.at(0)).error.code, ErrorCode::kUnavailable);
}

CoreOptions with_policy(const char* name) {
  CoreOptions options;
  options.policy = *policy_named(name);
  options.ahead_requests = 0;
  return options;
}

TEST(SchedulerCore, TieRunsTheShortestPredictedFirstAndTheUnpredictedByThePopulation) {
  for (const char* policy : {"sept", "tie"}) {
    Core c(with_policy(policy));
    c.join(0, 1);
    for (uint64_t id = 1; id <= 5; ++id)
      c.tell(Arrived{RequestId{id}, PriorityClass::kStandard, 1, 8, 2048, c.now, Duration::max()});
    c.tell(Predicted{RequestId{2}, tie::log_t(7, 0.3)});
    c.tell(Predicted{RequestId{3}, tie::log_t(3, 0.3)});
    c.tell(Predicted{RequestId{5}, tie::log_t(2, 0.3)});
    EXPECT_EQ(c.core.place(RequestId{5}), 1u);
    EXPECT_EQ(c.core.place(RequestId{4}), 3u);
    EXPECT_EQ(c.core.place(RequestId{2}), 4u);
    std::string order;
    for (uint32_t runs = 1; order.size() < 4;) {
      const auto lines = c.report(0, 1, {entry(runs, 1, 0, 1, true)});
      const auto& to = std::get<ToReplica>(c.commands.back());
      runs = static_cast<uint32_t>(std::get<Dispatch>(to.command).request.value);
      order += std::to_string(runs);
    }
    EXPECT_EQ(order, "5342");
  }
}

TEST(SchedulerCore, FcfsKeepsArrivalWhateverIsPredicted) {
  Core c(with_policy("fcfs"));
  c.join(0, 1);
  for (uint64_t id = 1; id <= 3; ++id) c.arrive(id);
  c.tell(Predicted{RequestId{3}, tie::log_t(1, 0.3)});
  EXPECT_EQ(c.report(0, 1, {entry(1, 1, 0, 1, true)}).back(),
            "dispatch replica=0 epoch=1 request=2 attempt=1");
  EXPECT_EQ(c.core.counters().predicted, 1u);
}

TEST(SchedulerCore, WaitingMakesUpForLengthByTheDecayExactly) {
  // ln score + a / tau ln(1 / gamma): a request of twice the score is overtaken no more once it has
  // waited tau ln 2 / ln(1 / gamma) longer.
  const tie::LawMath math;
  const double tie_wait = 30 * std::log(2) / std::log(1 / 0.9);
  for (const double off : {-0.5, 0.5}) {
    Core c(with_policy("sept"));
    c.join(0, 1);
    const auto arrive = [&](uint64_t id) {
      c.tell(
          Arrived{RequestId{id}, PriorityClass::kStandard, 1, 8, 1u << 20, c.now, Duration::max()});
    };
    arrive(1);
    arrive(2);
    c.tell(Predicted{RequestId{2}, tie::log_t(std::log(200), 1e-3, 30)});
    c.now += from_seconds(tie_wait + off);
    arrive(3);
    c.tell(Predicted{RequestId{3}, tie::log_t(std::log(100), 1e-3, 30)});
    EXPECT_EQ(c.core.place(RequestId{3}), off < 0 ? 1u : 2u);
  }
}

TEST(SchedulerCore, BetaFollowsTheQueueAndTurnsTheOrderOfWideAndNarrowLaws) {
  // The narrow law's score lies above the wide one's with beta 0.3, and below it with beta 0.5.
  const tie::LawMath math;
  const LengthLaw wide = tie::log_t(std::log(92), 0.45);
  const auto w = math.moments(wide, 2048);
  const double level = (tie::score(w, 0.3) / 1.3 + tie::score(w, 0.5) / 1.5) / 2;
  const LengthLaw narrow = tie::log_t(std::log(level), 1e-3, 30);
  const auto n = math.moments(narrow, 2048);
  ASSERT_GT(tie::score(n, 0.3), tie::score(w, 0.3));
  ASSERT_LT(tie::score(n, 0.5), tie::score(w, 0.5));
  Core c(with_policy("tie"));
  c.join(0, 1);
  const auto arrive = [&](uint64_t id) {
    c.tell(Arrived{RequestId{id}, PriorityClass::kStandard, 1, 8, 2048, c.now, Duration::max()});
  };
  for (uint64_t id = 1; id <= 3; ++id) arrive(id);
  c.tell(Predicted{RequestId{2}, narrow});
  c.tell(Predicted{RequestId{3}, wide});
  c.now += seconds(2);
  for (uint64_t id = 4; id <= 8; ++id) arrive(id);
  EXPECT_NEAR(c.core.beta(), 0.3, 1e-12) << "a level is held for a second";
  EXPECT_EQ(c.core.place(RequestId{3}), 1u);
  c.now += seconds(1);
  c.tell(Tick{});
  EXPECT_NEAR(c.core.beta(), 0.5, 1e-12);
  EXPECT_EQ(c.core.place(RequestId{2}), 1u);
  EXPECT_EQ(c.core.place(RequestId{3}), 2u);
}

TEST(SchedulerCore, AProbedLawOutranksThePredictorsAndIsKeptForTheNextAttempt) {
  Core c(with_policy("tie"));
  c.join(0, 1);
  c.tell(Arrived{RequestId{1}, PriorityClass::kStandard, 1, 8, 2048, c.now, Duration::max()});
  c.tell(Arrived{RequestId{2}, PriorityClass::kStandard, 1, 8, 2048, c.now, Duration::max()});
  c.tell(Predicted{RequestId{2}, tie::log_t(5, 0.3)});
  c.probe(1, 2, 0, tie::log_t(1, 0.3));
  EXPECT_EQ(c.core.counters().probed, 0u) << "of an attempt that is not";
  c.report(0, 1, {entry(1, 1, 0, 40)});
  c.probe(1, 1, 32, tie::log_t(3, 0.3));
  c.tell(Predicted{RequestId{1}, tie::log_t(9, 0.3)});
  EXPECT_EQ(c.core.counters().probed, 1u);
  EXPECT_EQ(c.core.counters().predicted_late, 1u);
  c.tell(ReplicaLost{ReplicaId{0}, Epoch{1}});
  // 40 are out, the law speaks of what remains behind 32.
  const tie::LawMath math;
  EXPECT_DOUBLE_EQ(c.core.standing(RequestId{1}).moments.expected,
                   math.moments(tie::log_t(3, 0.3), 2048 - 32, 8).expected);
  EXPECT_EQ(c.core.place(RequestId{1}), 1u);
  EXPECT_EQ(c.join(0, 1).back(), "dispatch replica=0 epoch=2 request=1 attempt=2");
}

TEST(SchedulerCore, ANewPopulationRekeysTheUnpredicted) {
  Core c(with_policy("sept"));
  c.arrive(1);
  c.arrive(2);
  c.tell(Predicted{RequestId{2}, tie::log_t(2, 0.3)});
  EXPECT_EQ(c.core.place(RequestId{1}), 2u);
  c.population(tie::log_t(1, 0.3, 5));
  EXPECT_EQ(c.core.place(RequestId{1}), 1u);
}

TEST(SchedulerCore, AdviceNeverReachesACheck) {
  const float nan = std::nanf(""), inf = HUGE_VALF;
  std::vector<LengthLaw> laws;
  for (const float mu : {-100.f, 0.f, 100.f, 1e30f, nan, -inf})
    for (const float sigma : {1e-30f, 1.f, 100.f, 1e30f, 0.f, -1.f, nan})
      for (const float nu : {0.5f, 3.5f, 1e4f, 20'000.f, 0.f, -1.f, inf, nan}) {
        LengthLaw law;
        law.kind = LengthLaw::Kind::kLogT;
        law.mu = mu, law.sigma = sigma, law.nu = nu;
        laws.push_back(law);
      }
  LengthLaw bins;
  bins.kind = LengthLaw::Kind::kHistogram;
  laws.push_back(bins);  // all zero
  bins.low = 1e-30f, bins.high = 1e9f, bins.bins[0] = 1;
  laws.push_back(bins);
  for (const char* policy : {"sept", "tie"}) {
    Core c(with_policy(policy));
    c.join(0, 1);
    for (uint64_t id = 1; id <= 8; ++id) c.arrive(id);
    for (size_t i = 0; i < laws.size(); ++i) {
      c.tell(Predicted{RequestId{2 + i % 7}, laws[i]});
      c.probe(1, 1, 0, laws[i]);
      if (i % 8 == 2 || i % 8 == 3) c.population(laws[i]);  // a table of its own each: 10 ms
      for (uint64_t id = 1; id <= 8; ++id)
        EXPECT_TRUE(std::isfinite(c.core.standing(RequestId{id}).key));
      c.core.check_integrity();
    }
  }
}

TEST(SchedulerCore, EveryDispatchIsTheBestByTheFormulaUnderRandomEventsAndLaws) {
  uint64_t predicted = 0, late = 0, probed = 0, rekeyed = 0;
  for (uint64_t seed = 1; seed <= 30; ++seed) {
    RandomWorld::Options options;
    options.seed = seed;
    options.replicas = 1 + seed % 4;
    options.core.policy = *policy_named(seed % 4 == 0 ? "sept" : "tie");
    options.core.policy.parameters.tau_seconds = seed % 2 ? 30 : 0.05;  // so short that waits count
    options.core.expected_replicas = options.replicas;
    options.core.ahead_requests = static_cast<uint32_t>(seed % 3);
    RandomWorld world(options);
    world.run();
    ASSERT_FALSE(HasFatalFailure()) << "seed " << seed;
    const auto& counters = world.core().counters();
    ASSERT_GT(counters.finished, 20u) << "the world did something, seed " << seed;
    predicted += counters.predicted, late += counters.predicted_late;
    probed += counters.probed, rekeyed += counters.rekeyed_all;
  }
  EXPECT_GT(predicted, 500u);
  EXPECT_GT(late, 500u);
  EXPECT_GT(probed, 100u);
  EXPECT_GT(rekeyed, 100u);
}

TEST(SchedulerCore, ExactlyOnceUnderRandomEvents) {
  for (uint64_t seed = 1; seed <= 40; ++seed) {
    RandomWorld::Options options;
    options.seed = seed;
    options.replicas = 1 + seed % 4;
    options.core.expected_replicas = options.replicas;
    options.core.queue_limit = seed % 3 == 0 ? 8 : 200;
    options.core.ahead_requests = static_cast<uint32_t>(seed % 3);
    RandomWorld world(options);
    world.run();
    ASSERT_FALSE(HasFatalFailure()) << "seed " << seed;
    ASSERT_GT(world.core().counters().finished, 20u) << "the world did something, seed " << seed;
    ASSERT_GT(world.core().counters().requeues, 0u);
  }
}

}  // namespace
}  // namespace tailor::coordinator
