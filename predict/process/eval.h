// `tailor-predictor eval`: judges heads side by side.
#pragma once

#include "predict/process/commands.h"

namespace tailor::predict {

PredictorCommand add_predictor_eval(CLI::App& app);

}  // namespace tailor::predict
