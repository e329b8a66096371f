// A rank's io thread against the coordinator's, over real sockets: reports, commands, heartbeats,
// loss and return, the doorbell, the watchdog.
#include <gtest/gtest.h>

#include <ctime>

#include "comm/worker_io.h"
#include "link_fixture.h"
#include "link_values.h"

namespace tailor::comm {
namespace {

using namespace test;  // NOLINT

WorkerIoOptions leader_of(const std::string& control_endpoint, uint32_t tp_size = 1) {
  WorkerIoOptions options;
  options.control_endpoint = control_endpoint;
  options.link_key = key_of();
  options.replica = ReplicaId{5};
  options.tp_size = tp_size;
  return options;
}

std::unique_ptr<WorkerIo> start_worker(const WorkerIoOptions& options, const Progress& progress) {
  auto io = WorkerIo::start(options, progress);
  EXPECT_TRUE(io) << io.error().message;
  return std::move(*io);
}

// The next report of kind R, whatever heartbeats come between.
template <class R>
std::optional<std::pair<LinkId, R>> next_report(Incoming<CoordinatorInput>& in,
                                                Duration patience = kPatience) {
  const Time until = now() + patience;
  while (auto from = in.next_of<FromWorker>(until - now()))
    if (auto* report = std::get_if<R>(&from->report))
      return std::pair(from->link, std::move(*report));
  return std::nullopt;
}

TEST(WorkerIo, ReportsAndCommandsCrossUnchanged) {
  auto coordinator = start_coordinator();
  Incoming in(coordinator->inbox());
  const Progress progress;
  auto worker = start_worker(leader_of(coordinator->control_endpoint()), progress);
  Incoming commands(worker->inbox());
  RandomValues random(21);
  worker->report(Hello{ReplicaId{5}, random.info()});
  const auto hello = next_report<Hello>(in);
  ASSERT_TRUE(hello);
  coordinator->send(ToWorker{hello->first, 1, Epoch{4}, Welcome{ReplicaId{5}, Epoch{4}}});
  ASSERT_TRUE(commands.next_of<FromCoordinator>());
  for (uint64_t i = 2; i < 200; ++i) {
    const WorkerReport report = StepReport{
        i, 0, {}, {}, {}, 0, 0, 0, 0, 0, random.list([&] { return random.progress(); }), {}};
    worker->report(report);
    WorkerCommand command = random.command();
    if (std::holds_alternative<Welcome>(command)) command = Drain{};
    coordinator->send(ToWorker{hello->first, i, Epoch{4}, command});
    const auto got_report = next_report<StepReport>(in);
    const auto got_command = commands.next_of<FromCoordinator>();
    ASSERT_TRUE(got_report && got_command);
    EXPECT_EQ(Dump::of(WorkerReport(got_report->second)), Dump::of(report));
    EXPECT_EQ(got_command->sequence, i);
    EXPECT_EQ(Dump::of(got_command->command), Dump::of(command));
  }
  EXPECT_EQ(worker->backlog(), 0u);
}

TEST(WorkerIo, CommandsOfAnotherEpochAreIgnored) {
  auto coordinator = start_coordinator();
  Incoming in(coordinator->inbox());
  const Progress progress;
  auto worker = start_worker(leader_of(coordinator->control_endpoint()), progress);
  Incoming commands(worker->inbox());
  worker->report(Hello{});
  const auto hello = next_report<Hello>(in);
  ASSERT_TRUE(hello);
  const LinkId link = hello->first;
  const auto cancel = [](uint64_t n) { return CancelRequest{RequestId{n}, Attempt{1}}; };
  coordinator->send(ToWorker{link, 1, Epoch{2}, cancel(1)});  // before any Welcome
  coordinator->send(ToWorker{link, 2, Epoch{2}, Welcome{ReplicaId{5}, Epoch{2}}});
  coordinator->send(ToWorker{link, 3, Epoch{1}, cancel(2)});
  coordinator->send(ToWorker{link, 4, Epoch{2}, cancel(3)});
  coordinator->send(ToWorker{link, 5, Epoch{3}, Welcome{ReplicaId{5}, Epoch{3}}});
  coordinator->send(ToWorker{link, 6, Epoch{2}, cancel(4)});
  coordinator->send(ToWorker{link, 7, Epoch{0}, Shutdown{}});  // for whoever listens
  std::vector<uint64_t> seen;
  while (seen.empty() || seen.back() != 7) {
    const auto got = commands.next_of<FromCoordinator>();
    ASSERT_TRUE(got);
    seen.push_back(got->sequence);
  }
  EXPECT_EQ(seen, (std::vector<uint64_t>{2, 4, 5, 7}));
}

TEST(WorkerIo, EveryRankBeatsWithItsProgress) {
  auto coordinator = start_coordinator();
  Incoming in(coordinator->inbox());
  Progress progress;
  progress.counter = 41;
  auto options = leader_of(coordinator->control_endpoint(), 2);
  auto leader = start_worker(options, progress);
  options.rank = 1;
  options.doorbell_endpoint = leader->doorbell_endpoint();
  auto follower = start_worker(options, progress);
  bool seen[2] = {false, false};
  while (!seen[0] || !seen[1]) {
    const auto beat = next_report<Heartbeat>(in);
    ASSERT_TRUE(beat);
    EXPECT_EQ(beat->second.configured_replica, ReplicaId{5});
    EXPECT_EQ(beat->second.progress, 41u);
    ASSERT_LT(beat->second.rank, 2u);
    seen[beat->second.rank] = true;
  }
  progress.counter = 42;
  for (auto beat = next_report<Heartbeat>(in);; beat = next_report<Heartbeat>(in)) {
    ASSERT_TRUE(beat);
    if (beat->second.progress == 42) break;
  }
}

TEST(WorkerIo, HelloIsSaidAgainUntilWelcomeAndAfterACoordinatorsReturn) {
  auto options = loopback();
  auto coordinator = start_coordinator(options);
  const std::string endpoint = coordinator->control_endpoint();
  const Progress progress;
  auto worker_options = leader_of(endpoint);
  worker_options.coordinator_lost_after = milliseconds(300);
  auto worker = start_worker(worker_options, progress);
  Incoming commands(worker->inbox());
  worker->report(Hello{ReplicaId{5}, {}});
  {
    Incoming in(coordinator->inbox());
    ASSERT_TRUE(next_report<Hello>(in));
    const auto again = next_report<Hello>(in);  // nobody answered the first
    ASSERT_TRUE(again);
    coordinator->send(ToWorker{again->first, 1, Epoch{1}, Welcome{ReplicaId{5}, Epoch{1}}});
    ASSERT_TRUE(commands.next_of<FromCoordinator>());
  }
  coordinator.reset();
  ASSERT_TRUE(commands.next_of<LinkDown>());
  worker->report(StepReport{7});
  options.control_endpoint = endpoint;
  coordinator = start_coordinator(options);
  Incoming in(coordinator->inbox());
  // The first that is said on a new connection, heartbeats aside, is Hello; what waited comes
  // behind it.
  std::optional<FromWorker> first;
  do first = in.next_of<FromWorker>();
  while (first && std::holds_alternative<Heartbeat>(first->report));
  ASSERT_TRUE(first);
  EXPECT_TRUE(std::holds_alternative<Hello>(first->report));
  const auto step = next_report<StepReport>(in);
  ASSERT_TRUE(step);
  EXPECT_EQ(step->second.step, 7u);
  EXPECT_EQ(commands.next_of<LinkDown>(milliseconds(0)), std::nullopt);
}

TEST(WorkerIo, EveryRingReachesEveryFollowerOnceEvenThoseThatJoinLate) {
  auto coordinator = start_coordinator();
  const Progress progress;
  auto options = leader_of(coordinator->control_endpoint(), 3);
  auto leader = start_worker(options, progress);
  ASSERT_FALSE(leader->doorbell_endpoint().empty());
  leader->ring();
  leader->ring();  // nobody is there yet
  options.doorbell_endpoint = leader->doorbell_endpoint();
  options.rank = 1;
  auto first = start_worker(options, progress);
  Incoming to_first(first->inbox());
  for (int i = 0; i < 2; ++i) ASSERT_TRUE(to_first.next_of<Doorbell>());
  options.rank = 2;
  auto second = start_worker(options, progress);
  Incoming to_second(second->inbox());
  for (int i = 0; i < 2; ++i) ASSERT_TRUE(to_second.next_of<Doorbell>());
  for (int i = 0; i < 500; ++i) {
    leader->ring();
    ASSERT_TRUE(to_first.next_of<Doorbell>()) << i;
    ASSERT_TRUE(to_second.next_of<Doorbell>()) << i;
  }
  EXPECT_FALSE(to_first.next_of<Doorbell>(milliseconds(30)));
  EXPECT_FALSE(to_second.next_of<Doorbell>(milliseconds(0)));
}

TEST(WorkerIo, ReportsAreFlushedAtTheEnd) {
  auto coordinator = start_coordinator();
  Incoming in(coordinator->inbox());
  const Progress progress;
  auto worker = start_worker(leader_of(coordinator->control_endpoint()), progress);
  ASSERT_TRUE(next_report<Heartbeat>(in));
  constexpr uint64_t kReports = 2000;
  for (uint64_t i = 0; i < kReports; ++i) worker->report(StepReport{i});
  worker.reset();
  for (uint64_t i = 0; i < kReports; ++i) {
    const auto report = next_report<StepReport>(in);
    ASSERT_TRUE(report) << i;
    ASSERT_EQ(report->second.step, i);
  }
}

TEST(WorkerIo, BacklogShowsWhatTheCoordinatorHasNotTaken) {
  const Progress progress;
  auto worker = start_worker(leader_of("tcp://127.0.0.1:1"), progress);  // nobody there
  for (uint64_t i = 0; i < 100; ++i) worker->report(StepReport{i});
  EXPECT_EQ(worker->backlog(), 100u);
}

TEST(WorkerIo, IdleCostsLittle) {
  auto coordinator = start_coordinator();
  Incoming in(coordinator->inbox());
  const Progress progress;
  auto options = leader_of(coordinator->control_endpoint(), 2);
  auto leader = start_worker(options, progress);
  options.rank = 1;
  options.doorbell_endpoint = leader->doorbell_endpoint();
  auto follower = start_worker(options, progress);
  for (int i = 0; i < 10; ++i) ASSERT_TRUE(next_report<Heartbeat>(in));
  const auto cpu_s = [] { return static_cast<double>(std::clock()) / CLOCKS_PER_SEC; };
  const double before = cpu_s();
  const Time start = now();
  for (int i = 0; i < 40; ++i) ASSERT_TRUE(next_report<Heartbeat>(in));  // two ranks: about 2 s
  const double share = (cpu_s() - before) / to_seconds(now() - start);
  RecordProperty("cpu_share_percent", std::to_string(100 * share));
  EXPECT_LT(share, 0.03) << "of one core, for the io of two ranks and a coordinator";
}

TEST(WorkerIo, WrongOptionsAreRefused) {
  const Progress progress;
  auto options = leader_of("tcp://127.0.0.1:1");
  options.rank = 1;
  EXPECT_EQ(WorkerIo::start(options, progress).error().code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(WorkerIo::start(leader_of("nowhere"), progress).error().code,
            ErrorCode::kInvalidArgument);
}

}  // namespace
}  // namespace tailor::comm
