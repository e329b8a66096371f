// tailor-predictor: the program of the length predictor. `serve` runs under `tailor serve`;
// `train` and `eval` are `tailor train-predictor` and `tailor eval-predictor`.
#include <CLI/CLI.hpp>

#include "launch/options/number_options.h"
#include "launch/options/program_start.h"
#include "launch/predictor/commands.h"
#include "launch/predictor/serve.h"

int main(int argc, char** argv) {
  tailor::launch::open_standard_streams();
  CLI::App app("The predictor of answers' lengths of a Tailor cluster.");
  app.require_subcommand(1);
  const auto serve = tailor::launch::add_predictor_serve(app);
  const auto others = tailor::launch::add_training_commands(app);
  tailor::launch::check_number_options(app);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 1;
  }
  for (const auto& command : others)
    if (app.got_subcommand(command.app)) return command.run();
  return serve();
}
