// A build without libtorch trains nothing.
#include "predict/process/commands.h"

namespace tailor::launch {

std::vector<PredictorCommand> add_training_commands(CLI::App&) { return {}; }

}  // namespace tailor::launch
