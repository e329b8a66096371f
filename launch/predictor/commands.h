// `tailor-predictor train` and `eval`: heads of length predictors, trained and judged. They need
// libtorch: a build without it has neither (launch/predictor/commands_none.cc).
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <vector>

namespace tailor::launch {

struct PredictorCommand {
  CLI::App* app = nullptr;
  std::function<int()> run;
};

std::vector<PredictorCommand> add_training_commands(CLI::App& app);
PredictorCommand add_predictor_bench(CLI::App& app);

}  // namespace tailor::launch
