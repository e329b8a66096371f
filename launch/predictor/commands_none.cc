// A build without libtorch trains nothing.
#include "launch/predictor/commands.h"

namespace tailor::launch {

std::vector<PredictorCommand> add_training_commands(CLI::App&) { return {}; }

}  // namespace tailor::launch
