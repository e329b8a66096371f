#include "coordinator/operator_door.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <array>

namespace tailor::coordinator {
namespace {

class OperatorDoorTest : public testing::Test {
 protected:
  OperatorDoorTest() {
    Hello hello;
    hello.info.slots = hello.info.num_blocks = 4;
    std::vector<CoreCommand> commands;
    core_.handle({}, FromReplica{{ReplicaId{3}}, hello}, commands);
  }
  ~OperatorDoorTest() override {
    close(pipe_[0]);
    close(pipe_[1]);
  }
  void say(const std::string& words) {
    ASSERT_EQ(write(pipe_[1], words.data(), words.size()), static_cast<ssize_t>(words.size()));
    door_.read(Time{});
  }

  const std::array<int, 2> pipe_ = [] {
    std::array<int, 2> ends{};
    EXPECT_EQ(pipe2(ends.data(), O_NONBLOCK), 0);
    return ends;
  }();
  SchedulerCore core_{CoreOptions{}};
  std::vector<std::string> told_;
  OperatorDoor door_{pipe_[0], core_,
                     [this](const CoreEvent& event) { told_.push_back(describe(event)); }};
};

TEST_F(OperatorDoorTest, AnOrderIsALine) {
  door_.read(Time{});  // nothing has come: it does not wait
  say("drain ");
  EXPECT_TRUE(told_.empty());
  say("3\ndrain 3");
  EXPECT_EQ(told_,
            (std::vector<std::string>{describe(CoreEvent{DrainReplica{ReplicaId{3}, true}})}));
  say("\n");
  EXPECT_EQ(told_.size(), 2u);
}

TEST_F(OperatorDoorTest, WhatIsNoOrderIsIgnored) {
  say("\n\ndrain\ndrain x\ndrain -1\ndrain 3 now\nDRAIN 3\nstop\n");
  say("drain 4\n");  // not here
  say(std::string(1000, 'x'));
  say(std::string(1000, 'y'));
  say("\ndrain 3\n");
  EXPECT_EQ(told_.size(), 1u);
}

TEST_F(OperatorDoorTest, ThatTheLastOneDrainsTooIsSaid) {
  say("drain 3 last\ndrain 3 last last\ndrain last\n");
  EXPECT_EQ(told_,
            (std::vector<std::string>{describe(CoreEvent{DrainReplica{ReplicaId{3}, false}})}));
}

TEST_F(OperatorDoorTest, APieceOfALineSpoilsNoOrderBehindIt) {
  say("drai");
  say("\ndrain 3\n");
  EXPECT_EQ(told_.size(), 1u);
}

TEST_F(OperatorDoorTest, NonsenseIsToldOnceASecondAndEscaped) {
  testing::internal::CaptureStdout();  // where an unnamed log goes
  for (int i = 0; i < 100; ++i) say("\xff\x1b[2J" + std::to_string(i) + "\n");
  door_.read(Time{seconds(1)});
  ASSERT_EQ(write(pipe_[1], "x\n", 2), 2);
  door_.read(Time{seconds(1)});
  const std::string log = testing::internal::GetCapturedStdout();
  EXPECT_EQ(std::count(log.begin(), log.end(), '\n'), 2) << log;
  EXPECT_NE(log.find("'\\xff\\x1b[2J0'"), std::string::npos) << log;
  EXPECT_NE(log.find("'x' (and 99 more"), std::string::npos) << log;
}

}  // namespace
}  // namespace tailor::coordinator
