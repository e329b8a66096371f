#include "coordinator/replica_door.h"

#include <gtest/gtest.h>

namespace tailor::coordinator {
namespace {

/// The io thread's place: what is sent is kept.
class Sent : public comm::CoordinatorIo {
 public:
  Mailbox<comm::CoordinatorInput>& inbox() override { return inbox_; }
  Time clients_heard_until() const override { return {}; }
  void send(comm::CoordinatorOutput output) override {
    if (auto* to = std::get_if<comm::ToWorker>(&output))
      commands.push_back(std::move(to->frame.to));
  }
  size_t outbound_bytes() const override { return 0; }
  const std::string& api_endpoint() const override { return endpoint_; }
  const std::string& control_endpoint() const override { return endpoint_; }
  const comm::CoordinatorIoCounters& counters() const override { return counters_; }

  std::vector<ToReplica> commands;

 private:
  Mailbox<comm::CoordinatorInput> inbox_{1};
  const std::string endpoint_ = "here";
  comm::CoordinatorIoCounters counters_;
};

/// A core and its door to replicas, told as the loop tells them.
class Doorway : public testing::Test {
 protected:
  void say(uint64_t link, Epoch epoch, WorkerReport report) {
    comm::FromWorker input{comm::LinkId{link}, {{{ReplicaId{0}, epoch}, std::move(report)}, {}}};
    door.on(input, now);
  }
  void hello(uint64_t link, int32_t pid) {
    Hello hello;
    hello.info.slots = 2;
    hello.info.num_blocks = 10;
    hello.info.block_tokens = 16;
    hello.info.max_context = 100;
    hello.info.pid = pid;
    say(link, Epoch{0}, hello);
  }
  void tell(const CoreEvent& event) {
    std::vector<CoreCommand> commands;
    core.handle(now, event, commands);
    for (const auto& command : commands)
      if (const auto* to = std::get_if<ToReplica>(&command)) door.send(*to, {}, now);
  }
  /// Both books say the same of the replica.
  void expect_joined(bool joined) {
    EXPECT_EQ(core.replica(ReplicaId{0}).joined, joined);
    EXPECT_EQ(door.links().all().count(ReplicaId{0}) > 0, joined);
  }

  const Time now{seconds(100)};
  SchedulerCore core{CoreOptions{}};
  Sent io;
  ReplicaDoor door{seconds(2), core, io, {[this](const CoreEvent& e) { tell(e); }, [] {}, {}}};
};

TEST_F(Doorway, AFarewellOfAnEarlierEpochPartsNobody) {
  hello(1, 7);
  const Epoch first = core.replica(ReplicaId{0}).epoch;
  say(1, first, StepReport{.step = 1, .step_time = milliseconds(5)});
  hello(1, 7);  // its link was cut; its backlog comes behind its Hello
  const Epoch second = core.replica(ReplicaId{0}).epoch;
  ASSERT_GT(second, first);
  tell(DrainReplica{ReplicaId{0}});
  say(1, first, Drained{});
  expect_joined(true);
  say(1, second, Drained{});
  expect_joined(false);
  EXPECT_TRUE(std::holds_alternative<Shutdown>(io.commands.back().command));
}

TEST_F(Doorway, WhoDrainsUnaskedIsLost) {
  hello(1, 7);
  const Epoch epoch = core.replica(ReplicaId{0}).epoch;
  say(1, epoch, Drained{});
  expect_joined(false);
  EXPECT_EQ(std::pair(door.lost(), door.drained()), std::pair(uint64_t{1}, uint64_t{0}));
  EXPECT_TRUE(std::holds_alternative<Shutdown>(io.commands.back().command));
  hello(1, 7);  // started again
  expect_joined(true);
}

TEST_F(Doorway, StepsOfAnEarlierEpochAreNotCountedForTheNewOne) {
  hello(1, 7);
  const Epoch first = core.replica(ReplicaId{0}).epoch;
  say(1, first, StepReport{.step = 1, .step_time = milliseconds(5)});
  hello(1, 7);
  say(1, first, StepReport{.step = 2, .step_time = milliseconds(5)});
  EXPECT_EQ(door.links().all().at(ReplicaId{0}).steps, 0u);
  say(2, core.replica(ReplicaId{0}).epoch, StepReport{.step = 1, .step_time = milliseconds(5)});
  EXPECT_EQ(door.links().all().at(ReplicaId{0}).steps, 0u) << "another connection";
  say(1, core.replica(ReplicaId{0}).epoch, StepReport{.step = 1, .step_time = milliseconds(5)});
  EXPECT_EQ(door.links().all().at(ReplicaId{0}).steps, 1u);
}

}  // namespace
}  // namespace tailor::coordinator
