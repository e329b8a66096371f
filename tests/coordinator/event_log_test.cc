#include "coordinator/event_log.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <limits>

#include "tests/coordinator/random_world.h"

namespace tailor::coordinator {
namespace {

class EventLog : public testing::Test {
 protected:
  EventLog()
      : folder_(std::filesystem::temp_directory_path() /
                ("tailor_event_log_" + std::to_string(getpid()))),
        path_(folder_ / "log") {
    std::filesystem::create_directory(folder_);
  }
  ~EventLog() override { std::filesystem::remove_all(folder_); }

  /// Runs a random world, records it, and returns every command it led to.
  std::vector<std::string> record(uint64_t seed) {
    RandomWorld::Options options;
    options.seed = seed;
    options.events = 600;
    options.check = false;
    options.core.policy.row = static_cast<uint8_t>(seed % 3);
    options.core.policy.parameters.tau_seconds = 0.1;
    if (seed % 2) options.core.population = tie::log_t(2, 0.7);
    options.core.queue_limit = 20;
    options.core.ahead_requests = seed % 3;
    options.core.expected_replicas = 3;
    auto writer = EventLogWriter::create(path_, options.core);
    EXPECT_TRUE(writer.has_value());
    std::vector<std::string> lines;
    events_.clear();
    RandomWorld world(options);
    world.on_handled = [&](Time now, const CoreEvent& event,
                           const std::vector<CoreCommand>& commands) {
      EXPECT_TRUE(writer->append(now, event).has_value());
      events_.push_back(describe(event));
      for (const auto& command : commands) lines.push_back(describe(command));
    };
    world.run();
    counters_ = world.core().counters();
    return lines;
  }

  std::vector<std::string> replay(ReplaySummary& summary,
                                  std::vector<std::string>* events = nullptr) {
    std::vector<std::string> lines;
    auto result = replay_log(
        path_, [&](Duration, const CoreEvent& event, const std::vector<CoreCommand>& commands) {
          if (events) events->push_back(describe(event));
          for (const auto& command : commands) lines.push_back(describe(command));
        });
    EXPECT_TRUE(result.has_value());
    if (result) summary = *result;
    return lines;
  }

  const std::filesystem::path folder_;
  const std::string path_;
  std::vector<std::string> events_;
  CoreCounters counters_;
};

TEST_F(EventLog, ReplayGivesIdenticalCommands) {
  for (uint64_t seed = 1; seed <= 12; ++seed) {
    const auto live = record(seed);
    ReplaySummary summary;
    std::vector<std::string> events;
    ASSERT_EQ(replay(summary, &events), live) << "seed " << seed;
    ASSERT_EQ(events, events_);
    ASSERT_EQ(summary.damage, "");
    ASSERT_EQ(summary.commands, live.size());
    ASSERT_EQ(summary.counters.tokens, counters_.tokens);
    ASSERT_EQ(summary.live_at_end, 0u);
    ASSERT_EQ(summary.options.policy.row, seed % 3);
    ASSERT_EQ(summary.counters.predicted, counters_.predicted);
    ASSERT_EQ(summary.counters.probed, counters_.probed);
    ASSERT_EQ(counters_.predicted > 0, seed % 3 > 0);
    ASSERT_GT(live.size(), 300u);
  }
}

TEST_F(EventLog, DifferentDecisionsHaveADifferentHash) {
  record(1);
  ReplaySummary a, again, b;
  replay(a);
  replay(again);
  EXPECT_EQ(a.command_hash, again.command_hash);
  record(2);
  replay(b);
  EXPECT_NE(a.command_hash, b.command_hash);
}

TEST_F(EventLog, ATruncatedTailIsToleratedAndNamed) {
  record(3);
  const auto size = std::filesystem::file_size(path_);
  for (const size_t cut : {1, 5, 11, 200}) {
    std::filesystem::resize_file(path_, size - cut);
    ReplaySummary summary;
    replay(summary);
    EXPECT_GT(summary.events, 300u);
    EXPECT_LT(summary.events, events_.size());
    EXPECT_NE(summary.damage.find("read up to record " + std::to_string(summary.events)),
              std::string::npos);
  }
}

TEST_F(EventLog, ADamagedRecordStopsTheReplayThere) {
  record(4);
  {
    std::fstream file(path_, std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(static_cast<std::streamoff>(std::filesystem::file_size(path_) / 2));
    file.write("\xA5\x5A\xA5\x5A", 4);
  }
  ReplaySummary summary;
  replay(summary);
  EXPECT_LT(summary.events, events_.size());
  EXPECT_NE(summary.damage, "");
}

TEST_F(EventLog, AnEarlierOneOfItsNameIsKept) {
  for (const Time last : {Time(seconds(1)), Time(seconds(2)), Time(seconds(3))}) {
    auto writer = EventLogWriter::create(path_, {});
    ASSERT_TRUE(writer) << writer.error().message;
    ASSERT_TRUE(writer->append(last, CoreEvent(Tick{})));
  }
  const auto time_in = [](const std::string& path) {
    Time now{};
    CoreEvent event;
    auto reader = EventLogReader::open(path);
    return reader && reader->next(now, event) ? to_seconds(now.time_since_epoch()) : 0;
  };
  EXPECT_EQ(time_in(path_), 3) << "the newest has the name";
  EXPECT_EQ(time_in(path_ + ".1"), 1);
  EXPECT_EQ(time_in(path_ + ".2"), 2);
  EXPECT_FALSE(std::filesystem::exists(path_ + ".3"));
}

TEST_F(EventLog, WhatHoldsNoEventIsNotKept) {
  for (int i = 0; i < 5; ++i) ASSERT_TRUE(EventLogWriter::create(path_, {}));
  EXPECT_FALSE(std::filesystem::exists(path_ + ".1"));
  std::ofstream(path_) << "a shopping list";
  ASSERT_TRUE(EventLogWriter::create(path_, {}));
  EXPECT_TRUE(std::filesystem::exists(path_ + ".1")) << "what is not ours is";
}

TEST_F(EventLog, OneThatCannotBeBegunLeavesTheOlderAsItWas) {
  record(1);
  const auto size = std::filesystem::file_size(path_);
  std::filesystem::create_directory(path_ + ".new");  // in the way
  const auto failed = EventLogWriter::create(path_, {});
  ASSERT_FALSE(failed);
  EXPECT_EQ(failed.error().code, ErrorCode::kUnavailable);
  EXPECT_EQ(std::filesystem::file_size(path_), size);
  EXPECT_FALSE(std::filesystem::exists(path_ + ".1"));
}

TEST_F(EventLog, AFullDiskIsNamedSo) {
  if (!std::filesystem::exists("/dev/full")) GTEST_SKIP() << "no /dev/full";
  const auto full = EventLogWriter::create("/dev/full", {});
  ASSERT_FALSE(full);
  EXPECT_EQ(full.error().code, ErrorCode::kDataLoss);
  EXPECT_NE(full.error().message.find("No space left"), std::string::npos) << full.error().message;
}

// Well checksummed, but of no coordinator: each is read up to the record before, and told no core.
TEST_F(EventLog, WhatNoCoordinatorRecordsIsReadUpToThere) {
  const auto read_to = [&](const std::vector<std::pair<Time, CoreEvent>>& events,
                           const std::string& why) {
    {
      auto writer = EventLogWriter::create(path_, {});
      ASSERT_TRUE(writer);
      for (const auto& [time, event] : events) ASSERT_TRUE(writer->append(time, event));
    }
    ReplaySummary summary;
    replay(summary);
    EXPECT_EQ(summary.events, events.size() - 1) << why;
    EXPECT_NE(summary.damage.find("is read up to record " + std::to_string(events.size() - 1) +
                                  ": " + why),
              std::string::npos)
        << summary.damage;
  };
  const auto arrived = [](uint64_t id, uint32_t samples = 1, Time arrival = Time(seconds(1))) {
    return Arrived{RequestId{id}, PriorityClass::kStandard, samples, 8, 64, arrival};
  };
  const auto joins = [](uint32_t replica, uint32_t slots) {
    Hello hello;
    hello.info.slots = slots;
    return FromReplica{{ReplicaId{replica}}, hello};
  };
  const Time one(seconds(1)), two(seconds(2));
  read_to({{two, Tick{}}, {one, Tick{}}}, "time runs backwards");
  read_to({{Time(seconds(-5)), Tick{}}}, "time runs backwards");
  read_to({{one, arrived(2)}, {one, arrived(2)}}, "request 2 arrives behind request 2");
  read_to({{one, arrived(0)}}, "request 0 arrives");
  read_to({{one, arrived(1, 0)}}, "a request has 0 samples");
  read_to({{one, arrived(1, 4'000'000'000)}}, "a request has 4000000000 samples");
  read_to({{one, arrived(1, 1, two)}}, "a request arrives at another time");
  read_to({{one, arrived(1, 1, Time::min())}}, "a request arrives at another time");
  read_to({{one, joins(0, 4)}, {one, joins(4096, 4)}}, "replica 4096 joins");
  read_to({{one, joins(UINT32_MAX, 4)}}, "replica 4294967295 joins");
  read_to({{one, joins(0, 0)}}, "a replica of 0 slots joins");
  read_to({{one, joins(0, UINT32_MAX)}}, "a replica of 4294967295 slots joins");
}

TEST_F(EventLog, AHeadThatMakesNoSenseIsRefused) {
  const auto refused = [&](const std::string& why, auto change) {
    CoreOptions options;
    change(options);
    ASSERT_TRUE(EventLogWriter::create(path_, options));
    const auto opened = EventLogReader::open(path_);
    ASSERT_FALSE(opened) << why;
    EXPECT_EQ(opened.error().code, ErrorCode::kDataLoss);
    EXPECT_NE(opened.error().message.find("makes no sense: " + why), std::string::npos)
        << opened.error().message;
  };
  const double nan = std::numeric_limits<double>::quiet_NaN();
  for (const double bad : {nan, 0.0, -1.0}) {
    refused("tau is ", [&](CoreOptions& o) { o.policy.parameters.tau_seconds = bad; });
    refused("gamma is ", [&](CoreOptions& o) { o.policy.parameters.gamma = bad; });
  }
  refused("4294967295 requests are ahead", [](CoreOptions& o) { o.ahead_requests = UINT32_MAX; });
  refused("its least and longest", [](CoreOptions& o) { o.retry_after_max = Duration{}; });
}

TEST_F(EventLog, AnEarlyVersionIsNamed) {
  const auto opened =
      EventLogReader::open(TAILOR_SOURCE_DIR "/tests/fixtures/old_logs/world-tie.log");
  ASSERT_FALSE(opened);
  EXPECT_EQ(opened.error().code, ErrorCode::kProtocol);
  EXPECT_NE(opened.error().message.find("of version 2; this program reads version 3"),
            std::string::npos)
      << opened.error().message;
}

TEST_F(EventLog, SaysWhatIsWrongWithAFile) {
  EXPECT_EQ(EventLogReader::open("/nonexistent/log").error().code, ErrorCode::kNotFound);
  EXPECT_EQ(EventLogWriter::create("/nonexistent/log", {}).error().code, ErrorCode::kUnavailable);
  CoreOptions newer;
  newer.policy.row = 200;
  ASSERT_TRUE(EventLogWriter::create(path_, newer).has_value());
  EXPECT_EQ(EventLogReader::open(path_).error().code, ErrorCode::kProtocol);
  std::ofstream(path_) << "a shopping list";
  EXPECT_EQ(EventLogReader::open(path_).error().code, ErrorCode::kDataLoss);
}

}  // namespace
}  // namespace tailor::coordinator
