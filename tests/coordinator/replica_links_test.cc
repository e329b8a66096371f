#include "coordinator/replica_links.h"

#include <gtest/gtest.h>

namespace tailor::coordinator {
namespace {

const Time kStart{seconds(100)};

ReplicaInfo info(uint32_t tp = 1, const std::string& fingerprint = "m") {
  ReplicaInfo i;
  i.model_fingerprint = fingerprint;
  i.arithmetic_version = "a";
  i.tp_size = tp;
  i.slots = 4;
  i.block_tokens = 16;
  i.num_blocks = 10;
  i.max_context = 1000;
  i.pid = 7;
  return i;
}
Envelope of(uint32_t replica, uint32_t epoch = 0) { return {ReplicaId{replica}, Epoch{epoch}}; }
Heartbeat beat(uint32_t rank) { return {rank, 0, false}; }

TEST(ReplicaLinks, EveryRankMustBeHeard) {
  ReplicaLinks links(seconds(2));
  links.joined(ReplicaId{0}, Epoch{1}, comm::LinkId{5}, info(2), kStart);
  links.heard(of(0), beat(0), comm::LinkId{5}, kStart + seconds(1));
  EXPECT_TRUE(links.silent(kStart + milliseconds(1999)).empty());
  const auto silent = links.silent(kStart + seconds(2));
  ASSERT_EQ(silent.size(), 1u);
  EXPECT_EQ(silent[0].rank, 1u);
  EXPECT_EQ(silent[0].silence, seconds(2));
  links.heard(of(0), beat(1), comm::LinkId{9}, kStart + seconds(2));
  EXPECT_TRUE(links.silent(kStart + milliseconds(2999)).empty());
  // Its predecessor's leader speaks on another connection: that keeps nobody alive.
  links.heard(of(0), beat(0), comm::LinkId{4}, kStart + seconds(2));
  ASSERT_EQ(links.silent(kStart + seconds(3)).size(), 1u);
  EXPECT_EQ(links.silent(kStart + seconds(3))[0].rank, 0u);
  links.heard(of(3), beat(0), comm::LinkId{5}, kStart);  // unknown replica and rank: harmless
  links.heard(of(0), beat(8), comm::LinkId{5}, kStart);
}

TEST(ReplicaLinks, ALeaderOfAnEpochThatIsOverIsStale) {
  ReplicaLinks links(seconds(2));
  const auto is_stale = [&](uint32_t rank, uint32_t epoch) {
    return links.is_stale(of(0, epoch), beat(rank));
  };
  EXPECT_TRUE(is_stale(0, 1)) << "nobody has joined";
  links.joined(ReplicaId{0}, Epoch{2}, comm::LinkId{5}, info(2), kStart);
  EXPECT_TRUE(is_stale(0, 1));
  EXPECT_FALSE(is_stale(0, 2));
  EXPECT_FALSE(is_stale(0, 0)) << "its Hello or Welcome is on the way";
  EXPECT_FALSE(is_stale(1, 0)) << "followers are never welcomed";
  links.left(ReplicaId{0});
  EXPECT_TRUE(is_stale(0, 2));
}

TEST(ReplicaLinks, APauseOfTheCoordinatorIsNoSilenceOfReplicas) {
  ReplicaLinks links(seconds(2));
  links.joined(ReplicaId{0}, Epoch{1}, comm::LinkId{5}, info(), kStart);
  links.forgive(seconds(30));
  EXPECT_TRUE(links.silent(kStart + seconds(31)).empty());
  EXPECT_FALSE(links.silent(kStart + seconds(32)).empty());
}

TEST(ReplicaLinks, ObjectsToWhatDoesNotFit) {
  ReplicaLinks links(seconds(2));
  EXPECT_FALSE(links.objection(ReplicaId{0}, {info()}).has_value());
  links.joined(ReplicaId{0}, Epoch{1}, comm::LinkId{5}, info(), kStart);
  EXPECT_FALSE(links.objection(ReplicaId{1}, {info()}).has_value());
  EXPECT_NE(links.objection(ReplicaId{1}, {info(1, "other")})
                ->find("'other', but that of the cluster is 'm'"),
            std::string::npos);
  EXPECT_FALSE(links.objection(ReplicaId{0}, {info(1, "other")})
                   .has_value());  // alone, its successor may be another model
  auto odd = info();
  odd.arithmetic_version = "b";
  EXPECT_NE(links.objection(ReplicaId{1}, {odd})->find("arithmetic"), std::string::npos);
  odd = info();
  odd.slots = 0;
  EXPECT_TRUE(links.objection(ReplicaId{1}, {odd}).has_value());
  odd = info();
  odd.protocol_version = 99;
  EXPECT_NE(links.objection(ReplicaId{1}, {odd})->find("99"), std::string::npos);
  EXPECT_TRUE(links.objection(ReplicaId{1u << 30}, {info()}).has_value());
}

TEST(ReplicaLinks, OnlyTheSameProcessOnTheSameConnectionRepeatsItsHello) {
  ReplicaLinks links(seconds(2));
  EXPECT_FALSE(links.repeated(comm::LinkId{5}, ReplicaId{0}, {info()}));
  links.joined(ReplicaId{0}, Epoch{1}, comm::LinkId{5}, info(), kStart);
  EXPECT_TRUE(links.repeated(comm::LinkId{5}, ReplicaId{0}, {info()}));
  EXPECT_FALSE(links.repeated(comm::LinkId{6}, ReplicaId{0}, {info()}));
  StepReport report;
  report.step_time = milliseconds(1);
  links.stepped(ReplicaId{0}, report, kStart);
  EXPECT_FALSE(links.repeated(comm::LinkId{5}, ReplicaId{0}, {info()}));
}

TEST(ReplicaLinks, CountsStepsAndLimitsTheContextToWhatAllCanHold) {
  ReplicaLinks links(seconds(2));
  EXPECT_EQ(links.max_context(2048), 2048u);
  links.joined(ReplicaId{0}, Epoch{1}, comm::LinkId{5}, info(), kStart);
  EXPECT_EQ(links.max_context(2048), 160u);  // 10 blocks of 16
  EXPECT_TRUE(links.speaks(comm::LinkId{5}, ReplicaId{0}));
  EXPECT_FALSE(links.speaks(comm::LinkId{6}, ReplicaId{0}));
  StepReport report;
  report.step_time = milliseconds(10);
  report.forward_time = milliseconds(8);
  report.progress.resize(2);
  report.progress[0].num_tokens = 1;
  report.progress[1].num_tokens = 2;
  links.stepped(ReplicaId{0}, report, kStart);
  report.step_time = milliseconds(20);
  links.stepped(ReplicaId{0}, report, kStart);
  const auto* link = links.find(ReplicaId{0});
  EXPECT_EQ(link->steps, 2u);
  EXPECT_EQ(link->tokens, 6u);
  EXPECT_EQ(link->busy, milliseconds(30));
  EXPECT_EQ(link->forward, milliseconds(16));
  EXPECT_DOUBLE_EQ(link->step_ms, 11.0);
  links.left(ReplicaId{0});
  EXPECT_EQ(links.max_context(2048), 160u) << "it is expected back";
  auto larger = info();
  larger.num_blocks = 20;
  links.joined(ReplicaId{1}, Epoch{1}, comm::LinkId{6}, larger, kStart);
  EXPECT_EQ(links.max_context(2048), 160u);
  links.joined(ReplicaId{0}, Epoch{2}, comm::LinkId{7}, larger, kStart);
  EXPECT_EQ(links.max_context(2048), 320u);
  links.drained(ReplicaId{0});
  links.drained(ReplicaId{1});
  EXPECT_EQ(links.max_context(2048), 2048u);
  links.joined(ReplicaId{1}, Epoch{2}, comm::LinkId{8}, larger, kStart);
}

}  // namespace
}  // namespace tailor::coordinator
