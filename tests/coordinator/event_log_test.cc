#include "coordinator/event_log.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

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
