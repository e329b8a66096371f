// `tailor replay`: feeds a recorded event log to a fresh scheduler core and shows what it decides.
#include <unistd.h>

#include <cstdio>
#include <memory>

#include "client/answer.h"
#include "coordinator/event_log.h"
#include "launch/commands/command.h"
#include "launch/commands/terminal.h"

namespace tailor::launch {
namespace {

struct Options {
  std::string file;
  bool verbose = false;
  bool json = false;
};

std::string hex(uint64_t value) {
  char text[20];
  std::snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(value));
  return text;
}

nlohmann::json to_json(const coordinator::ReplaySummary& s) {
  return {{"policy", coordinator::row_of(s.options.policy).name},
          {"events", s.events},
          {"commands", s.commands},
          {"span_s", to_seconds(s.span)},
          {"command_hash", hex(s.command_hash)},
          {"live_at_end", s.live_at_end},
          {"accepted", s.counters.accepted},
          {"rejected", s.counters.rejected},
          {"finished", s.counters.finished},
          {"cancelled", s.counters.cancelled},
          {"failed", s.counters.failed},
          {"dispatches", s.counters.dispatches},
          {"requeues", s.counters.requeues},
          {"tokens", s.counters.tokens},
          {"damage", s.damage}};
}

int run(const Options& options) {
  bool reader_gone = false;
  const auto show = [&](Duration at, const coordinator::CoreEvent& event,
                        const std::vector<coordinator::CoreCommand>& commands) {
    if (reader_gone) return;
    char time[32];
    std::snprintf(time, sizeof time, "%12.6f ", to_seconds(at));
    std::string text = time + coordinator::describe(event) + "\n";
    for (const coordinator::CoreCommand& command : commands) {
      text += "             -> " + coordinator::describe(command) + "\n";
    }
    reader_gone = !write_all(STDOUT_FILENO, text);
  };
  InterruptWatch interrupts;  // a closed pipe is no reason to die by a signal
  auto summary = options.verbose ? coordinator::replay_log(options.file, show)
                                 : coordinator::replay_log(options.file);
  if (!summary) return print_error(summary.error());
  std::string text;
  if (options.json) {
    text = client::dump_line(to_json(*summary));
  } else {
    char line[512];
    const coordinator::CoreCounters& c = summary->counters;
    std::snprintf(
        line, sizeof line,
        "%llu events over %.3f s gave %llu commands (hash %s)\n"
        "requests: %llu accepted, %llu rejected, %llu finished, %llu cancelled, %llu failed, %u "
        "open at the end\n"
        "%llu dispatches, %llu requeues, %llu tokens\n",
        static_cast<unsigned long long>(summary->events), to_seconds(summary->span),
        static_cast<unsigned long long>(summary->commands), hex(summary->command_hash).c_str(),
        static_cast<unsigned long long>(c.accepted), static_cast<unsigned long long>(c.rejected),
        static_cast<unsigned long long>(c.finished), static_cast<unsigned long long>(c.cancelled),
        static_cast<unsigned long long>(c.failed), summary->live_at_end,
        static_cast<unsigned long long>(c.dispatches), static_cast<unsigned long long>(c.requeues),
        static_cast<unsigned long long>(c.tokens));
    text = "policy " + coordinator::describe(summary->options.policy) + "\n" + line;
  }
  if (!write_all(STDOUT_FILENO, text)) return 1;
  if (summary->damage.empty()) return 0;
  return print_error({ErrorCode::kDataLoss, summary->damage});
}

}  // namespace

Command add_replay(CLI::App& parent) {
  auto options = std::make_shared<Options>();
  CLI::App* app = parent.add_subcommand(
      "replay", "Feed a recorded event log (serve --record) to a fresh scheduler core");
  app->add_option("FILE", options->file, "The event log")->required()->configurable(false);
  app->add_flag("--verbose", options->verbose, "Every event and the commands it led to");
  app->add_flag("--json", options->json, "The summary as one JSON object");
  return {app, [options] { return run(*options); }};
}

}  // namespace tailor::launch
