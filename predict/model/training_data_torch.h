// TrainingData: a FeatureTable as tensors, ready for batches, and each objective's loss on them.
// Sources of predict/model only.
#pragma once

#include <ATen/ATen.h>

#include <vector>

#include "predict/model/head_net_torch.h"
#include "predict/model/trainer.h"
#include "tie/law.h"

namespace tailor::predict {

class TrainingData {
 public:
  /// Fills mean, deviation, targets, bins and population of `weights` from the train rows.
  static Result<TrainingData> make(const FeatureTable& table, const TrainOptions& options,
                                   HeadWeights& weights);

  const std::vector<int64_t>& rows(Split split) const {
    return split == Split::kTrain ? train_ : validation_;
  }
  /// Inputs of the net: z-scores of these rows.
  at::Tensor inputs(const std::vector<int64_t>& rows) const;
  /// z-scores of features [n, width], held to the head's limits. Differentiable.
  at::Tensor normalise(const at::Tensor& features) const;
  /// Mean loss of the net's output for these rows. `progress` 0..1 of the training.
  at::Tensor loss(const HeadNet::Output& output, const std::vector<int64_t>& rows,
                  double progress) const;
  /// The rows of one epoch in their order: a permutation, or the paper's weighted draw.
  std::vector<int64_t> order(uint64_t seed) const;

 private:
  explicit TrainingData(const TrainOptions& options) : options_(options), math_(options.nu) {}
  Result<void> read_rows(const FeatureTable& table);
  void set_targets(HeadWeights& weights);
  void fit_rows(const FeatureTable& table);
  at::Tensor likelihood(const HeadNet::Output& output, const at::Tensor& at) const;
  at::Tensor paper(const HeadNet::Output& output, const at::Tensor& at, double progress) const;
  at::Tensor histogram(const HeadNet::Output& output, const at::Tensor& at) const;

  TrainOptions options_;
  tie::LawMath math_;
  std::vector<int64_t> train_, validation_;
  at::Tensor mean_, deviation_;     // [width]
  at::Tensor z_;                    // [rows, width]
  at::Tensor y_, cut_, share_;      // [rows, answers]: ln length, cut, weight (rows sum to 1)
  at::Tensor bins_;                 // [rows, answers, 32], of a histogram
  at::Tensor fits_;                 // [rows, 2]: mu, log1p sigma; NaN where there is no fit
  std::vector<double> row_weight_;  // of the draw
  std::array<double, 2> target_mean_{}, target_deviation_{1, 1};
};

}  // namespace tailor::predict
