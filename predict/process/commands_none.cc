// A build without libtorch trains nothing.
#include "predict/process/commands.h"

namespace tailor::predict {

std::vector<PredictorCommand> add_training_commands(CLI::App&) { return {}; }

}  // namespace tailor::predict
