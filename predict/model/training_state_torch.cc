#include "predict/model/training_state_torch.h"

#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>

namespace tailor::predict {

std::span<const float> values_of(const at::Tensor& contiguous) {
  return {contiguous.const_data_ptr<float>(), static_cast<size_t>(contiguous.numel())};
}

void add_tensor(SafetensorsWriter& writer, const std::string& name, const at::Tensor& value) {
  const at::Tensor whole = value.detach().contiguous();
  writer.add(name, whole.sizes().vec(), values_of(whole));
}

TrainingState::TrainingState(Named all, double weight_decay, std::vector<double> rates)
    : parameters(std::move(all)), optimizer(parameters, weight_decay, std::move(rates)) {
  for (const auto& [name, value] : parameters) best.emplace_back(name, value.detach().clone());
}

void TrainingState::end_epoch(double validation_loss) {
  ++epoch;
  if (!(validation_loss < best_loss)) {
    ++since_best;
    return;
  }
  best_loss = validation_loss, since_best = 0;
  at::NoGradGuard no_grad;
  for (size_t i = 0; i < best.size(); ++i) best[i].second.copy_(parameters[i].second);
}

void TrainingState::use_best() {
  at::NoGradGuard no_grad;
  for (size_t i = 0; i < best.size(); ++i) parameters[i].second.copy_(best[i].second);
}

void TrainingState::write(SafetensorsWriter& writer) const {
  for (size_t i = 0; i < best.size(); ++i) {
    const std::string& name = best[i].first;
    add_tensor(writer, "now." + name, parameters[i].second);
    add_tensor(writer, "best." + name, best[i].second);
    add_tensor(writer, "first." + name, optimizer.first()[i]);
    add_tensor(writer, "second." + name, optimizer.second()[i]);
  }
  char loss[40];
  std::snprintf(loss, sizeof loss, "%a", best_loss);
  auto& texts = writer.metadata();
  texts["epoch"] = std::to_string(epoch);
  texts["steps"] = std::to_string(optimizer.steps());
  texts["since_best"] = std::to_string(since_best);
  texts["best_loss"] = loss;
}

Result<void> TrainingState::read(const weights::SafetensorsFile& file, const std::string& path) {
  std::map<std::string, const weights::StoredTensor*> stored;
  for (const weights::StoredTensor& tensor : file.tensors()) stored[tensor.name] = &tensor;
  at::NoGradGuard no_grad;
  for (size_t i = 0; i < best.size(); ++i) {
    const std::string& name = best[i].first;
    for (auto& [prefix, value] : {std::pair<std::string, at::Tensor>{"now.", parameters[i].second},
                                  {"best.", best[i].second},
                                  {"first.", optimizer.first()[i]},
                                  {"second.", optimizer.second()[i]}}) {
      const auto found = stored.find(prefix + name);
      if (found == stored.end() || found->second->type != weights::DataType::kF32 ||
          value.sizes() != at::IntArrayRef(found->second->shape))
        return fail(ErrorCode::kDataLoss, path + ": expected a tensor " + prefix + name +
                                              " of this training, found none or another shape");
      value.copy_(at::from_blob(const_cast<std::byte*>(found->second->data), found->second->shape,
                                at::TensorOptions(at::kFloat)));
    }
  }
  epoch = std::atoi(checkpoint_text(file, "epoch").c_str());
  since_best = std::atoi(checkpoint_text(file, "since_best").c_str());
  optimizer.steps() = std::atoll(checkpoint_text(file, "steps").c_str());
  best_loss = std::strtod(checkpoint_text(file, "best_loss").c_str(), nullptr);
  return {};
}

std::string checkpoint_text(const weights::SafetensorsFile& file, const std::string& key) {
  const auto found = file.metadata().find(key);
  return found == file.metadata().end() ? "" : found->second;
}

std::string training_identity(const TrainOptions& options, const HeadInfo& info,
                              size_t train_rows) {
  std::string text = name_of(options.objective);
  for (const int width : options.trunk) text += "-" + std::to_string(width);
  for (const double value :
       {static_cast<double>(options.stack), static_cast<double>(options.members),
        static_cast<double>(options.epochs), static_cast<double>(options.batch),
        options.learning_rate, options.weight_decay, options.nu, options.trunk_dropout,
        static_cast<double>(options.seed), static_cast<double>(options.answers),
        static_cast<double>(info.input_size), static_cast<double>(train_rows)})
    text += "," + std::to_string(value);
  return text + "," + info.encoder_fingerprint;
}

HeadShape head_shape(const TrainOptions& options, int inputs) {
  return {.inputs = inputs,
          .trunk = options.trunk,
          .stack = options.stack,
          .histogram = options.objective == Objective::kHistogram,
          .trunk_dropout = options.trunk_dropout,
          .stack_dropout = options.stack_dropout};
}

double rate_at(double done, double warm_up) {
  return done < warm_up ? (done + 1e-3) / warm_up : std::max(0.0, (1 - done) / (1 - warm_up));
}

}  // namespace tailor::predict
