// Run by mpirun with 1, 2 and 3 ranks: all ranks run the same tests in the same order, each with
// its own MpiEnvironment and Collective, made once in main (MPI cannot be started twice in a
// process).
#include "comm/collective_mpi.h"

#include <gmock/gmock.h>

#include <thread>

#include "base/clock.h"
#include "comm/collective_inprocess.h"
#include "tests/comm/collective_conformance.h"

namespace tailor::comm {
namespace {

using testing::HasSubstr;

MpiEnvironment* environment = nullptr;  // set once by main, before any test

class MpiCollective : public testing::Test {
 protected:
  std::unique_ptr<Collective> make(const MpiCollectiveOptions& options = {}) {
    auto communicator = environment->replica_communicator(environment->world_size());
    EXPECT_TRUE(communicator) << to_string(communicator.error());
    return make_mpi_collective(*communicator, options);
  }
};

TEST_F(MpiCollective, IsBitEqualToTheInProcessTransport) {
  auto group = make();
  const Bytes by_mpi = transcript(*group, 2, 300);
  Bytes in_process;
  InProcessGroup threads(group->size(), seconds(20));
  std::vector<std::thread> running;
  for (int rank = 0; rank < group->size(); ++rank)
    running.emplace_back([&, rank] {
      auto member = threads.join(rank);
      Bytes received = transcript(*member, 2, 300);
      if (rank == group->rank()) in_process = std::move(received);
    });
  for (auto& thread : running) thread.join();
  EXPECT_EQ(by_mpi, in_process);
}

TEST_F(MpiCollective, GathersMegabytes) { check_large_gather(*make()); }
TEST_F(MpiCollective, GathersInPlace) { check_in_place_all_gather(*make()); }
TEST_F(MpiCollective, RefusesWrongArgumentsAndGoesOn) { check_refusals(*make()); }

TEST_F(MpiCollective, RanksMayBeFarApart) {
  auto group = make();
  if (group->rank() == 0) {  // the others wait past their yields, asleep
    const Time until = now() + milliseconds(60);
    while (now() < until) {
    }
  }
  auto result = group->barrier();
  EXPECT_TRUE(result) << to_string(result.error());
}

TEST_F(MpiCollective, AbsentRankGivesTimeoutThatNamesIt) {
  if (environment->world_size() < 2) GTEST_SKIP() << "needs mpirun with at least 2 ranks";
  auto healthy = make();
  auto group = make({.deadline = milliseconds(500)});
  const int absent = group->size() - 1;
  if (group->rank() != absent) {
    const Time started = now();
    Bytes mine(64), out(64 * group->size());
    auto result = group->all_gather(mine, out);
    const Duration waited = now() - started;
    ASSERT_FALSE(result);
    EXPECT_EQ(result.error().code, ErrorCode::kTimeout);
    EXPECT_THAT(result.error().message, HasSubstr("all_gather #1"));
    EXPECT_THAT(result.error().message, HasSubstr("no answer from rank " + std::to_string(absent)));
    EXPECT_GE(waited, milliseconds(500));
    auto again = group->barrier();
    ASSERT_FALSE(again);
    EXPECT_THAT(again.error().message, HasSubstr("the group is broken"));
  }
  auto met = healthy->barrier();
  EXPECT_TRUE(met) << to_string(met.error());
}

TEST_F(MpiCollective, DifferentSizesAreAnErrorThatNamesBoth) {
  if (environment->world_size() < 2) GTEST_SKIP() << "needs mpirun with at least 2 ranks";
  auto healthy = make();
  auto group = make({.deadline = seconds(10)});
  Bytes data(group->rank() == 0 ? 10 : 20);
  auto result = group->broadcast(data, 0);
  if (group->rank() != 0) {
    ASSERT_FALSE(result);
    EXPECT_EQ(result.error().code, ErrorCode::kInternal);
    EXPECT_THAT(result.error().message, HasSubstr("rank 0 sent 10 bytes, expected 20"));
  }
  Bytes more(group->rank() == 0 ? 30 : 20);
  auto second = make({.deadline = seconds(10)});
  auto truncated = second->broadcast(more, 0);
  if (second->rank() != 0) {
    ASSERT_FALSE(truncated);
    EXPECT_THAT(truncated.error().message, HasSubstr("from rank 0, expected 20 bytes"));
  }
  auto met = healthy->barrier();
  EXPECT_TRUE(met) << to_string(met.error());
}

TEST(MpiEnvironment, RefusesATensorParallelSizeThatDoesNotFitTheLaunch) {
  auto communicator = environment->replica_communicator(environment->world_size() + 1);
  ASSERT_FALSE(communicator);
  EXPECT_EQ(communicator.error().code, ErrorCode::kInvalidArgument);
  EXPECT_THAT(communicator.error().message,
              HasSubstr("mpirun -n " + std::to_string(environment->world_size() + 1)));
  EXPECT_FALSE(environment->replica_communicator(0));
}

// mpirun -n 1 COORDINATOR : -n 2 WORKER : -n 2 WORKER, here one program in three applications.
TEST(SingleLaunch, EveryReplicaGetsItsOwnGroupAndTheCoordinatorNone) {
  constexpr int kTp = 2;
  if (environment->world_size() != 5)
    GTEST_SKIP() << "needs the MPMD line of tests/comm/CMakeLists.txt";
  if (environment->app_number() == 0) {  // the coordinator takes part in nothing
    EXPECT_FALSE(environment->replica_communicator(kTp));
    return;
  }
  auto communicator = environment->replica_communicator(kTp);
  ASSERT_TRUE(communicator) << to_string(communicator.error());
  auto group = make_mpi_collective(*communicator);
  EXPECT_EQ(group->size(), kTp);
  EXPECT_EQ(group->rank(), (environment->world_rank() - 1) % kTp);
  EXPECT_EQ(environment->replica(kTp), (environment->world_rank() - 1) / kTp);
  auto workers = environment->workers_communicator(kTp);
  ASSERT_TRUE(workers) << to_string(workers.error());
  auto all = make_mpi_collective(*workers);
  EXPECT_EQ(all->size(), 4);
  EXPECT_EQ(all->rank(), environment->world_rank() - 1);
  // Each replica its own seed: a byte that crossed replicas would differ from what is expected.
  transcript(*group, 10 + static_cast<uint64_t>(environment->replica(kTp)), 60);
}

}  // namespace
}  // namespace tailor::comm

int main(int argc, char** argv) {
  testing::InitGoogleMock(&argc, argv);
  auto started = tailor::comm::MpiEnvironment::start(&argc, &argv);
  if (!started) return 70;
  tailor::comm::environment = started->get();
  return RUN_ALL_TESTS();
}
