// Shared memory between threads of one process: over one mapping (which the thread sanitizer can
// watch) and over one mapping each, and between forked processes, which may be killed.
#include "comm/collective_shm.h"

#include <gmock/gmock.h>
#include <sched.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <functional>
#include <set>
#include <thread>

#include "base/clock.h"
#include "comm/collective_inprocess.h"
#include "tests/comm/collective_conformance.h"

namespace tailor::comm {
namespace {

using testing::HasSubstr;
using Members = std::vector<std::unique_ptr<Collective>>;
using Work = std::function<void(Collective&)>;

Members members(int size, const ShmOptions& options = {}) {
  auto made = make_shm_collectives_of_process(size, options);
  EXPECT_TRUE(made) << to_string(made.error());
  return std::move(*made);
}

/// Each rank's work in a thread of its own.
void on_all(const Members& group, const Work& work) {
  std::vector<std::thread> threads;
  for (const auto& member : group) threads.emplace_back([&] { work(*member); });
  for (auto& thread : threads) thread.join();
}

/// The same, over a group made by make_shm_collective: every thread has its own mapping.
void on_all_mapped(int size, const ShmOptions& options, const Work& work) {
  InProcessGroup bootstrap(size, seconds(20));
  std::vector<std::thread> threads;
  for (int rank = 0; rank < size; ++rank)
    threads.emplace_back([&, rank] {
      auto member = bootstrap.join(rank);
      auto made = make_shm_collective(*member, options);
      ASSERT_TRUE(made) << to_string(made.error());
      work(**made);
    });
  for (auto& thread : threads) thread.join();
}

/// Files in /dev/shm that are ours: named after this process, or after `pid`.
std::set<std::string> left_files(pid_t pid) {
  std::set<std::string> found;
  const std::string mark = "collective-" + std::to_string(pid) + "-";
  for (const auto& entry : std::filesystem::directory_iterator("/dev/shm")) {
    const std::string name = entry.path().filename();
    if (name.find(mark) != std::string::npos) found.insert(name);
  }
  return found;
}

class ShmCollective : public testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Sizes, ShmCollective, testing::Values(1, 2, 3, 4));

TEST_P(ShmCollective, MovesTheSameBytesAsEveryTransport) {
  on_all(members(GetParam()), [](Collective& group) { transcript(group, 1, 80); });
}
TEST_P(ShmCollective, GathersMegabytes) { on_all(members(GetParam()), check_large_gather); }
TEST_P(ShmCollective, GathersInPlace) { on_all(members(GetParam()), check_in_place_all_gather); }
TEST_P(ShmCollective, RefusesWrongArgumentsAndGoesOn) {
  on_all(members(GetParam()), check_refusals);
}

TEST_P(ShmCollective, MessagesLongerThanASlotGoInPieces) {
  // The smallest makes so many meetings of ranks that share cores that a few calls are enough.
  for (const size_t slot_bytes : {13, 64, 1000, 4096}) {
    const int calls = slot_bytes == 13 ? 3 : 20;
    on_all(members(GetParam(), {.slot_bytes = slot_bytes}),
           [&](Collective& group) { transcript(group, slot_bytes, calls); });
  }
}

TEST_P(ShmCollective, IsBitEqualToTheInProcessTransport) {
  const int size = GetParam();
  std::vector<Bytes> by_shm(size), in_process(size);
  on_all(members(size, {.slot_bytes = 5000}),
         [&](Collective& group) { by_shm[group.rank()] = transcript(group, 3, 40); });
  InProcessGroup threads(size, seconds(20));
  Members others;
  for (int rank = 0; rank < size; ++rank) others.push_back(threads.join(rank));
  on_all(others, [&](Collective& group) { in_process[group.rank()] = transcript(group, 3, 40); });
  EXPECT_EQ(by_shm, in_process);
}

TEST_P(ShmCollective, EveryRankMayMapTheMemoryItself) {
  for (const SegmentKind kind : {SegmentKind::kUnnamed, SegmentKind::kNamed, SegmentKind::kAny}) {
    on_all_mapped(GetParam(), {.slot_bytes = 4096, .segment = kind}, [](Collective& group) {
      EXPECT_TRUE(left_files(getpid()).empty());  // gone before the first call
      transcript(group, 4, 20);
    });
    EXPECT_TRUE(left_files(getpid()).empty());
  }
}

TEST_P(ShmCollective, EveryWayToWaitIsRight) {
  const ShmOptions spins{.spin = seconds(20)};  // where there are cores enough
  const ShmOptions yields{.spin = Duration(0), .yield_for = seconds(20)};
  const ShmOptions sleeps{.spin = Duration(0), .yield_for = Duration(0)};
  for (const ShmOptions& options : {spins, yields, sleeps})
    on_all(members(GetParam(), options), [](Collective& group) { transcript(group, 5, 20); });
}

TEST_P(ShmCollective, ThreadsOfOneProcessShareAHost) {
  InProcessGroup bootstrap(GetParam(), seconds(20));
  Members others;
  for (int rank = 0; rank < GetParam(); ++rank) others.push_back(bootstrap.join(rank));
  on_all(others, [](Collective& group) {
    auto shared = ranks_share_host(group);
    ASSERT_TRUE(shared) << to_string(shared.error());
    EXPECT_TRUE(*shared);
  });
}

TEST(ShmCollectiveErrors, AbsentRankGivesTimeoutThatNamesIt) {
  Members group = members(3, {.deadline = milliseconds(500)});  // rank 2 comes in time
  std::thread other([&] { (void)group[2]->barrier(); });
  auto result = group[0]->barrier();
  other.join();
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code, ErrorCode::kTimeout);
  EXPECT_THAT(result.error().message, HasSubstr("barrier #1 on rank 0 of 3"));
  EXPECT_THAT(result.error().message, HasSubstr("rank 1"));
  EXPECT_THAT(result.error().message, HasSubstr("within 0.500 s"));
  auto again = group[0]->barrier();  // broken for good, and at once
  ASSERT_FALSE(again);
  EXPECT_THAT(again.error().message, HasSubstr("the group is broken"));
}

TEST(ShmCollectiveErrors, TimeoutNamesAllWhoDidNotCome) {
  Members group = members(3, {.deadline = milliseconds(20)});
  auto result = group[1]->barrier();
  ASSERT_FALSE(result);
  EXPECT_THAT(result.error().message, HasSubstr("no answer from ranks 0 and 2"));
}

TEST(ShmCollectiveErrors, ARootDoesNotRunAwayFromItsReceivers) {
  Members group = members(2, {.deadline = milliseconds(20)});
  Bytes data(100);
  EXPECT_TRUE(group[0]->broadcast(data, 0));  // fits the slots: goes out, whoever reads it
  auto second = group[0]->broadcast(data, 0);
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code, ErrorCode::kTimeout);
  EXPECT_THAT(second.error().message, HasSubstr("broadcast #2 on rank 0 of 2"));
}

TEST(ShmCollectiveErrors, DifferentSizesAreAnErrorThatNamesBoth) {
  Members group = members(2);
  Result<void> results[2];
  on_all(group, [&](Collective& member) {
    Bytes mine(member.rank() == 0 ? 10 : 20), out(2 * mine.size());
    results[member.rank()] = member.all_gather(mine, out);
  });
  // One compares first and leaves; the other finds the same, or that it is alone.
  int named = 0;
  for (const auto& result : results) {
    ASSERT_FALSE(result);
    EXPECT_EQ(result.error().code, ErrorCode::kInternal);
    const std::string& message = result.error().message;
    named += message.find("10 bytes") != std::string::npos &&
             message.find("20 bytes") != std::string::npos;
  }
  EXPECT_GE(named, 1);
}

TEST(ShmCollectiveErrors, DifferentCallsBreakTheGroupOnAllRanks) {
  Members group = members(2);
  Bytes data(8);
  ASSERT_TRUE(group[0]->broadcast(data, 0));  // a root waits for nobody: it learns by its next call
  auto barrier = group[1]->barrier();
  ASSERT_FALSE(barrier);
  EXPECT_EQ(barrier.error().code, ErrorCode::kInternal);
  EXPECT_THAT(
      barrier.error().message,
      HasSubstr("rank 0 called broadcast of 8 bytes with root 0 where rank 1 called barrier"));
  auto next = group[0]->barrier();
  ASSERT_FALSE(next);
  EXPECT_THAT(next.error().message,
              HasSubstr("call #1: rank 1 called barrier where rank 0 called broadcast of 8 bytes"));
}

TEST(ShmCollectiveErrors, TwoRootsAreFoundByTheNextCall) {
  Members group = members(2);
  Bytes data(8);
  ASSERT_TRUE(group[0]->broadcast(data, 0));
  ASSERT_TRUE(group[1]->broadcast(data, 1));
  for (const auto& member : group) {
    auto next = member->barrier();
    ASSERT_FALSE(next);
    EXPECT_THAT(next.error().message, HasSubstr("with root 0"));
    EXPECT_THAT(next.error().message, HasSubstr("with root 1"));
  }
}

TEST(ShmCollectiveErrors, WhoWaitsForARankThatLeftIsToldAtOnce) {
  for (const Duration yields : {Duration(0), Duration(seconds(600))}) {  // asleep, and awake
    Members group = members(2, {.deadline = seconds(600), .yield_for = yields});
    Result<void> result;
    std::thread waits([&] { result = group[0]->barrier(); });
    group[1].reset();
    waits.join();
    ASSERT_FALSE(result);
    EXPECT_EQ(result.error().code, ErrorCode::kInternal);
    EXPECT_THAT(result.error().message, HasSubstr("rank 1 has left the group"));
  }
}

TEST(ShmCollectiveErrors, BadOptionsAreRefused) {
  EXPECT_EQ(make_shm_collectives_of_process(0).error().code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(make_shm_collectives_of_process(2, {.slot_bytes = 0}).error().code,
            ErrorCode::kInvalidArgument);
}

TEST(ShmCollectiveErrors, MoreMemoryThanThereIsFailsOnAllRanks) {
  InProcessGroup bootstrap(2, seconds(20));
  Members others;
  for (int rank = 0; rank < 2; ++rank) others.push_back(bootstrap.join(rank));
  on_all(others, [](Collective& group) {
    auto segment = SharedSegment::open(group, size_t{1} << 62, SegmentKind::kNamed);
    ASSERT_FALSE(segment);
    EXPECT_EQ(segment.error().code, ErrorCode::kLimitExceeded);
    EXPECT_THAT(segment.error().message, HasSubstr("rank 0: 46116860184273"));
  });
  EXPECT_TRUE(left_files(getpid()).empty());
}

// --- processes, which can be killed --------------------------------------------------------------

/// A forked child; killed and collected at the end of its scope.
class Child {
 public:
  explicit Child(const std::function<void()>& work) : pid_(fork()) {
    if (pid_ != 0) return;
    work();
    _exit(0);
  }
  ~Child() { kill_and_wait(); }
  pid_t pid() const { return pid_; }
  void kill_and_wait() {
    if (pid_ <= 0) return;
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
    pid_ = -1;
  }

 private:
  pid_t pid_;
};

TEST(ShmCollectiveProcesses, AKilledPeerLeavesNoFileAndTheSurvivorGetsATimeout) {
  for (const SegmentKind kind : {SegmentKind::kUnnamed, SegmentKind::kNamed}) {
    const ShmOptions options{.deadline = milliseconds(500), .segment = kind};
    Members bootstrap = members(2);  // shared with what is forked
    const auto serve = [&](int rank, const std::function<void(Collective&)>& work) {
      auto made = make_shm_collective(*bootstrap[rank], options);
      ASSERT_TRUE(made) << to_string(made.error());
      work(**made);
    };
    Child child([&] {
      serve(0, [&](Collective&) { (void)bootstrap[0]->barrier(); });  // never met: the kill comes
    });
    const pid_t pid = child.pid();
    serve(1, [&](Collective& group) {
      child.kill_and_wait();
      auto lost = group.barrier();
      ASSERT_FALSE(lost);
      EXPECT_EQ(lost.error().code, ErrorCode::kTimeout);
      EXPECT_THAT(lost.error().message, HasSubstr("no answer from rank 0 within 0.500 s"));
    });
    EXPECT_TRUE(left_files(pid).empty());
    EXPECT_TRUE(left_files(getpid()).empty());
  }
}

/// Whether `pid` holds our memfd open.
bool holds_memory(pid_t pid) {
  std::error_code error;
  for (const auto& entry :
       std::filesystem::directory_iterator("/proc/" + std::to_string(pid) + "/fd", error)) {
    const auto target = std::filesystem::read_symlink(entry.path(), error);
    if (!error && target.string().find("tailor-collective") != std::string::npos) return true;
  }
  return false;
}

TEST(ShmCollectiveProcesses, AKillWhileTheGroupIsMadeLeavesNoFile) {
  Members bootstrap = members(2);
  Child child([&] { (void)make_shm_collective(*bootstrap[0]); });  // rank 1 does not come
  const pid_t pid = child.pid();
  const Time until = now() + seconds(60);
  while (!holds_memory(pid) && now() < until) sched_yield();
  ASSERT_TRUE(holds_memory(pid));
  child.kill_and_wait();
  EXPECT_TRUE(left_files(pid).empty());
}

}  // namespace
}  // namespace tailor::comm
