// What `tailor-predictor train` and `eval` show: figures of judged heads as JSON and as one page,
// loss curves, PIT, calibration. Pure.
#pragma once

#include <string>
#include <vector>

#include "bench/predictor_replay.h"
#include "predict/evaluation.h"

namespace tailor::bench {

struct JudgedHead {
  std::string name;      ///< "prompt, likelihood"
  std::string features;  ///< "minilm+lexical", "hidden state after layer 22"
  std::string model;     ///< whose lengths
  predict::Evaluation figures;
  /// [members][epochs] of (train, validation) loss; empty where it was not trained here.
  std::vector<std::vector<std::pair<double, double>>> curves;
  ReplayFigures replay;  ///< empty where it was not replayed
};

struct PredictorReport {
  std::vector<JudgedHead> heads;
  /// Paired differences are to this one; out of range = none.
  size_t reference = static_cast<size_t>(-1);
};

std::string predictor_report_json(const PredictorReport& report);
std::string predictor_report_html(const PredictorReport& report);
/// A table for a terminal.
std::string predictor_report_text(const PredictorReport& report);

}  // namespace tailor::bench
