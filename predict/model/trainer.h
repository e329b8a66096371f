// Trains the heads of length predictors on a FeatureTable (predict/model trains with libtorch; this
// face has none of it). 60/20/20 by the hash of the prompt's id: z-scores, the population law and
// the weights come from train rows, early stopping and the recalibration from validation rows, test
// rows are looked at by the evaluation alone (predict/evaluation.h).
//
// Objectives:
//   likelihood  log-t likelihood of the answers themselves, cut ones included; works from one
//               answer a prompt, and its sigma contains the model's own error
//   paper       MSE on each prompt's own fitted mu and log1p sigma, both z-scored; the weight of
//               sigma goes from 3 to 4 (TIE, arXiv 2604.00499); needs several answers a prompt
//   histogram   cross-entropy over 32 log-spaced bins; a cut answer is all that lies above
//   median      pinball loss at 1/2 of ln(length)
//   ssjf        MSE on ln of one answer's length (Qiu et al., arXiv 2404.08509)
//   ltr         ListMLE on one answer's length over each batch (Fu et al., arXiv 2408.15792)
// The last three know no sigma; recalibration gives all prompts one.
//
// Deterministic for a seed and a number of threads. A checkpoint after each epoch (one file,
// renamed into place) makes a killed run go on as if it had not been.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/result.h"
#include "predict/length_head.h"
#include "predict/model/feature_table.h"

namespace tailor::predict {

enum class Objective { kLikelihood, kPaper, kHistogram, kMedian, kSsjf, kLtr };
Result<Objective> objective_of(const std::string& name);
const char* name_of(Objective objective);

struct TrainOptions {
  Objective objective = Objective::kLikelihood;
  std::vector<int> trunk = {256, 256};  ///< empty and stack 0: linear in the features
  int stack = 128;
  double trunk_dropout = 0.2, stack_dropout = 0.1;
  int members = 1;  ///< networks from different seeds, averaged
  int epochs = 40;
  int patience = 8;  ///< epochs without a better validation loss
  int batch = 32;
  double learning_rate = 1e-3, weight_decay = 0.01, warm_up = 0.1, clip = 1.0;
  bool weighted_sampling = false;  ///< the paper's: 1.5 for mu > 5.5 or sigma > 1, 2 for 6 or 1.3
  int answers = 0;                 ///< of each prompt, the first so many; 0 = all
  double nu = 3.5;
  bool choose_nu = true;  ///< in the recalibration
  uint64_t seed = 1;
  int threads = 0;         ///< of libtorch; 0 leaves them as they are
  std::string checkpoint;  ///< file; empty = none is kept
  bool resume = false;     ///< from it, if it is there and of the same training
};

struct EpochLoss {
  double train = 0, validation = 0;
};

struct TrainProgress {
  int member = 0, members = 1, epoch = 0, epochs = 0;
  EpochLoss loss;
  bool of_encoder = false;  ///< the first stage (predict/model/encoder_tuning.h)
};

struct TrainedHead {
  HeadWeights weights;                         ///< recalibrated
  std::vector<std::vector<EpochLoss>> curves;  ///< [member][epoch]
};

/// `info` says what the features are and whose lengths; its input_size, nu and population are set
/// here. `progress` is told after each epoch (and its checkpoint); false stops the run there with
/// Cancelled. Errors: InvalidArgument (no rows to train or validate on; features that are not
/// finite; a checkpoint of another training), Unavailable (checkpoint cannot be written).
Result<TrainedHead> train_head(const FeatureTable& table, HeadInfo info,
                               const TrainOptions& options,
                               const std::function<bool(const TrainProgress&)>& progress = {});

}  // namespace tailor::predict
