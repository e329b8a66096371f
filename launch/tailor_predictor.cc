// tailor-predictor: the program of the length predictor. `serve` runs under `tailor serve`.
#include <CLI/CLI.hpp>

#include "launch/predictor_serve.h"

int main(int argc, char** argv) {
  CLI::App app("The predictor of answers' lengths of a Tailor cluster.");
  app.require_subcommand(1);
  const auto serve = tailor::launch::add_predictor_serve(app);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 1;
  }
  return serve();
}
