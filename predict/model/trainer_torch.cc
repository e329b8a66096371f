#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <limits>

#include "predict/model/head_net_torch.h"
#include "predict/model/recalibrate.h"
#include "predict/model/trainer.h"
#include "predict/model/training_data_torch.h"
#include "predict/model/training_state_torch.h"
#include "predict/safetensors_writer.h"
#include "weights/safetensors_file.h"

namespace tailor::predict {
namespace {

struct Name {
  Objective objective;
  const char* name;
};
constexpr Name kNames[] = {{Objective::kLikelihood, "likelihood"},
                           {Objective::kPaper, "paper"},
                           {Objective::kHistogram, "histogram"},
                           {Objective::kMedian, "median"},
                           {Objective::kSsjf, "ssjf"},
                           {Objective::kLtr, "ltr"}};

constexpr int64_t kValidationBatch = 4096;

// The member in training; finished members stand in `weights`.
struct State {
  HeadNet net;
  TrainingState run;

  State(const HeadShape& shape, double weight_decay)
      : net(shape), run(net.parameters(), weight_decay) {}
};

class Trainer {
 public:
  Trainer(const TrainingData& data, const TrainOptions& options, HeadWeights& weights,
          const std::function<bool(const TrainProgress&)>& progress)
      : data_(data),
        options_(options),
        weights_(weights),
        progress_(progress),
        shape_(head_shape(options, weights.info.input_size)) {}

  Result<std::vector<std::vector<EpochLoss>>> run() {
    curves_.assign(static_cast<size_t>(options_.members), {});
    int first = 0;
    std::unique_ptr<State> resumed;
    if (options_.resume && std::filesystem::exists(options_.checkpoint)) {
      TAILOR_ASSIGN(first, restore(resumed));
    }
    for (int m = first; m < options_.members; ++m) {
      at::manual_seed(options_.seed * 1000003 + static_cast<uint64_t>(m));
      auto state = std::make_unique<State>(shape_, options_.weight_decay);
      if (resumed) state = std::move(resumed);
      TAILOR_TRY(train_member(m, *state));
      state->run.use_best();
      weights_.members.push_back(state->net.to_member());
    }
    return std::move(curves_);
  }

 private:
  std::string identity() const {
    return training_identity(options_, weights_.info, data_.rows(Split::kTrain).size());
  }

  Result<void> train_member(int member, State& state) {
    auto& curve = curves_[static_cast<size_t>(member)];
    while (state.run.epoch < options_.epochs && state.run.since_best < options_.patience) {
      EpochLoss loss;
      loss.train = train_epoch(member, state);
      loss.validation = validation_loss(state.net);
      state.run.end_epoch(loss.validation);
      curve.push_back(loss);
      if (!options_.checkpoint.empty()) TAILOR_TRY(save(member, state));
      if (progress_ &&
          !progress_({member, options_.members, state.run.epoch, options_.epochs, loss}))
        return fail(ErrorCode::kCancelled, "the training was stopped");
    }
    return {};
  }

  double train_epoch(int member, State& state) {
    const uint64_t seed = (options_.seed * 1000003 + static_cast<uint64_t>(member)) * 1009 +
                          static_cast<uint64_t>(state.run.epoch);
    at::manual_seed(seed);  // of dropout: a resumed run draws the same
    const std::vector<int64_t> order = data_.order(seed);
    const auto batch = static_cast<size_t>(options_.batch);
    const double steps_per_epoch = std::ceil(static_cast<double>(order.size()) / options_.batch);
    const double steps = steps_per_epoch * options_.epochs;
    double sum = 0;
    for (size_t begin = 0; begin < order.size(); begin += batch) {
      const std::vector<int64_t> rows(
          order.begin() + static_cast<std::ptrdiff_t>(begin),
          order.begin() + static_cast<std::ptrdiff_t>(std::min(order.size(), begin + batch)));
      const double done = static_cast<double>(state.run.optimizer.steps()) / steps;
      const at::Tensor loss = data_.loss(state.net.forward(data_.inputs(rows), true), rows, done);
      loss.backward();
      sum += loss.item<double>() * static_cast<double>(rows.size());
      state.run.optimizer.step(options_.learning_rate * rate_at(done, options_.warm_up),
                               options_.clip);
    }
    return sum / static_cast<double>(order.size());
  }

  double validation_loss(const HeadNet& net) const {
    at::NoGradGuard no_grad;
    const std::vector<int64_t>& all = data_.rows(Split::kValidation);
    // ListMLE depends on the list: lists as long as in training.
    const int64_t size = options_.objective == Objective::kLtr ? options_.batch : kValidationBatch;
    double sum = 0;
    for (size_t begin = 0; begin < all.size(); begin += static_cast<size_t>(size)) {
      const std::vector<int64_t> rows(
          all.begin() + static_cast<std::ptrdiff_t>(begin),
          all.begin() +
              static_cast<std::ptrdiff_t>(std::min(all.size(), begin + static_cast<size_t>(size))));
      sum += data_.loss(net.forward(data_.inputs(rows), false), rows, 0).item<double>() *
             static_cast<double>(rows.size());
    }
    return sum / static_cast<double>(all.size());
  }

  // ---- the checkpoint: the state of the member in training, finished members as they will ship

  Result<void> save(int member, State& state) const {
    SafetensorsWriter writer;
    state.run.write(writer);
    std::vector<float> losses;
    for (size_t m = 0; m < curves_.size(); ++m)
      for (const EpochLoss& loss : curves_[m])
        losses.insert(losses.end(), {static_cast<float>(m), static_cast<float>(loss.train),
                                     static_cast<float>(loss.validation)});
    writer.add("curves", {static_cast<int64_t>(losses.size() / 3), 3}, losses);
    writer.metadata()["format"] = "tailor-head-checkpoint-1";
    writer.metadata()["training"] = identity();
    writer.metadata()["member"] = std::to_string(member);
    if (member > 0 && state.run.epoch == 1) {
      TAILOR_TRY(save_head(weights_, finished_file()));
    }
    return writer.write(options_.checkpoint);
  }
  std::string finished_file() const { return options_.checkpoint + ".members"; }

  Result<int> restore(std::unique_ptr<State>& out) {
    TAILOR_ASSIGN(const weights::SafetensorsFile file,
                  weights::SafetensorsFile::open(options_.checkpoint));
    if (checkpoint_text(file, "training") != identity())
      return fail(ErrorCode::kInvalidArgument,
                  options_.checkpoint + " belongs to another training (" +
                      checkpoint_text(file, "training") + "), expected " + identity());
    auto state = std::make_unique<State>(shape_, options_.weight_decay);
    const int member = std::atoi(checkpoint_text(file, "member").c_str());
    TAILOR_TRY(state->run.read(file, options_.checkpoint));
    for (const weights::StoredTensor& tensor : file.tensors()) {
      if (tensor.name != "curves" || tensor.type != weights::DataType::kF32) continue;
      const at::Tensor value = at::from_blob(const_cast<std::byte*>(tensor.data), tensor.shape,
                                             at::TensorOptions(at::kFloat));
      for (int64_t i = 0; i < value.size(0); ++i) {
        const float* row = value.const_data_ptr<float>() + i * 3;
        curves_[static_cast<size_t>(row[0])].push_back(
            {static_cast<double>(row[1]), static_cast<double>(row[2])});
      }
    }
    if (member > 0) {
      TAILOR_ASSIGN(const LengthHead finished, LengthHead::load(finished_file()));
      weights_.members = finished.weights().members;
      if (weights_.members.size() < static_cast<size_t>(member))
        return fail(ErrorCode::kDataLoss, finished_file() + ": expected " + std::to_string(member) +
                                              " members, found " +
                                              std::to_string(weights_.members.size()));
      weights_.members.resize(static_cast<size_t>(member));
    }
    out = std::move(state);
    return member;
  }

  const TrainingData& data_;
  const TrainOptions& options_;
  HeadWeights& weights_;
  const std::function<bool(const TrainProgress&)>& progress_;
  const HeadShape shape_;
  std::vector<std::vector<EpochLoss>> curves_;
};

}  // namespace

Result<Objective> objective_of(const std::string& name) {
  for (const Name& known : kNames)
    if (name == known.name) return known.objective;
  return fail(ErrorCode::kInvalidArgument,
              "an objective is likelihood, paper, histogram, median, ssjf or ltr, found " + name);
}

const char* name_of(Objective objective) {
  for (const Name& known : kNames)
    if (objective == known.objective) return known.name;
  return "?";
}

Result<TrainedHead> train_head(const FeatureTable& table, HeadInfo info,
                               const TrainOptions& options,
                               const std::function<bool(const TrainProgress&)>& progress) try {
  if (options.threads > 0) at::set_num_threads(options.threads);
  TrainedHead out;
  out.weights.info = std::move(info);
  out.weights.info.input_size = table.width;
  out.weights.info.nu = options.nu;
  TAILOR_ASSIGN(const TrainingData data, TrainingData::make(table, options, out.weights));
  Trainer trainer(data, options, out.weights, progress);
  TAILOR_ASSIGN(out.curves, trainer.run());
  TAILOR_TRY(recalibrate(out.weights, table, {.choose_nu = options.choose_nu}));
  return out;
} catch (const std::exception& error) {  // libtorch's door
  return fail(ErrorCode::kDeviceFailure, std::string("training: ") + error.what());
}

}  // namespace tailor::predict
