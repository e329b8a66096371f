#include "predict/model/training_data_torch.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "predict/model/losses_torch.h"
#include "tie/fit.h"

namespace tailor::predict {
namespace {

constexpr double kInputLimit = 10;  // as LengthHead's
constexpr double kSigmaLow = 0.02;
/// Lengths are whole: what is narrower than this fraction of a token cannot be told.
constexpr double kWholeToken = 0.29;

at::Tensor index_of(const std::vector<int64_t>& rows) {
  return at::tensor(rows, at::TensorOptions().dtype(at::kLong));
}

// What of each bin's mass was seen.
void fill_bins(float* share, double length, bool cut, double low, double high) {
  const int last = LengthLaw::kBins - 1;
  const double place =
      std::log(std::max(length, low) / low) / std::log(high / low) * LengthLaw::kBins;
  const int bin = std::clamp(static_cast<int>(place), 0, last);
  share[bin] = 1;
  if (!cut) return;
  share[bin] = static_cast<float>(std::clamp(bin + 1 - place, bin == last ? 1.0 : 0.0, 1.0));
  for (int b = bin + 1; b <= last; ++b) share[b] = 1;
}

}  // namespace

Result<TrainingData> TrainingData::make(const FeatureTable& table, const TrainOptions& options,
                                        HeadWeights& weights) {
  TrainingData data(options);
  for (size_t i = 0; i < table.rows.size(); ++i) {
    if (table.rows[i].split == Split::kTrain) data.train_.push_back(static_cast<int64_t>(i));
    if (table.rows[i].split == Split::kValidation)
      data.validation_.push_back(static_cast<int64_t>(i));
  }
  if (data.train_.size() < 2 || data.validation_.empty())
    return fail(ErrorCode::kInvalidArgument,
                "training needs at least 2 train and 1 validation prompts, found " +
                    std::to_string(data.train_.size()) + " and " +
                    std::to_string(data.validation_.size()));
  TAILOR_TRY(data.read_rows(table));

  // z-scores, by the train rows alone.
  const int64_t width = table.width;
  const at::Tensor x = at::from_blob(const_cast<float*>(table.features.data()),
                                     {static_cast<int64_t>(table.rows.size()), width});
  if (!at::isfinite(x).all().item<bool>())
    return fail(ErrorCode::kInvalidArgument, "features must be finite, found others");
  const at::Tensor train = x.index_select(0, index_of(data.train_)).to(at::kDouble);
  at::Tensor deviation = train.std(0, /*unbiased=*/false);
  deviation = at::where(deviation > 1e-6, deviation, at::ones_like(deviation));
  data.mean_ = train.mean(0).to(at::kFloat), data.deviation_ = deviation.to(at::kFloat);
  weights.mean.assign(data.mean_.const_data_ptr<float>(),
                      data.mean_.const_data_ptr<float>() + width);
  weights.deviation.assign(data.deviation_.const_data_ptr<float>(),
                           data.deviation_.const_data_ptr<float>() + width);
  data.z_ = data.normalise(x);

  if (options.objective == Objective::kPaper || options.weighted_sampling) data.fit_rows(table);
  data.set_targets(weights);
  return data;
}

Result<void> TrainingData::read_rows(const FeatureTable& table) {
  const bool one = options_.objective == Objective::kSsjf || options_.objective == Objective::kLtr;
  const size_t wanted = one ? 1 : static_cast<size_t>(std::max(0, options_.answers));
  size_t answers = 1;
  const auto used = [&](const FeatureRow& row) {
    return wanted > 0 ? std::min(wanted, row.lengths.size()) : row.lengths.size();
  };
  for (const FeatureRow& row : table.rows) {
    if (row.lengths.empty() || row.lengths.size() != row.censored.size())
      return fail(ErrorCode::kInvalidArgument, "prompt " + row.id + " has no lengths");
    answers = std::max(answers, used(row));
  }
  const auto n = static_cast<int64_t>(table.rows.size()), s = static_cast<int64_t>(answers);
  y_ = at::zeros({n, s}), share_ = at::zeros({n, s}), cut_ = at::zeros({n, s}, at::kBool);
  for (int64_t i = 0; i < n; ++i) {
    const FeatureRow& row = table.rows[static_cast<size_t>(i)];
    for (size_t k = 0; k < used(row); ++k) {
      const int64_t place = i * s + static_cast<int64_t>(k);
      y_.mutable_data_ptr<float>()[place] =
          std::log(static_cast<float>(std::max(1u, row.lengths[k])));
      cut_.mutable_data_ptr<bool>()[place] = row.censored[k];
      share_.mutable_data_ptr<float>()[place] = 1 / static_cast<float>(used(row));
    }
  }
  row_weight_.assign(table.rows.size(), 1);
  return {};
}

void TrainingData::fit_rows(const FeatureTable& table) {
  const auto n = static_cast<int64_t>(table.rows.size());
  fits_ = at::full({n, 2}, std::nanf(""));
  for (int64_t i = 0; i < n; ++i) {
    const FeatureRow& row = table.rows[static_cast<size_t>(i)];
    std::vector<tie::LengthSample> samples;
    for (size_t k = 0; k < row.lengths.size(); ++k)
      samples.push_back({static_cast<double>(std::max(1u, row.lengths[k])), row.censored[k]});
    const auto own = tie::fit(tie::Family::kLogT, samples, options_.nu);
    if (!own) continue;
    const double sigma = std::clamp(own->law.sigma, kSigmaLow, 4.0), mu = own->law.mu;
    float* const out = fits_.mutable_data_ptr<float>() + i * 2;
    out[0] = static_cast<float>(mu), out[1] = static_cast<float>(std::log1p(sigma));
    if (options_.weighted_sampling)
      row_weight_[static_cast<size_t>(i)] =
          mu > 6 || sigma > 1.3 ? 2 : (mu > 5.5 || sigma > 1 ? 1.5 : 1);
  }
}

void TrainingData::set_targets(HeadWeights& weights) {
  const at::Tensor at = index_of(train_);
  const at::Tensor y = y_.index_select(0, at).to(at::kDouble);
  const at::Tensor share = share_.index_select(0, at).to(at::kDouble);
  const double total = share.sum().item<double>();
  const double mean = (y * share).sum().item<double>() / total;
  const double deviation =
      std::max(0.05, std::sqrt(((y - mean).square() * share).sum().item<double>() / total));
  target_mean_ = {mean, std::log1p(0.6 * deviation)};
  target_deviation_ = {deviation, 0.3};
  if (options_.objective == Objective::kPaper) {
    const at::Tensor fits = fits_.index_select(0, at).to(at::kDouble);
    const at::Tensor known = at::nonzero(at::isfinite(fits.select(1, 0))).squeeze(1);
    const at::Tensor kept = fits.index_select(0, known);
    for (int64_t i = 0; known.numel() > 1 && i < 2; ++i) {
      target_mean_[static_cast<size_t>(i)] = kept.select(1, i).mean().item<double>();
      target_deviation_[static_cast<size_t>(i)] =
          std::max(1e-3, kept.select(1, i).std(false).item<double>());
    }
  }
  weights.target_mean = target_mean_, weights.target_deviation = target_deviation_;

  // The population: one law for the answers of all training prompts.
  std::vector<tie::LengthSample> samples;
  double low = 1e9, high = 1;
  for (const int64_t row : train_) {
    for (int64_t k = 0; k < y_.size(1); ++k) {
      const int64_t place = row * y_.size(1) + k;
      if (share_.const_data_ptr<float>()[place] == 0) continue;
      const double length = std::exp(static_cast<double>(y_.const_data_ptr<float>()[place]));
      samples.push_back({length, cut_.const_data_ptr<bool>()[place]});
      low = std::min(low, length), high = std::max(high, length);
    }
  }
  weights.info.population = tie::log_t(mean, deviation, options_.nu);
  if (const auto law = tie::fit(tie::Family::kLogT, samples, options_.nu))
    weights.info.population = law->law.to_length_law();

  // Bins from the shortest to twice the longest: what is cut at the limit has a bin to lie in.
  weights.low = std::max(1.0, low - 0.5), weights.high = 2 * high;
  if (options_.objective != Objective::kHistogram) return;
  bins_ = at::zeros({y_.size(0), y_.size(1), LengthLaw::kBins});
  for (int64_t i = 0; i < y_.numel(); ++i)
    fill_bins(bins_.mutable_data_ptr<float>() + i * LengthLaw::kBins,
              std::exp(static_cast<double>(y_.const_data_ptr<float>()[i])),
              cut_.const_data_ptr<bool>()[i], weights.low, weights.high);
}

at::Tensor TrainingData::normalise(const at::Tensor& features) const {
  return at::clamp((features - mean_) / deviation_, -kInputLimit, kInputLimit);
}

at::Tensor TrainingData::inputs(const std::vector<int64_t>& rows) const {
  return z_.index_select(0, index_of(rows));
}

at::Tensor TrainingData::likelihood(const HeadNet::Output& output, const at::Tensor& at) const {
  const at::Tensor y = y_.index_select(0, at), share = share_.index_select(0, at);
  const at::Tensor mu = target_mean_[0] + target_deviation_[0] * output.mu.unsqueeze(1);
  const at::Tensor log1p_sigma =
      at::clamp(target_mean_[1] + target_deviation_[1] * output.sigma, std::log1p(kSigmaLow), 2.0);
  const at::Tensor sigma = at::expm1(log1p_sigma).unsqueeze(1);
  const at::Tensor seen = at::sqrt(sigma * sigma + at::square(kWholeToken * at::exp(-y)));
  const at::Tensor losses = log_t_loss(y.flatten(), cut_.index_select(0, at).flatten(),
                                       mu.expand_as(y).flatten(), seen.flatten(), math_);
  return (losses * share.flatten()).sum() / share.sum();
}

at::Tensor TrainingData::paper(const HeadNet::Output& output, const at::Tensor& at,
                               double progress) const {
  const at::Tensor fits = fits_.index_select(0, at);
  const at::Tensor known = at::nonzero(at::isfinite(fits.select(1, 0))).squeeze(1);
  const at::Tensor kept = fits.index_select(0, known);
  if (known.numel() == 0) return (output.mu * 0).sum();
  const auto error = [&](const at::Tensor& predicted, int64_t i) {
    const auto k = static_cast<size_t>(i);
    const at::Tensor target = (kept.select(1, i) - target_mean_[k]) / target_deviation_[k];
    return (predicted.index_select(0, known) - target).square().mean();
  };
  return error(output.mu, 0) + (3 + progress) * error(output.sigma, 1);
}

at::Tensor TrainingData::histogram(const HeadNet::Output& output, const at::Tensor& at) const {
  const at::Tensor share = share_.index_select(0, at);
  const at::Tensor bins = bins_.index_select(0, at);
  const at::Tensor logits = output.logits.unsqueeze(1).expand_as(bins);
  return (histogram_loss(logits, bins) * share).sum() / share.sum();
}

at::Tensor TrainingData::loss(const HeadNet::Output& output, const std::vector<int64_t>& rows,
                              double progress) const {
  const at::Tensor at = index_of(rows);
  const auto error = [&] {  // in deviations of ln length
    const at::Tensor mu = target_mean_[0] + target_deviation_[0] * output.mu.unsqueeze(1);
    return (y_.index_select(0, at) - mu) / target_deviation_[0];
  };
  const at::Tensor share = share_.index_select(0, at);
  switch (options_.objective) {
    case Objective::kLikelihood:
      return likelihood(output, at);
    case Objective::kPaper:
      return paper(output, at, progress);
    case Objective::kHistogram:
      return histogram(output, at);
    case Objective::kMedian:
      return (at::abs(error()) * share).sum() / share.sum();
    case Objective::kSsjf:
      return (error().square() * share).sum() / share.sum();
    case Objective::kLtr:
      return list_mle_loss(output.mu, y_.index_select(0, at).select(1, 0));
  }
  return {};
}

std::vector<int64_t> TrainingData::order(uint64_t seed) const {
  tie::UniformStream random(seed);
  std::vector<int64_t> out = train_;
  if (options_.weighted_sampling) {
    std::vector<double> until;
    double sum = 0;
    for (const int64_t row : train_) until.push_back(sum += row_weight_[static_cast<size_t>(row)]);
    for (int64_t& row : out) {
      const auto at = std::lower_bound(until.begin(), until.end(), random() * sum);
      row = train_[static_cast<size_t>(std::min<std::ptrdiff_t>(
          at - until.begin(), static_cast<std::ptrdiff_t>(train_.size()) - 1))];
    }
    return out;
  }
  for (size_t i = out.size(); i > 1; --i)
    std::swap(out[i - 1],
              out[std::min(i - 1, static_cast<size_t>(random() * static_cast<double>(i)))]);
  return out;
}

}  // namespace tailor::predict
