#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>

#include "base/check.h"
#include "predict/model/encoder_torch.h"
#include "predict/model/encoder_tuning.h"
#include "predict/model/head_net_torch.h"
#include "predict/model/training_data_torch.h"
#include "predict/model/training_state_torch.h"
#include "tie/fit.h"

namespace tailor::predict {
namespace {

/// Batches are cut from so many at once, sorted by length: little padding, still by chance.
constexpr size_t kSortedBatches = 16;
constexpr size_t kTokensPerBatch = 2048;

int64_t first_layer(const Encoder& encoder, int layers) {
  return std::max<int64_t>(-1, encoder.net()->config().num_layers - layers);
}

/// What is tuned of the net, by name.
Named tuned_parameters(const Encoder& encoder, const TuneOptions& tune) {
  Named all = encoder.net()->parameters(first_layer(encoder, tune.layers));
  if (tune.biases_only)
    std::erase_if(all, [](const auto& parameter) { return parameter.second.dim() > 1; });
  return all;
}

/// Gradients for the tuned layers while a training runs, and never after.
class Unfrozen {
 public:
  explicit Unfrozen(Named parameters) : parameters_(std::move(parameters)) { set(true); }
  ~Unfrozen() { set(false); }
  Unfrozen(const Unfrozen&) = delete;
  Unfrozen& operator=(const Unfrozen&) = delete;

 private:
  void set(bool on) {
    for (auto& [name, tensor] : parameters_) {
      tensor.set_requires_grad(on);
      if (!on) tensor.mutable_grad().reset();
    }
  }
  Named parameters_;
};

class Tuner {
 public:
  Tuner(const Encoder& encoder, const FeatureTable& table, const TrainingData& data,
        const TrainOptions& train, const TuneOptions& tune, const HeadWeights& weights)
      : net_(*encoder.net()),
        first_(first_layer(encoder, tune.layers)),
        tuned_(tuned_parameters(encoder, tune)),
        data_(data),
        train_(train),
        tune_(tune),
        weights_(weights),
        head_(head_shape(train, table.width)),
        lexical_(table.width - encoder.feature_size()),
        run_(all_parameters(), train.weight_decay, rates()) {
    const at::Tensor all = at::from_blob(const_cast<float*>(table.features.data()),
                                         {static_cast<int64_t>(table.rows.size()), table.width});
    rest_ = all.narrow(1, encoder.feature_size(), lexical_).clone();
  }

  Result<void> tokenize(const Encoder& encoder, std::span<const std::string> texts) {
    tokens_.resize(texts.size());
    const size_t limit = static_cast<size_t>(std::max(2, tune_.max_tokens));
    for (const Split split : {Split::kTrain, Split::kValidation}) {
      for (const int64_t row : data_.rows(split)) {
        auto& ids = tokens_[static_cast<size_t>(row)];
        TAILOR_ASSIGN(ids, encoder.tokenize(texts[static_cast<size_t>(row)]));
        if (ids.size() <= limit) continue;
        ids.erase(ids.begin() + static_cast<std::ptrdiff_t>(limit) - 1, ids.end() - 1);
      }
    }
    return {};
  }

  bool ended() const { return run_.epoch >= tune_.epochs || run_.since_best >= tune_.patience; }

  Result<void> run(const std::function<bool(const TrainProgress&)>& progress) {
    if (!ended()) keep_hidden();
    while (!ended()) {
      EpochLoss loss;
      loss.train = train_epoch();
      loss.validation = validation_loss();
      run_.end_epoch(loss.validation);
      curve_.push_back(loss);
      if (!tune_.checkpoint.empty()) TAILOR_TRY(save());
      if (progress && !progress({0, 1, run_.epoch, tune_.epochs, loss, true}))
        return fail(ErrorCode::kCancelled, "the training was stopped");
    }
    run_.use_best();
    const at::NoGradGuard no_grad;  // as the file will hold them
    for (const auto& [name, tensor] : tuned_) tensor.copy_(tensor.to(at::kHalf));
    return {};
  }

  std::vector<EpochLoss>& curve() { return curve_; }

  Result<void> restore() {
    TAILOR_ASSIGN(const auto file, weights::SafetensorsFile::open(tune_.checkpoint));
    const std::string found = checkpoint_text(file, "training");
    if (found != identity())
      return fail(ErrorCode::kInvalidArgument, tune_.checkpoint + " belongs to another training (" +
                                                   found + "), expected " + identity());
    TAILOR_TRY(run_.read(file, tune_.checkpoint));
    for (const weights::StoredTensor& tensor : file.tensors()) {
      if (tensor.name != "curve") continue;
      const auto* losses = reinterpret_cast<const float*>(tensor.data);
      for (int64_t i = 0; i < tensor.shape[0]; ++i)
        curve_.push_back(
            {static_cast<double>(losses[2 * i]), static_cast<double>(losses[2 * i + 1])});
    }
    return {};
  }

 private:
  Named all_parameters() {
    Named out;
    for (const auto& [name, tensor] : head_.parameters()) out.emplace_back("head." + name, tensor);
    out.insert(out.end(), tuned_.begin(), tuned_.end());
    return out;
  }
  double rate() const {
    return tune_.learning_rate > 0 ? tune_.learning_rate : tune_.biases_only ? 1e-3 : 1e-4;
  }
  std::vector<double> rates() {  // multiples of the head's
    std::vector<double> out(head_.parameters().size(), 1);
    out.resize(out.size() + tuned_.size(), rate() / tune_.head_learning_rate);
    return out;
  }
  std::string identity() const {
    char text[160];
    std::snprintf(text, sizeof text, ",tuned %d%s at %g and %g, %d epochs of %d tokens",
                  tune_.layers, tune_.biases_only ? " (biases)" : "", rate(),
                  tune_.head_learning_rate, tune_.epochs, tune_.max_tokens);
    return training_identity(train_, weights_.info, data_.rows(Split::kTrain).size()) + text;
  }

  TokenBatch batch_of(std::span<const int64_t> rows) const {
    std::vector<std::vector<TokenId>> ids;
    for (const int64_t row : rows) ids.push_back(tokens_[static_cast<size_t>(row)]);
    return pad_tokens(ids);
  }
  at::Tensor below(const TokenBatch& batch) const {
    const at::NoGradGuard frozen;
    return net_.forward_from(0, net_.embed(batch.ids, batch.mask), batch.mask, false, first_);
  }

  // What goes into the first tuned layer, once for every prompt, while it fits.
  void keep_hidden() {
    if (first_ < 0) return;  // the embeddings change too
    std::vector<int64_t> rows = data_.rows(Split::kTrain);
    const std::vector<int64_t>& validation = data_.rows(Split::kValidation);
    rows.insert(rows.end(), validation.begin(), validation.end());
    const auto tokens = [&](int64_t row) { return tokens_[static_cast<size_t>(row)].size(); };
    uint64_t bytes = 0;
    for (const int64_t row : rows)
      bytes += tokens(row) * static_cast<uint64_t>(net_.config().hidden_size) * sizeof(float);
    if (bytes > tune_.kept_bytes) {
      if (tune_.say)
        tune_.say("the hidden states below the tuned layers would take " +
                  std::to_string((bytes >> 20) + 1) + " MiB, " +
                  std::to_string(tune_.kept_bytes >> 20) +
                  " are allowed: every batch computes them again; fewer tokens of a prompt would "
                  "fit");
      return;
    }
    std::stable_sort(rows.begin(), rows.end(),
                     [&](int64_t a, int64_t b) { return tokens(a) > tokens(b); });
    kept_.resize(tokens_.size());
    for (size_t begin = 0, end = 0; begin < rows.size(); begin = end) {
      const size_t room = std::max<size_t>(1, kTokensPerBatch / tokens(rows[begin]));
      end = std::min(rows.size(), begin + room);
      const std::span<const int64_t> some = std::span(rows).subspan(begin, end - begin);
      const at::Tensor hidden = below(batch_of(some));
      for (size_t i = 0; i < some.size(); ++i)
        kept_[static_cast<size_t>(some[i])] =
            hidden.select(0, static_cast<int64_t>(i))
                .narrow(0, 0, static_cast<int64_t>(tokens(some[i])))
                .clone();
      if (tune_.say && begin / 512 != end / 512)
        tune_.say("hidden states of " + std::to_string(end) + " of " + std::to_string(rows.size()) +
                  " prompts");
    }
  }

  at::Tensor input_of(std::span<const int64_t> rows, const TokenBatch& batch, bool training) const {
    if (first_ < 0) return net_.embed(batch.ids, batch.mask, training);
    if (kept_.empty()) return below(batch);
    at::Tensor hidden =
        at::zeros({batch.ids.size(0), batch.ids.size(1), net_.config().hidden_size});
    for (size_t i = 0; i < rows.size(); ++i) {
      const at::Tensor& kept = kept_[static_cast<size_t>(rows[i])];
      hidden.select(0, static_cast<int64_t>(i)).narrow(0, 0, kept.size(0)).copy_(kept);
    }
    return hidden;
  }

  at::Tensor loss_of(const std::vector<int64_t>& rows, bool training, double progress) const {
    const TokenBatch batch = batch_of(rows);
    const at::Tensor hidden = net_.forward_from(
        std::max<int64_t>(0, first_), input_of(rows, batch, training), batch.mask, training);
    at::Tensor features = pool(hidden, batch.mask);
    if (lexical_ > 0)
      features = at::cat(
          {features, rest_.index_select(0, at::tensor(rows, at::TensorOptions(at::kLong)))}, 1);
    return data_.loss(head_.forward(data_.normalise(features), training), rows, progress);
  }

  std::vector<std::vector<int64_t>> batches(std::vector<int64_t> order, uint64_t seed) const {
    const auto batch = static_cast<size_t>(train_.batch);
    std::vector<std::vector<int64_t>> out;
    for (size_t begin = 0; begin < order.size(); begin += batch * kSortedBatches) {
      const size_t end = std::min(order.size(), begin + batch * kSortedBatches);
      std::stable_sort(order.begin() + static_cast<std::ptrdiff_t>(begin),
                       order.begin() + static_cast<std::ptrdiff_t>(end), [&](int64_t a, int64_t b) {
                         return tokens_[static_cast<size_t>(a)].size() >
                                tokens_[static_cast<size_t>(b)].size();
                       });
      for (size_t at = begin; at < end; at += batch)
        out.emplace_back(order.begin() + static_cast<std::ptrdiff_t>(at),
                         order.begin() + static_cast<std::ptrdiff_t>(std::min(end, at + batch)));
    }
    tie::UniformStream random(seed + 1);
    for (size_t i = out.size(); i > 1; --i)
      std::swap(out[i - 1],
                out[std::min(i - 1, static_cast<size_t>(random() * static_cast<double>(i)))]);
    return out;
  }

  double train_epoch() {
    const uint64_t seed = train_.seed * 1000003 * 1009 + 500 + static_cast<uint64_t>(run_.epoch);
    at::manual_seed(seed);  // of dropout: a resumed run draws the same
    const auto all = batches(data_.order(seed), seed);
    const double steps = static_cast<double>(all.size()) * tune_.epochs;
    double sum = 0, count = 0;
    for (const std::vector<int64_t>& rows : all) {
      const double done = static_cast<double>(run_.optimizer.steps()) / steps;
      const at::Tensor loss = loss_of(rows, true, done);
      loss.backward();
      sum += loss.item<double>() * static_cast<double>(rows.size());
      count += static_cast<double>(rows.size());
      run_.optimizer.step(tune_.head_learning_rate * rate_at(done, train_.warm_up), train_.clip);
    }
    return sum / count;
  }

  double validation_loss() const {
    const at::NoGradGuard no_grad;
    double sum = 0, count = 0;
    for (const std::vector<int64_t>& rows : batches(data_.rows(Split::kValidation), train_.seed)) {
      sum += loss_of(rows, false, 0).item<double>() * static_cast<double>(rows.size());
      count += static_cast<double>(rows.size());
    }
    return sum / count;
  }

  Result<void> save() const {
    SafetensorsWriter writer;
    run_.write(writer);
    std::vector<float> losses;
    for (const EpochLoss& loss : curve_)
      losses.insert(losses.end(),
                    {static_cast<float>(loss.train), static_cast<float>(loss.validation)});
    writer.add("curve", {static_cast<int64_t>(curve_.size()), 2}, losses);
    writer.metadata()["format"] = "tailor-encoder-checkpoint-1";
    writer.metadata()["training"] = identity();
    return writer.write(tune_.checkpoint);
  }

  const EncoderNet& net_;
  const int64_t first_;  // tuned layer; -1 = the embeddings too
  const Named tuned_;
  const TrainingData& data_;
  const TrainOptions& train_;
  const TuneOptions& tune_;
  const HeadWeights& weights_;
  HeadNet head_;
  const int64_t lexical_;
  TrainingState run_;
  at::Tensor rest_;                           // [rows, lexical]: features beside the encoder's
  std::vector<std::vector<TokenId>> tokens_;  // by row; empty for test rows
  std::vector<at::Tensor> kept_;              // by row [tokens, hidden]; empty = none are
  std::vector<EpochLoss> curve_;
};

// The first stage: the net of `encoder` and a head beside it, both as at the best validation loss;
// the head has done its part then.
Result<std::vector<EpochLoss>> tune_encoder(
    const Encoder& encoder, std::span<const std::string> texts, const FeatureTable& table,
    const HeadInfo& info, const TrainOptions& train, const TuneOptions& tune,
    const std::function<bool(const TrainProgress&)>& progress) try {
  if (train.threads > 0) at::set_num_threads(train.threads);
  HeadWeights weights;
  weights.info = info;
  weights.info.input_size = table.width, weights.info.nu = train.nu;
  TAILOR_ASSIGN(const TrainingData data, TrainingData::make(table, train, weights));
  at::manual_seed(train.seed * 1000003);
  const Unfrozen unfrozen(tuned_parameters(encoder, tune));
  Tuner tuner(encoder, table, data, train, tune, weights);
  if (train.resume && std::filesystem::exists(tune.checkpoint)) TAILOR_TRY(tuner.restore());
  TAILOR_TRY(tuner.tokenize(encoder, texts));
  TAILOR_TRY(tuner.run(progress));
  encoder.net()->update_fingerprint();
  return std::move(tuner.curve());
} catch (const std::exception& error) {  // libtorch's door
  return fail(ErrorCode::kDeviceFailure, std::string("training: ") + error.what());
}

}  // namespace

Result<StagedHead> train_in_stages(const PromptFeatures& features,
                                   std::span<const std::string> texts, FeatureTable& table,
                                   HeadInfo& info, const TrainOptions& train,
                                   const TuneOptions& tune,
                                   const std::function<bool(const TrainProgress&)>& progress,
                                   const std::function<Result<std::vector<float>>()>& compute) {
  TAILOR_CHECK(texts.size() == table.rows.size(), "a text for every row");
  StagedHead out;
  if (tune.layers > 0) {
    if (features.encoder() == nullptr)
      return fail(ErrorCode::kInvalidArgument,
                  "tuning needs an encoder, found features " + features.name());
    TAILOR_ASSIGN(out.tuning,
                  tune_encoder(*features.encoder(), texts, table, info, train, tune, progress));
    TAILOR_ASSIGN(table.features, compute ? compute() : features.compute(texts));
    info.encoder_fingerprint = features.encoder_fingerprint();
  }
  TAILOR_ASSIGN(out.head, train_head(table, info, train, progress));
  return out;
}

Result<void> save_tuned_layers(const Encoder& encoder, const TuneOptions& tune,
                               const std::string& path) {
  SafetensorsWriter writer;
  for (const auto& [name, tensor] : tuned_parameters(encoder, tune)) {
    const at::Tensor half = tensor.detach().to(at::kHalf).contiguous();
    writer.add_half(
        name, half.sizes().vec(),
        {static_cast<const uint16_t*>(half.const_data_ptr()), static_cast<size_t>(half.numel())});
  }
  writer.metadata()["format"] = "tailor-tuned-encoder-1";
  writer.metadata()["fingerprint"] = encoder.fingerprint();
  return writer.write(path);
}

}  // namespace tailor::predict
