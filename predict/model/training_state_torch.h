// TrainingState: the parameters of a run with the optimizer's state and a copy at the best
// validation loss, all of which a checkpoint holds; and what trainers of heads and of encoders
// share. Sources of predict/model only. Owner: one thread.
#pragma once

#include <ATen/ATen.h>

#include <limits>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/result.h"
#include "predict/model/head_net_torch.h"
#include "predict/model/trainer.h"
#include "predict/safetensors_writer.h"
#include "weights/safetensors_file.h"

namespace tailor::predict {

using Named = std::vector<std::pair<std::string, at::Tensor>>;

struct TrainingState {
  Named parameters;
  AdamW optimizer;
  Named best;
  double best_loss = std::numeric_limits<double>::infinity();
  int since_best = 0;
  int epoch = 0;  ///< epochs done

  /// `rates`: as AdamW's.
  TrainingState(Named parameters, double weight_decay, std::vector<double> rates = {});
  /// Counts the epoch and keeps a copy where the loss is the lowest so far.
  void end_epoch(double validation_loss);
  void use_best();

  /// Tensors now.X, best.X, first.X, second.X, and the numbers in the metadata.
  void write(SafetensorsWriter& writer) const;
  /// Errors: DataLoss (an entry is missing or has another shape: names it).
  Result<void> read(const weights::SafetensorsFile& file, const std::string& path);
};

/// An entry of a checkpoint's metadata, empty where there is none.
std::string checkpoint_text(const weights::SafetensorsFile& file, const std::string& key);

/// What sets a head's training apart from others in its checkpoint.
std::string training_identity(const TrainOptions& options, const HeadInfo& info, size_t train_rows);

HeadShape head_shape(const TrainOptions& options, int inputs);

/// Warm-up in a straight line to 1, then down to nothing in another. `done` 0..1 of the steps.
double rate_at(double done, double warm_up);

std::span<const float> values_of(const at::Tensor& contiguous);
void add_tensor(SafetensorsWriter& writer, const std::string& name, const at::Tensor& value);

}  // namespace tailor::predict
