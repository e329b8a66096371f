#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <limits>

#include "parallel/weights/safetensors_file.h"
#include "tie/model/head_net_torch.h"
#include "tie/model/recalibrate.h"
#include "tie/model/trainer.h"
#include "tie/model/training_data_torch.h"
#include "tie/safetensors_writer.h"

namespace tailor::tie {
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

std::span<const float> values_of(const at::Tensor& contiguous) {
  return {contiguous.const_data_ptr<float>(), static_cast<size_t>(contiguous.numel())};
}

using Named = std::vector<std::pair<std::string, at::Tensor>>;

// What a run needs to go on: the member in training; finished members stand in `members`.
struct State {
  HeadNet net;
  AdamW optimizer;
  Named best;  // copies of the parameters at the best validation loss
  double best_loss = std::numeric_limits<double>::infinity();
  int since_best = 0;
  int epoch = 0;  // epochs done

  State(const HeadShape& shape, double weight_decay)
      : net(shape), optimizer(net.parameters(), weight_decay) {
    for (const auto& [name, value] : net.parameters())
      best.emplace_back(name, value.detach().clone());
  }
};

class Trainer {
 public:
  Trainer(const TrainingData& data, const TrainOptions& options, HeadWeights& weights,
          const std::function<bool(const TrainProgress&)>& progress)
      : data_(data), options_(options), weights_(weights), progress_(progress) {
    shape_.inputs = weights.info.input_size;
    shape_.trunk = options.trunk, shape_.stack = options.stack;
    shape_.histogram = options.objective == Objective::kHistogram;
    shape_.trunk_dropout = options.trunk_dropout, shape_.stack_dropout = options.stack_dropout;
  }

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
      use_best(*state);
      weights_.members.push_back(state->net.to_member());
    }
    return std::move(curves_);
  }

 private:
  // Sets the run apart from others in its checkpoint.
  std::string identity() const {
    std::string text = name_of(options_.objective);
    for (const int width : options_.trunk) text += "-" + std::to_string(width);
    for (const double value :
         {static_cast<double>(options_.stack), static_cast<double>(options_.members),
          static_cast<double>(options_.epochs), static_cast<double>(options_.batch),
          options_.learning_rate, options_.weight_decay, options_.nu, options_.trunk_dropout,
          static_cast<double>(options_.seed), static_cast<double>(options_.answers),
          static_cast<double>(shape_.inputs),
          static_cast<double>(data_.rows(Split::kTrain).size())})
      text += "," + std::to_string(value);
    return text;
  }

  Result<void> train_member(int member, State& state) {
    auto& curve = curves_[static_cast<size_t>(member)];
    while (state.epoch < options_.epochs && state.since_best < options_.patience) {
      EpochLoss loss;
      loss.train = train_epoch(member, state);
      loss.validation = validation_loss(state.net);
      ++state.epoch;
      curve.push_back(loss);
      if (loss.validation < state.best_loss) {
        state.best_loss = loss.validation, state.since_best = 0;
        at::NoGradGuard no_grad;
        for (size_t i = 0; i < state.best.size(); ++i)
          state.best[i].second.copy_(state.net.parameters()[i].second);
      } else {
        ++state.since_best;
      }
      if (!options_.checkpoint.empty()) TAILOR_TRY(save(member, state));
      if (progress_ && !progress_({member, options_.members, state.epoch, options_.epochs, loss}))
        return fail(ErrorCode::kCancelled, "the training was stopped");
    }
    return {};
  }

  double train_epoch(int member, State& state) {
    const uint64_t seed = (options_.seed * 1000003 + static_cast<uint64_t>(member)) * 1009 +
                          static_cast<uint64_t>(state.epoch);
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
      const double done = static_cast<double>(state.optimizer.steps()) / steps;
      const at::Tensor loss = data_.loss(state.net.forward(data_.inputs(rows), true), rows, done);
      loss.backward();
      sum += loss.item<double>() * static_cast<double>(rows.size());
      state.optimizer.step(rate_at(done), options_.clip);
    }
    return sum / static_cast<double>(order.size());
  }

  double rate_at(double done) const {  // warm-up, then down to nothing in a straight line
    return options_.learning_rate * (done < options_.warm_up
                                         ? (done + 1e-3) / options_.warm_up
                                         : std::max(0.0, (1 - done) / (1 - options_.warm_up)));
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

  void use_best(State& state) {
    at::NoGradGuard no_grad;
    for (size_t i = 0; i < state.best.size(); ++i)
      state.net.parameters()[i].second.copy_(state.best[i].second);
  }

  // ---- the checkpoint: the state of the member in training, finished members as they will ship

  Result<void> save(int member, State& state) const {
    SafetensorsWriter writer;
    const auto add = [&](const std::string& name, const at::Tensor& value) {
      const at::Tensor whole = value.detach().contiguous();
      writer.add(name, whole.sizes().vec(), values_of(whole));
    };
    for (size_t i = 0; i < state.best.size(); ++i) {
      const std::string& name = state.best[i].first;
      add("now." + name, state.net.parameters()[i].second);
      add("best." + name, state.best[i].second);
      add("first." + name, state.optimizer.first()[i]);
      add("second." + name, state.optimizer.second()[i]);
    }
    std::vector<float> losses;
    for (size_t m = 0; m < curves_.size(); ++m)
      for (const EpochLoss& loss : curves_[m])
        losses.insert(losses.end(), {static_cast<float>(m), static_cast<float>(loss.train),
                                     static_cast<float>(loss.validation)});
    writer.add("curves", {static_cast<int64_t>(losses.size() / 3), 3}, losses);
    char best[40];
    std::snprintf(best, sizeof best, "%a", state.best_loss);
    writer.metadata() = {{"format", "tailor-head-checkpoint-1"},
                         {"training", identity()},
                         {"member", std::to_string(member)},
                         {"epoch", std::to_string(state.epoch)},
                         {"steps", std::to_string(state.optimizer.steps())},
                         {"since_best", std::to_string(state.since_best)},
                         {"best_loss", best}};
    if (member > 0 && state.epoch == 1) {
      TAILOR_TRY(save_head(weights_, finished_file()));
    }
    return writer.write(options_.checkpoint);
  }
  std::string finished_file() const { return options_.checkpoint + ".members"; }

  Result<int> restore(std::unique_ptr<State>& out) {
    TAILOR_ASSIGN(const weights::SafetensorsFile file,
                  weights::SafetensorsFile::open(options_.checkpoint));
    const auto text = [&](const std::string& key) {
      const auto found = file.metadata().find(key);
      return found == file.metadata().end() ? std::string() : found->second;
    };
    if (text("training") != identity())
      return fail(ErrorCode::kInvalidArgument, options_.checkpoint +
                                                   " belongs to another training (" +
                                                   text("training") + "), expected " + identity());
    auto state = std::make_unique<State>(shape_, options_.weight_decay);
    const int member = std::atoi(text("member").c_str());
    state->epoch = std::atoi(text("epoch").c_str());
    state->since_best = std::atoi(text("since_best").c_str());
    state->best_loss = std::strtod(text("best_loss").c_str(), nullptr);
    state->optimizer.steps() = std::atoll(text("steps").c_str());
    at::NoGradGuard no_grad;
    for (const weights::StoredTensor& tensor : file.tensors()) {
      if (tensor.type != weights::DataType::kF32) continue;
      const at::Tensor value = at::from_blob(const_cast<std::byte*>(tensor.data), tensor.shape,
                                             at::TensorOptions(at::kFloat));
      if (tensor.name == "curves") {
        for (int64_t i = 0; i < value.size(0); ++i) {
          const float* row = value.const_data_ptr<float>() + i * 3;
          curves_[static_cast<size_t>(row[0])].push_back(
              {static_cast<double>(row[1]), static_cast<double>(row[2])});
        }
        continue;
      }
      for (size_t i = 0; i < state->best.size(); ++i) {
        const std::string& name = state->best[i].first;
        if (tensor.name == "now." + name) state->net.parameters()[i].second.copy_(value);
        if (tensor.name == "best." + name) state->best[i].second.copy_(value);
        if (tensor.name == "first." + name) state->optimizer.first()[i].copy_(value);
        if (tensor.name == "second." + name) state->optimizer.second()[i].copy_(value);
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
  HeadShape shape_;
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

}  // namespace tailor::tie
