// `tailor-predictor eval`: judges heads side by side.
#pragma once

#include "launch/predictor/commands.h"

namespace tailor::launch {

PredictorCommand add_predictor_eval(CLI::App& app);

}  // namespace tailor::launch
