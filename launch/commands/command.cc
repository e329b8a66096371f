#include "launch/commands/command.h"

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <exception>
#include <filesystem>
#include <vector>

#include "launch/options/number_options.h"

namespace tailor::launch {

std::string own_folder() {
  std::error_code error;
  const auto self = std::filesystem::read_symlink("/proc/self/exe", error);
  return error ? "." : self.parent_path().string();
}

int print_error(const Error& error) {
  std::fprintf(stderr, "tailor: %s\n", error.message.c_str());
  return 1;
}

namespace {

/// `code`, unless what was printed could not be written (a full disk): 1, and why.
int printed(int code) {
  errno = 0;
  if (std::fflush(stdout) == 0 && std::ferror(stdout) == 0) return code;
  if (errno == EPIPE) return code;  // a reader that has left wants no more
  return print_error({ErrorCode::kUnavailable,
                      std::string("cannot write standard output: ") +
                          (errno != 0 ? std::strerror(errno) : "an earlier write failed")});
}

}  // namespace

int run_tailor(int argc, char** argv) {
  if (const auto code = run_passed_on(argc, argv)) return *code;
  CLI::App app{
      "Tailor serves Llama-family models on a cluster of tensor-parallel replicas.\n"
      "Start one with `tailor serve`, then ask it with `tailor generate --chat \"Hello\"`.",
      "tailor"};
  app.set_version_flag("--version", std::string("tailor ") + TAILOR_VERSION);
  app.set_config("--config", "",
                 "TOML file: keys are option names, one section per command, e.g. [serve]");
  app.allow_config_extras(CLI::config_extras_mode::error);
  app.require_subcommand(1);
  app.fallthrough();
  app.option_defaults()->always_capture_default();

  std::vector<Command> commands = {add_serve(app),  add_generate(app),   add_chat(app),
                                   add_status(app), add_drain(app),      add_doctor(app),
                                   add_replay(app), add_bench(app),      add_collect(app),
                                   add_score(app),  add_fit_report(app), add_restamp(app)};
  list_passed_on(app);
  check_number_options(app);
  app.failure_message([](const CLI::App* failed, const CLI::Error& error) {
    return sentence_of(*failed, error) + "\nRun with --help for more information.\n";
  });
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return printed(app.exit(error) == 0 ? 0 : 1);
  }
  try {
    for (const Command& command : commands) {
      if (app.got_subcommand(command.app)) return printed(command.run());
    }
  } catch (const std::exception& error) {
    return print_error({ErrorCode::kInternal, error.what()});
  }
  return 1;
}

}  // namespace tailor::launch
