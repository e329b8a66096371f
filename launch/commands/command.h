// The commands of the `tailor` program: each lives in its own source, adds itself to the parser and
// runs afterwards. A command returns the process's exit code: 0 done, 1 failed (one sentence on
// stderr), 130 interrupted.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <optional>
#include <string>

#include "base/result.h"

namespace tailor::launch {

struct Command {
  CLI::App* app = nullptr;
  std::function<int()> run;
};

Command add_serve(CLI::App& parent);
Command add_generate(CLI::App& parent);
Command add_chat(CLI::App& parent);
Command add_status(CLI::App& parent);
Command add_drain(CLI::App& parent);
Command add_doctor(CLI::App& parent);
Command add_replay(CLI::App& parent);
Command add_bench(CLI::App& parent);
Command add_collect(CLI::App& parent);
Command add_score(CLI::App& parent);
Command add_restamp(CLI::App& parent);
Command add_fit_report(CLI::App& parent);

/// Commands that another program carries out: shown in --help, and run before anything is parsed.
/// Nothing = argv names none of them; does not return otherwise, unless the program is missing.
void list_passed_on(CLI::App& app);
std::optional<int> run_passed_on(int argc, char** argv);

/// Where this program lies, and its sisters with it.
std::string own_folder();

/// Prints "tailor: MESSAGE" on stderr; returns 1.
int print_error(const Error& error);

/// Builds the parser with every command and `--config FILE.toml`, parses, runs the chosen command.
int run_tailor(int argc, char** argv);

}  // namespace tailor::launch
