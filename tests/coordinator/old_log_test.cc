// What the core of the event log's version 2 decided, today's core decides: every command of every
// log of tests/fixtures/old_logs, in order.
#include "tests/coordinator/old_log.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>

#include "tests/coordinator/command_lines.h"

namespace tailor::coordinator {
namespace {

const std::filesystem::path kFolder = TAILOR_SOURCE_DIR "/tests/fixtures/old_logs";

/// A file of commands: their lines, and the numbers at its end.
struct OldCommands {
  std::vector<std::string> lines;
  std::map<std::string, std::string> counters;
};
OldCommands read_commands(const std::filesystem::path& path) {
  OldCommands out;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with("@")) continue;
    if (!line.starts_with("# ")) {
      out.lines.push_back(line);
      continue;
    }
    std::istringstream numbers(line.substr(2));
    for (std::string number; numbers >> number;) {
      const size_t equals = number.find('=');
      out.counters[number.substr(0, equals)] = number.substr(equals + 1);
    }
  }
  return out;
}

std::map<std::string, uint64_t> counters_of(const SchedulerCore& core) {
  const CoreCounters& c = core.counters();
  return {{"live", core.live()},
          {"waiting", core.waiting()},
          {"accepted", c.accepted},
          {"rejected", c.rejected},
          {"finished", c.finished},
          {"cancelled", c.cancelled},
          {"failed", c.failed},
          {"dispatches", c.dispatches},
          {"requeues", c.requeues},
          {"tokens", c.tokens},
          {"stale_entries", c.stale_entries},
          {"gap_failures", c.gap_failures},
          {"predicted", c.predicted},
          {"predicted_late", c.predicted_late},
          {"probed", c.probed},
          {"rekeyed_all", c.rekeyed_all}};
}

class OldLogs : public testing::TestWithParam<std::string> {};

TEST_P(OldLogs, ReplayToTheCommandsOfThatTime) {
  const OldLog log = OldLog::read(kFolder / (GetParam() + ".log"));
  const OldCommands expected = read_commands(kFolder / (GetParam() + ".commands.txt"));
  ASSERT_GT(expected.lines.size(), 50u);
  SchedulerCore core(log.options);
  std::vector<CoreCommand> commands;
  size_t said = 0;
  for (size_t at = 0; at < log.events.size(); ++at) {
    const auto& [now, event] = log.events[at];
    commands.clear();
    core.handle(now, event, commands);
    core.check_integrity();
    for (const CoreCommand& command : commands) {
      ASSERT_LT(said, expected.lines.size()) << "event " << at << ": " << describe(event);
      ASSERT_EQ(CommandLine::of(command), expected.lines[said++])
          << "event " << at << ": " << describe(event);
    }
  }
  EXPECT_EQ(said, expected.lines.size());
  for (const auto& [name, value] : counters_of(core))
    EXPECT_EQ(std::to_string(value), expected.counters.at(name)) << name;
  EXPECT_EQ(core.beta(), std::stod(expected.counters.at("beta")));
}

INSTANTIATE_TEST_SUITE_P(All, OldLogs,
                         testing::Values("real-fcfs", "real-sept", "real-tie", "world-fcfs",
                                         "world-sept", "world-tie", "broken-fcfs", "broken-sept",
                                         "broken-tie", "stopped-fcfs", "stopped-sept",
                                         "stopped-tie"),
                         [](const auto& named) {
                           std::string name = named.param;
                           name[name.find('-')] = '_';
                           return name;
                         });

}  // namespace
}  // namespace tailor::coordinator
