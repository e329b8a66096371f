// From what --predictor says to the predictor itself: a trained one in a folder, or one of the
// simple ones that need no files.
#pragma once

#include <memory>
#include <string>

#include "base/messages.h"
#include "base/result.h"
#include "predict/prompt_predictor.h"

namespace tailor::predict {

struct PredictorSource {
  std::unique_ptr<PromptPredictor> predictor;
  PredictorHello hello;  ///< all but version and pid
};

/// "constant:MU,SIGMA" (ln tokens), "prompt-length", or a folder with a trained head.
/// Errors: NotFound (no such folder, no encoder), InvalidArgument (what it is instead).
Result<PredictorSource> open_predictor(const std::string& source, int threads);

/// A folder's trained head (predict/model/trained_predictor.h). A build without libtorch has none
/// (predictor_trained_none.cc).
Result<PredictorSource> open_trained(const std::string& folder, int threads);

}  // namespace tailor::predict
