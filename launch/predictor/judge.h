// Judging heads by the test prompts of a table, and writing what was found.
#pragma once

#include <string>

#include "base/result.h"
#include "bench/predictor_report.h"
#include "predict/length_head.h"
#include "predict/process/data.h"

namespace tailor::launch {

/// By the rows of the test split; rows of one prompt are drawn together in the bootstrap.
/// `replayed`: also in bursts through the simulated cluster (bench/predictor_replay.h).
/// Errors: InvalidArgument (no test rows; features of another size than the head's).
Result<bench::JudgedHead> judge_head(const predict::LengthHead& head, const std::string& name,
                                     const predict::PredictorTable& data, size_t resamples,
                                     bool replayed = false);

/// FOLDER/NAME.html and .json. Errors: Unavailable.
Result<void> write_report(const bench::PredictorReport& report, const std::string& folder,
                          const std::string& name);

}  // namespace tailor::launch
