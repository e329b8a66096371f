// Recalibration: the few numbers of a head that are fitted on validation prompts after its training
// (HeadRecalibration). By the likelihood of the answers, cut ones included, and by the two
// quantiles that scheduling reads, the median and P90: where no log-t law has the answers' shape (a
// model that now and then never ends), likelihood alone leaves those wrong. Test prompts are never
// seen.
#pragma once

#include <functional>
#include <vector>

#include "predict/length_head.h"
#include "predict/model/feature_table.h"

namespace tailor::predict {

struct RecalibrationOptions {
  bool choose_nu = true;  ///< among 2.5 to 30: what fits the answers best; else the head's own
};

/// Fits `weights.recalibration` (and nu) on the validation rows of `table`. A log-t head gets an
/// affine map of mu and of ln sigma and an added variance; a histogram its temperature. What a
/// number does not improve by at least 0.0005 per answer stays as it was. Errors: InvalidArgument
/// (no validation rows).
Result<void> recalibrate(HeadWeights& weights, const FeatureTable& table,
                         const RecalibrationOptions& options = {});

/// Mean ln likelihood of the answers of `rows` under the head's laws, prompt by prompt.
double mean_log_likelihood(const HeadWeights& weights, const FeatureTable& table, Split split);

/// The smallest value of f near `start` by Nelder and Mead's simplex.
std::vector<double> minimize(const std::function<double(const std::vector<double>&)>& f,
                             std::vector<double> start, double step, int evaluations);

}  // namespace tailor::predict
