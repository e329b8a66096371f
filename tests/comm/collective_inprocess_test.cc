#include "comm/collective_inprocess.h"

#include <gmock/gmock.h>

#include <functional>
#include <thread>

#include "base/clock.h"
#include "tests/comm/collective_conformance.h"

namespace tailor::comm {
namespace {

using testing::HasSubstr;

void on_all_ranks(int size, const std::function<void(Collective&)>& work,
                  Duration deadline = seconds(20)) {
  InProcessGroup group(size, deadline);
  std::vector<std::thread> threads;
  for (int rank = 0; rank < size; ++rank)
    threads.emplace_back([&, rank] {
      auto collective = group.join(rank);
      work(*collective);
    });
  for (auto& thread : threads) thread.join();
}

class InProcessCollective : public testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Sizes, InProcessCollective, testing::Values(1, 2, 3, 5));

TEST_P(InProcessCollective, MovesTheSameBytesAsEveryTransport) {
  on_all_ranks(GetParam(), [](Collective& group) { transcript(group, 1, 120); });
}
TEST_P(InProcessCollective, GathersMegabytes) { on_all_ranks(GetParam(), check_large_gather); }
TEST_P(InProcessCollective, GathersInPlace) { on_all_ranks(GetParam(), check_in_place_all_gather); }
TEST_P(InProcessCollective, RefusesWrongArgumentsAndGoesOn) {
  on_all_ranks(GetParam(), check_refusals);
}

TEST(InProcessCollectiveErrors, AbsentRankGivesTimeoutThatNamesIt) {
  InProcessGroup group(3, milliseconds(500));  // rank 2 comes in time
  std::thread other([&] { (void)group.join(2)->barrier(); });
  auto mine = group.join(0);
  auto result = mine->barrier();
  other.join();
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code, ErrorCode::kTimeout);
  EXPECT_THAT(result.error().message, HasSubstr("barrier #1"));
  EXPECT_THAT(result.error().message, HasSubstr("rank 1"));
  auto again = mine->barrier();  // broken for good, and at once
  ASSERT_FALSE(again);
  EXPECT_THAT(again.error().message, HasSubstr("the group is broken"));
}

TEST(InProcessCollectiveErrors, TimeoutTellsWhoArrived) {
  InProcessGroup group(3, milliseconds(30));
  auto result = group.join(1)->barrier();
  ASSERT_FALSE(result);
  EXPECT_THAT(result.error().message, HasSubstr("no answer from ranks 0 and 2"));
  EXPECT_THAT(result.error().message, HasSubstr("(rank 1 arrived)"));
}

TEST(InProcessCollectiveErrors, DifferentCallsBreakTheGroupOnAllRanks) {
  InProcessGroup group(2, seconds(20));
  Result<void> results[2];
  std::thread other([&] { results[1] = group.join(1)->barrier(); });
  Bytes data(8);
  results[0] = group.join(0)->broadcast(data, 0);
  other.join();
  for (const auto& result : results) {
    ASSERT_FALSE(result);
    EXPECT_EQ(result.error().code, ErrorCode::kInternal);
    EXPECT_THAT(result.error().message, HasSubstr("barrier"));
    EXPECT_THAT(result.error().message, HasSubstr("broadcast of 8 bytes"));
  }
}

}  // namespace
}  // namespace tailor::comm
