#include "predict/length_head.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"

namespace tailor::predict {
namespace {

constexpr float kInputLimit = 10;
constexpr float kNormEpsilon = 1e-5f;
constexpr double kMuLow = -1, kMuHigh = 16, kSigmaLow = 0.02, kSigmaHigh = 4;

float gelu(float x) { return 0.5f * x * (1 + std::erf(x * 0.70710678118654752f)); }

void apply_norm(const HeadTrunkLayer& layer, float* x) {
  const int n = layer.linear.outputs;
  double mean = 0, square = 0;
  for (int i = 0; i < n; ++i) mean += x[i];
  mean /= n;
  for (int i = 0; i < n; ++i) square += (x[i] - mean) * (x[i] - mean);
  const auto scale = static_cast<float>(1 / std::sqrt(square / n + kNormEpsilon));
  for (int i = 0; i < n; ++i) {
    const float y = (x[i] - static_cast<float>(mean)) * scale;
    x[i] = gelu(y * layer.norm_weight[i] + layer.norm_bias[i]);
  }
}

bool all_finite(const std::vector<float>& values) {
  return std::all_of(values.begin(), values.end(), [](float x) { return std::isfinite(x); });
}

Result<void> check_linear(const HeadLinear& layer, int inputs, const std::string& what) {
  if (layer.inputs != inputs || layer.outputs < 1 || layer.outputs > LengthHead::kMaxWidth ||
      layer.weight.size() != static_cast<size_t>(layer.inputs) * layer.outputs ||
      layer.bias.size() != static_cast<size_t>(layer.outputs)) {
    return fail(ErrorCode::kDataLoss,
                what + ": expected a layer of " + std::to_string(inputs) + " inputs and at most " +
                    std::to_string(LengthHead::kMaxWidth) + " outputs, found " +
                    std::to_string(layer.inputs) + " and " + std::to_string(layer.outputs));
  }
  if (!all_finite(layer.weight) || !all_finite(layer.bias))
    return fail(ErrorCode::kDataLoss, what + ": expected finite numbers, found others");
  return {};
}

Result<void> check_stack(const std::vector<HeadLinear>& stack, int inputs, int outputs,
                         const std::string& what) {
  if (stack.empty() || stack.size() > 2 || stack.back().outputs != outputs) {
    return fail(ErrorCode::kDataLoss, what + ": expected one or two layers that end in " +
                                          std::to_string(outputs) + " outputs, found " +
                                          std::to_string(stack.size()) + " layers");
  }
  for (size_t i = 0; i < stack.size(); ++i) {
    TAILOR_TRY(check_linear(stack[i], inputs, what + "." + std::to_string(i)));
    inputs = stack[i].outputs;
  }
  return {};
}

Result<void> check_member(const HeadMember& member, int inputs, const std::string& what) {
  for (size_t i = 0; i < member.trunk.size(); ++i) {
    const HeadTrunkLayer& layer = member.trunk[i];
    const std::string name = what + ".trunk." + std::to_string(i);
    TAILOR_TRY(check_linear(layer.linear, inputs, name));
    inputs = layer.linear.outputs;
    for (const auto& norm : {layer.norm_weight, layer.norm_bias}) {
      if (norm.size() != static_cast<size_t>(inputs) || !all_finite(norm))
        return fail(ErrorCode::kDataLoss, name + ".norm: expected " + std::to_string(inputs) +
                                              " finite numbers, found " +
                                              std::to_string(norm.size()));
    }
  }
  if (!member.bins.empty()) {
    if (!member.mu.empty() || !member.sigma.empty())
      return fail(ErrorCode::kDataLoss, what + ": expected mu and sigma or bins, found both");
    return check_stack(member.bins, inputs, LengthLaw::kBins, what + ".bins");
  }
  TAILOR_TRY(check_stack(member.mu, inputs, 1, what + ".mu"));
  return check_stack(member.sigma, inputs, 1, what + ".sigma");
}

Result<void> check_numbers(const HeadWeights& w, const std::string& name) {
  const HeadRecalibration& r = w.recalibration;
  for (const double x : {w.target_mean[0], w.target_mean[1], w.target_deviation[0],
                         w.target_deviation[1], r.mu_scale, r.mu_shift, r.sigma_scale,
                         r.sigma_shift, r.error_variance, r.temperature, w.low, w.high}) {
    if (!std::isfinite(x))
      return fail(ErrorCode::kDataLoss, name + ": expected finite settings, found others");
  }
  if (!(w.info.nu > 0.5) || r.error_variance < 0 || !(r.temperature > 0))
    return fail(ErrorCode::kDataLoss,
                name +
                    ": expected nu above 0.5, an error variance of at least 0 and a temperature "
                    "above 0, found nu " +
                    std::to_string(w.info.nu) + ", error variance " +
                    std::to_string(r.error_variance) + ", temperature " +
                    std::to_string(r.temperature));
  const size_t inputs = static_cast<size_t>(std::max(0, w.info.input_size));
  if (inputs == 0 || w.mean.size() != inputs || w.deviation.size() != inputs ||
      !all_finite(w.mean) || !std::all_of(w.deviation.begin(), w.deviation.end(), [](float x) {
        return std::isfinite(x) && x > 0;
      })) {
    return fail(ErrorCode::kDataLoss,
                name + ": expected a finite mean and a deviation above 0 for each of " +
                    std::to_string(w.info.input_size) + " inputs, found " +
                    std::to_string(w.mean.size()) + " and " + std::to_string(w.deviation.size()));
  }
  return {};
}

// The recalibrated law of (mu, sigma).
LengthLaw log_t_law(const HeadWeights& w, double mu, double sigma) {
  const HeadRecalibration& r = w.recalibration;
  const double nu = w.info.nu;
  const double own = std::exp(r.sigma_scale * std::log(std::max(sigma, 1e-3)) + r.sigma_shift);
  const double spread = nu > 2 ? (nu - 2) / nu : 1;
  LengthLaw law;
  law.kind = LengthLaw::Kind::kLogT;
  law.mu = static_cast<float>(std::clamp(r.mu_scale * mu + r.mu_shift, kMuLow, kMuHigh));
  law.sigma = static_cast<float>(
      std::clamp(std::sqrt(own * own + r.error_variance * spread), kSigmaLow, kSigmaHigh));
  law.nu = static_cast<float>(nu);
  return law;
}

}  // namespace

Result<LengthHead> LengthHead::make(HeadWeights weights, const std::string& name) {
  TAILOR_TRY(check_numbers(weights, name));
  if (weights.members.empty())
    return fail(ErrorCode::kDataLoss, name + ": expected at least one member, found none");
  const bool histogram = !weights.members.front().bins.empty();
  for (size_t m = 0; m < weights.members.size(); ++m) {
    const std::string what = name + ": m" + std::to_string(m);
    TAILOR_TRY(check_member(weights.members[m], weights.info.input_size, what));
    if (weights.members[m].bins.empty() == histogram)
      return fail(ErrorCode::kDataLoss, what + ": expected all members to be of one shape");
  }
  if (histogram && !(weights.low > 0 && weights.high > weights.low))
    return fail(ErrorCode::kDataLoss, name + ": expected 0 < low < high, found " +
                                          std::to_string(weights.low) + " and " +
                                          std::to_string(weights.high));
  return LengthHead(std::move(weights));
}

LengthHead::LengthHead(HeadWeights weights) : weights_(std::move(weights)) {
  const auto columns = [](const HeadLinear& layer) {
    Columns out{layer.inputs, layer.outputs, std::vector<float>(layer.weight.size()),
                layer.bias.data()};
    for (int o = 0; o < layer.outputs; ++o)
      for (int i = 0; i < layer.inputs; ++i)
        out.weight[static_cast<size_t>(i) * layer.outputs + o] =
            layer.weight[static_cast<size_t>(o) * layer.inputs + i];
    return out;
  };
  for (const HeadMember& member : weights_.members) {
    Member& out = members_.emplace_back();
    for (const auto& layer : member.trunk) out.trunk.push_back(columns(layer.linear));
    for (const auto& layer : member.mu) out.mu.push_back(columns(layer));
    for (const auto& layer : member.sigma) out.sigma.push_back(columns(layer));
    for (const auto& layer : member.bins) out.bins.push_back(columns(layer));
  }
}

// A first layer: z-scores its input on the way.
void LengthHead::run_first(const Columns& layer, std::span<const float> features,
                           float* out) const {
  std::copy_n(layer.bias, layer.outputs, out);
  const float* row = layer.weight.data();
  for (int i = 0; i < layer.inputs; ++i, row += layer.outputs) {
    const float z = std::clamp((features[i] - weights_.mean[i]) / weights_.deviation[i],
                               -kInputLimit, kInputLimit);
    for (int o = 0; o < layer.outputs; ++o) out[o] += z * row[o];
  }
}

namespace {
void run_linear(int inputs, int outputs, const float* weight, const float* bias, const float* in,
                float* out) {
  std::copy_n(bias, outputs, out);
  for (int i = 0; i < inputs; ++i, weight += outputs)
    for (int o = 0; o < outputs; ++o) out[o] += in[i] * weight[o];
}
}  // namespace

void LengthHead::run_trunk(size_t member, std::span<const float> features, float* state,
                           float* scratch) const {
  const std::vector<Columns>& trunk = members_[member].trunk;
  for (size_t i = 0; i < trunk.size(); ++i) {
    const Columns& layer = trunk[i];
    if (i == 0) {
      run_first(layer, features, state);
    } else {
      std::copy_n(state, layer.inputs, scratch);
      run_linear(layer.inputs, layer.outputs, layer.weight.data(), layer.bias, scratch, state);
    }
    apply_norm(weights_.members[member].trunk[i], state);
  }
}

// `state` is null when there is no trunk: the stack reads the features themselves.
void LengthHead::run_stack(const std::vector<Columns>& stack, std::span<const float> features,
                           const float* state, float* out) const {
  std::array<float, kMaxWidth> hidden;
  const Columns& first = stack.front();
  float* const to = stack.size() == 1 ? out : hidden.data();
  if (state == nullptr) {
    run_first(first, features, to);
  } else {
    run_linear(first.inputs, first.outputs, first.weight.data(), first.bias, state, to);
  }
  if (stack.size() == 1) return;
  const Columns& last = stack.back();
  for (int i = 0; i < first.outputs; ++i) hidden[i] = gelu(hidden[i]);
  run_linear(last.inputs, last.outputs, last.weight.data(), last.bias, hidden.data(), out);
}

LengthLaw LengthHead::predict(std::span<const float> features) const {
  const HeadWeights& w = weights_;
  if (features.size() != static_cast<size_t>(w.info.input_size) ||
      !std::all_of(features.begin(), features.end(), [](float x) { return std::isfinite(x); }))
    return w.info.population;
  std::array<float, kMaxWidth> state, scratch;
  std::array<float, LengthLaw::kBins> out;
  std::array<double, LengthLaw::kBins> bins{};
  double a = 0, b = 0;
  for (size_t m = 0; m < members_.size(); ++m) {
    const Member& member = members_[m];
    const float* trunk = nullptr;
    if (!member.trunk.empty()) {
      run_trunk(m, features, state.data(), scratch.data());
      trunk = state.data();
    }
    if (!member.bins.empty()) {
      run_stack(member.bins, features, trunk, out.data());
      const float top = *std::max_element(out.begin(), out.end());
      double sum = 0;
      std::array<double, LengthLaw::kBins> own;
      for (int i = 0; i < LengthLaw::kBins; ++i)
        sum += own[i] = std::exp((out[i] - top) / w.recalibration.temperature);
      for (int i = 0; i < LengthLaw::kBins; ++i)
        bins[i] += own[i] / sum / static_cast<double>(members_.size());
    } else {
      run_stack(member.mu, features, trunk, out.data());
      a += out[0] / static_cast<double>(members_.size());
      run_stack(member.sigma, features, trunk, out.data());
      b += out[0] / static_cast<double>(members_.size());
    }
  }
  if (is_histogram()) {
    LengthLaw law;
    law.kind = LengthLaw::Kind::kHistogram;
    law.low = static_cast<float>(w.low);
    law.high = static_cast<float>(w.high);
    for (int i = 0; i < LengthLaw::kBins; ++i) law.bins[i] = static_cast<float>(bins[i]);
    return std::isfinite(bins[0]) ? law : w.info.population;
  }
  const double mu = w.target_mean[0] + w.target_deviation[0] * a;
  const double sigma = std::expm1(std::min(w.target_mean[1] + w.target_deviation[1] * b, 10.0));
  if (!std::isfinite(mu) || !std::isfinite(sigma)) return w.info.population;
  return log_t_law(w, mu, sigma);
}

}  // namespace tailor::predict
