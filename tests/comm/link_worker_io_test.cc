// A rank's io thread against the coordinator's, over real sockets: reports, commands, heartbeats,
// loss and return, the doorbell, the watchdog.
#include <gtest/gtest.h>

#include <ctime>

#include "comm/worker_io.h"
#include "tests/comm/link_fixture.h"
#include "tests/comm/link_values.h"

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

template <class R>
struct Heard {
  LinkId link;
  ReportFrame frame;
  const R& report() const { return std::get<R>(frame.from.report); }
};
// The next report of kind R, whatever heartbeats come between.
template <class R>
std::optional<Heard<R>> next_report(Incoming<CoordinatorInput>& in, Duration patience = kPatience) {
  const Time until = now() + patience;
  while (auto from = in.next_of<FromWorker>(until - now()))
    if (std::holds_alternative<R>(from->frame.from.report))
      return Heard<R>{from->link, std::move(from->frame)};
  return std::nullopt;
}

TEST(WorkerIo, ReportsAndCommandsCrossUnchanged) {
  auto coordinator = start_coordinator();
  Incoming in(coordinator->inbox());
  const Progress progress;
  auto worker = start_worker(leader_of(coordinator->control_endpoint()), progress);
  Incoming commands(worker->inbox());
  RandomValues random(21);
  worker->report(report_of(Hello{random.any<ReplicaInfo>()}));
  const auto hello = next_report<Hello>(in);
  ASSERT_TRUE(hello);
  coordinator->send(to_worker(hello->link, 1, Epoch{4}, Welcome{}));
  ASSERT_TRUE(commands.next_of<CommandFrame>());
  for (uint64_t i = 2; i < 200; ++i) {
    auto step = random.any<StepReport>();
    const auto payload = random.payload_of(step);
    const ReportFrame report{{random.any<Envelope>(), step}, payload};
    worker->report(report);
    CommandFrame command = random.command();
    if (std::holds_alternative<Welcome>(command.to.command)) command.to.command = Drain{};
    command.to.envelope = {ReplicaId{5}, Epoch{4}, i};
    coordinator->send(ToWorker{hello->link, command});
    const auto got_report = next_report<StepReport>(in);
    const auto got_command = commands.next_of<CommandFrame>();
    ASSERT_TRUE(got_report && got_command);
    EXPECT_EQ(Dump::of(got_report->frame), Dump::of(report));
    EXPECT_EQ(got_command->to.envelope.sequence, i);
    EXPECT_EQ(Dump::of(*got_command), Dump::of(command));
  }
  EXPECT_EQ(worker->backlog(), 0u);
}

TEST(WorkerIo, CommandsOfAnotherEpochAreIgnored) {
  auto coordinator = start_coordinator();
  Incoming in(coordinator->inbox());
  const Progress progress;
  auto worker = start_worker(leader_of(coordinator->control_endpoint()), progress);
  Incoming commands(worker->inbox());
  worker->report(report_of(Hello{}));
  const auto hello = next_report<Hello>(in);
  ASSERT_TRUE(hello);
  const LinkId link = hello->link;
  const auto cancel = [](uint64_t n) { return CancelRequest{RequestId{n}, Attempt{1}}; };
  coordinator->send(to_worker(link, 1, Epoch{2}, cancel(1)));  // before any Welcome
  coordinator->send(to_worker(link, 2, Epoch{2}, Welcome{}));
  coordinator->send(to_worker(link, 3, Epoch{1}, cancel(2)));
  coordinator->send(to_worker(link, 4, Epoch{2}, cancel(3)));
  coordinator->send(to_worker(link, 5, Epoch{3}, Welcome{}));
  coordinator->send(to_worker(link, 6, Epoch{2}, cancel(4)));
  coordinator->send(to_worker(link, 7, Epoch{0}, Shutdown{}));  // for whoever listens
  std::vector<uint64_t> seen;
  while (seen.empty() || seen.back() != 7) {
    const auto got = commands.next_of<CommandFrame>();
    ASSERT_TRUE(got);
    seen.push_back(got->to.envelope.sequence);
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
    EXPECT_EQ(beat->frame.from.envelope.replica, ReplicaId{5});
    EXPECT_EQ(beat->report().progress, 41u);
    ASSERT_LT(beat->report().rank, 2u);
    seen[beat->report().rank] = true;
  }
  progress.counter = 42;
  for (auto beat = next_report<Heartbeat>(in);; beat = next_report<Heartbeat>(in)) {
    ASSERT_TRUE(beat);
    if (beat->report().progress == 42) break;
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
  worker->report(report_of(Hello{}));
  {
    Incoming in(coordinator->inbox());
    ASSERT_TRUE(next_report<Hello>(in));
    const auto again = next_report<Hello>(in);  // nobody answered the first
    ASSERT_TRUE(again);
    coordinator->send(to_worker(again->link, 1, Epoch{1}, Welcome{}));
    ASSERT_TRUE(commands.next_of<CommandFrame>());
  }
  coordinator.reset();
  ASSERT_TRUE(commands.next_of<LinkDown>());
  worker->report(report_of(StepReport{7}));
  options.control_endpoint = endpoint;
  coordinator = start_coordinator(options);
  Incoming in(coordinator->inbox());
  // The first that is said on a new connection, heartbeats aside, is Hello; what waited comes
  // behind it.
  std::optional<FromWorker> first;
  do first = in.next_of<FromWorker>();
  while (first && std::holds_alternative<Heartbeat>(first->frame.from.report));
  ASSERT_TRUE(first);
  EXPECT_TRUE(std::holds_alternative<Hello>(first->frame.from.report));
  const auto step = next_report<StepReport>(in);
  ASSERT_TRUE(step);
  EXPECT_EQ(step->report().step, 7u);
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
  for (uint64_t i = 0; i < kReports; ++i) worker->report(report_of(StepReport{i}));
  worker.reset();
  for (uint64_t i = 0; i < kReports; ++i) {
    const auto report = next_report<StepReport>(in);
    ASSERT_TRUE(report) << i;
    ASSERT_EQ(report->report().step, i);
  }
}

TEST(WorkerIo, BacklogShowsWhatTheCoordinatorHasNotTaken) {
  const Progress progress;
  auto worker = start_worker(leader_of("tcp://127.0.0.1:1"), progress);  // nobody there
  for (uint64_t i = 0; i < 100; ++i) worker->report(report_of(StepReport{i}));
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
