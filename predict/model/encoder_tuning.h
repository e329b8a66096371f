// Training of a prompt predictor in two stages, as published (TIE, arXiv 2604.00499): first the
// head together with the encoder, or with its last layers alone; then the head alone on the tuned
// encoder's features, computed once. The layers below the tuned ones run once: their hidden states
// are kept in memory while they fit.
//
// Rows, splits, objectives, early stopping and checkpoints are those of predict/model/trainer.h.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "predict/model/encoder.h"
#include "predict/model/prompt_features.h"
#include "predict/model/trainer.h"

namespace tailor::predict {

struct TuneOptions {
  /// the encoder's last so many; more than it has = all and the embeddings; 0 = frozen:
  /// train_head() alone
  int layers = 0;
  bool biases_only = false;          ///< of those layers, and norms: a file of KBs, not MBs
  double learning_rate = 0;          ///< of the encoder, highest; 0 = 1e-4, of biases 1e-3
  double head_learning_rate = 1e-3;  ///< of the head beside it
  int epochs = 8;
  int patience = 3;
  int max_tokens = Encoder::kMaxTokens;  ///< of a prompt, in this stage alone
  uint64_t kept_bytes = 4ULL << 30;      ///< of hidden states; more are computed batch by batch
  std::string checkpoint;                ///< file of the first stage; empty = none is kept
  std::function<void(const std::string&)> say;  ///< what a user should know, one line
};

struct StagedHead {
  TrainedHead head;
  std::vector<EpochLoss> tuning;  ///< of the first stage
};

/// Both stages. `features` made `table` and `info` from `texts`, the prompts of the table's rows;
/// where layers are tuned, its encoder is changed in place and all three are the tuned encoder's
/// afterwards. `compute` gives the features of `texts` again: the default is features.compute().
/// Errors: as train_head; InvalidArgument (features without an encoder to tune).
Result<StagedHead> train_in_stages(const PromptFeatures& features,
                                   std::span<const std::string> texts, FeatureTable& table,
                                   HeadInfo& info, const TrainOptions& train,
                                   const TuneOptions& tune,
                                   const std::function<bool(const TrainProgress&)>& progress = {},
                                   const std::function<Result<std::vector<float>>()>& compute = {});

/// The tuned layers, F16, as a file that PromptFeatures::open takes as overlay. Errors:
/// Unavailable.
Result<void> save_tuned_layers(const Encoder& encoder, const TuneOptions& tune,
                               const std::string& path);

}  // namespace tailor::predict
