// Run by mpirun with 1, 2 and 3 ranks (on 2 cores 3 are more than the cores hold): the ranks are
// processes, MPI is the bootstrap.
#include <gmock/gmock.h>
#include <unistd.h>

#include <filesystem>

#include "base/clock.h"
#include "comm/collective_mpi.h"
#include "comm/collective_shm.h"
#include "tests/comm/collective_conformance.h"

namespace tailor::comm {
namespace {

using testing::HasSubstr;

MpiEnvironment* environment = nullptr;  // set once by main, before any test

class ShmCollectiveUnderMpi : public testing::Test {
 protected:
  ShmCollectiveUnderMpi() {
    auto communicator = environment->replica_communicator(environment->world_size());
    EXPECT_TRUE(communicator) << to_string(communicator.error());
    mpi_ = make_mpi_collective(*communicator);
  }
  std::unique_ptr<Collective> make(const ShmOptions& options = {}) {
    auto made = make_shm_collective(*mpi_, options);
    EXPECT_TRUE(made) << to_string(made.error());
    return std::move(*made);
  }
  std::unique_ptr<Collective> mpi_;
};

TEST_F(ShmCollectiveUnderMpi, IsBitEqualToMpi) {
  const Bytes by_mpi = transcript(*mpi_, 2, 300);
  for (const SegmentKind kind : {SegmentKind::kUnnamed, SegmentKind::kNamed}) {
    EXPECT_EQ(transcript(*make({.segment = kind}), 2, 300), by_mpi);
    EXPECT_EQ(transcript(*make({.slot_bytes = 777, .segment = kind}), 2, 300), by_mpi);
  }
}

TEST_F(ShmCollectiveUnderMpi, GathersMegabytes) { check_large_gather(*make()); }
TEST_F(ShmCollectiveUnderMpi, GathersInPlace) { check_in_place_all_gather(*make()); }
TEST_F(ShmCollectiveUnderMpi, RefusesWrongArgumentsAndGoesOn) { check_refusals(*make()); }

TEST_F(ShmCollectiveUnderMpi, RanksOfOneMpirunOnThisMachineShareIt) {
  auto shared = ranks_share_host(*mpi_);
  ASSERT_TRUE(shared) << to_string(shared.error());
  EXPECT_TRUE(*shared);
}

TEST_F(ShmCollectiveUnderMpi, NoFileIsLeftInDevShm) {
  auto group = make({.segment = SegmentKind::kNamed});
  pid_t creator = getpid();
  ASSERT_TRUE(mpi_->broadcast(std::as_writable_bytes(std::span(&creator, 1)), 0));
  const std::string mark = "collective-" + std::to_string(creator) + "-";
  for (const auto& entry : std::filesystem::directory_iterator("/dev/shm"))
    EXPECT_EQ(entry.path().filename().string().find(mark), std::string::npos) << entry.path();
}

TEST_F(ShmCollectiveUnderMpi, RanksMayBeFarApart) {
  auto group = make();
  if (group->rank() == 0) {  // the others wait past their spins and yields, asleep
    const Time until = now() + milliseconds(60);
    while (now() < until) {
    }
  }
  auto result = group->barrier();
  EXPECT_TRUE(result) << to_string(result.error());
}

TEST_F(ShmCollectiveUnderMpi, AbsentRankGivesTimeoutThatNamesIt) {
  if (environment->world_size() < 2) GTEST_SKIP() << "needs mpirun with at least 2 ranks";
  auto group = make({.deadline = milliseconds(500)});
  const int absent = group->size() - 1;
  if (group->rank() != absent) {
    Bytes mine(64), out(64 * group->size());
    auto result = group->all_gather(mine, out);
    ASSERT_FALSE(result);
    EXPECT_EQ(result.error().code, ErrorCode::kTimeout);
    EXPECT_THAT(result.error().message, HasSubstr("all_gather #1"));
    EXPECT_THAT(result.error().message, HasSubstr("no answer from rank " + std::to_string(absent)));
    auto again = group->barrier();
    ASSERT_FALSE(again);
    EXPECT_THAT(again.error().message, HasSubstr("the group is broken"));
  }
  auto met = mpi_->barrier();
  EXPECT_TRUE(met) << to_string(met.error());
}

TEST_F(ShmCollectiveUnderMpi, DifferentSizesAreAnErrorThatNamesBoth) {
  if (environment->world_size() < 2) GTEST_SKIP() << "needs mpirun with at least 2 ranks";
  auto group = make();
  Bytes data(group->rank() == 0 ? 10 : 20);
  auto result = group->broadcast(data, 0);
  if (group->rank() != 0) {
    ASSERT_FALSE(result);
    EXPECT_EQ(result.error().code, ErrorCode::kInternal);
    EXPECT_THAT(result.error().message,
                HasSubstr("rank 0 called broadcast of 10 bytes with root 0"));
    EXPECT_THAT(result.error().message, HasSubstr("broadcast of 20 bytes with root 0"));
  }
  auto met = mpi_->barrier();
  EXPECT_TRUE(met) << to_string(met.error());
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
