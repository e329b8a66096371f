// From files to a table that heads are trained and judged on: length files joined by prompt, prompt
// texts, an encoder's features (kept in the cache folder), hidden states of the served model.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "predict/length_head.h"
#include "predict/model/feature_table.h"
#include "predict/model/prompt_features.h"

namespace tailor::predict {

struct PredictorData {
  std::vector<std::string> lengths;  ///< files; answers of prompts that are in several are joined
  std::vector<std::string> prompts;  ///< files with the prompts' texts
  /// see predict/model/prompt_features.h, or hidden:FILE[,FILE..]:LAYER (predict/feature_file.h)
  std::string features = "minilm+lexical";
  std::string kind = "prompt";         ///< or "probe", "remaining" (of hidden states)
  std::vector<std::string> leave_out;  ///< ids that begin so, e.g. Alpaca/
  std::string overlay;                 ///< tuned layers of the encoder, a file; empty = none
  uint32_t limit = 0;  ///< tokens; longer answers count as cut there; 0 = the files' own limit
  int threads = 0;
  bool cache = true;
  std::function<void(const std::string&)> say;  ///< progress, one line
};

struct PredictorTable {
  FeatureTable table;
  HeadInfo info;                            ///< what a head trained on it says of itself
  std::vector<std::string> texts;           ///< by row; of kind prompt alone, as the next
  std::unique_ptr<PromptFeatures> prompts;  ///< what made the features
};

/// Errors: those of the files; InvalidArgument (files of different models; no prompt has both text
/// or hidden state and lengths).
Result<PredictorTable> load_predictor_table(const PredictorData& data);

/// Features of these texts, from the cache folder where they are kept by the encoder's
/// fingerprint, tuned layers included.
Result<std::vector<float>> features_of(const PredictorData& data, const PromptFeatures& features,
                                       const std::vector<std::string>& texts);

}  // namespace tailor::predict
