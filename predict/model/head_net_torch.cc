#include "predict/model/head_net_torch.h"

#include <ATen/core/grad_mode.h>

#include <cmath>

namespace tailor::predict {
namespace {

constexpr double kBeta1 = 0.9, kBeta2 = 0.999, kEpsilon = 1e-8;

std::vector<float> values_of(const at::Tensor& tensor) {
  const at::Tensor flat = tensor.detach().to(at::kFloat).contiguous();
  return {flat.const_data_ptr<float>(), flat.const_data_ptr<float>() + flat.numel()};
}

}  // namespace

HeadNet::HeadNet(const HeadShape& shape) : shape_(shape) {
  int width = shape.inputs;
  for (size_t i = 0; i < shape.trunk.size(); ++i) {
    const std::string name = "trunk." + std::to_string(i);
    Trunk layer{add_linear(name, width, shape.trunk[i]), {}, {}};
    layer.norm_weight = at::ones({shape.trunk[i]}).requires_grad_(true);
    layer.norm_bias = at::zeros({shape.trunk[i]}).requires_grad_(true);
    parameters_.emplace_back(name + ".norm.weight", layer.norm_weight);
    parameters_.emplace_back(name + ".norm.bias", layer.norm_bias);
    trunk_.push_back(std::move(layer));
    width = shape.trunk[i];
  }
  if (shape.histogram) {
    bins_ = add_stack("bins", width, LengthLaw::kBins);
  } else {
    mu_ = add_stack("mu", width, 1);
    sigma_ = add_stack("sigma", width, 1);
  }
}

HeadNet::Linear HeadNet::add_linear(const std::string& name, int inputs, int outputs) {
  const double bound = 1 / std::sqrt(static_cast<double>(inputs));
  Linear layer{at::empty({outputs, inputs}).uniform_(-bound, bound),
               at::empty({outputs}).uniform_(-bound, bound)};
  layer.weight.requires_grad_(true), layer.bias.requires_grad_(true);
  parameters_.emplace_back(name + ".weight", layer.weight);
  parameters_.emplace_back(name + ".bias", layer.bias);
  return layer;
}

std::vector<HeadNet::Linear> HeadNet::add_stack(const std::string& name, int inputs, int outputs) {
  std::vector<Linear> stack;
  if (shape_.stack > 0) {
    stack.push_back(add_linear(name + ".0", inputs, shape_.stack));
    stack.push_back(add_linear(name + ".1", shape_.stack, outputs));
  } else {
    stack.push_back(add_linear(name + ".0", inputs, outputs));
  }
  // Starts near nothing said: the first steps move the mean, not a random function.
  at::NoGradGuard no_grad;
  stack.back().weight.mul_(0.1);
  stack.back().bias.zero_();
  return stack;
}

at::Tensor HeadNet::run_stack(const std::vector<Linear>& stack, at::Tensor x, bool training) const {
  for (size_t i = 0; i < stack.size(); ++i) {
    x = at::linear(x, stack[i].weight, stack[i].bias);
    if (i + 1 < stack.size()) x = at::dropout(at::gelu(x), shape_.stack_dropout, training);
  }
  return x;
}

HeadNet::Output HeadNet::forward(const at::Tensor& z, bool training) const {
  at::Tensor x = z;
  for (const Trunk& layer : trunk_) {
    x = at::linear(x, layer.linear.weight, layer.linear.bias);
    x = at::layer_norm(x, {x.size(-1)}, layer.norm_weight, layer.norm_bias, 1e-5);
    x = at::dropout(at::gelu(x), shape_.trunk_dropout, training);
  }
  if (shape_.histogram) return {{}, {}, run_stack(bins_, x, training)};
  return {run_stack(mu_, x, training).squeeze(-1), run_stack(sigma_, x, training).squeeze(-1), {}};
}

HeadMember HeadNet::to_member() const {
  const auto linear = [](const Linear& layer) {
    return HeadLinear{static_cast<int>(layer.weight.size(1)),
                      static_cast<int>(layer.weight.size(0)), values_of(layer.weight),
                      values_of(layer.bias)};
  };
  const auto stack = [&](const std::vector<Linear>& layers) {
    std::vector<HeadLinear> out;
    for (const Linear& layer : layers) out.push_back(linear(layer));
    return out;
  };
  HeadMember member;
  for (const Trunk& layer : trunk_)
    member.trunk.push_back(
        {linear(layer.linear), values_of(layer.norm_weight), values_of(layer.norm_bias)});
  member.mu = stack(mu_), member.sigma = stack(sigma_), member.bins = stack(bins_);
  return member;
}

void AdamW::step(double learning_rate, double clip) {
  at::NoGradGuard no_grad;
  double square = 0;
  for (const auto& [name, value] : parameters_)
    if (value.grad().defined()) square += value.grad().square().sum().item<double>();
  const double norm = std::sqrt(square);
  const double scale = std::isfinite(norm) ? std::min(1.0, clip / (norm + 1e-6)) : 0;
  ++steps_;
  const double correct1 = 1 - std::pow(kBeta1, static_cast<double>(steps_));
  const double correct2 = 1 - std::pow(kBeta2, static_cast<double>(steps_));
  for (size_t i = 0; i < parameters_.size(); ++i) {
    at::Tensor& value = parameters_[i].second;
    if (!value.grad().defined()) continue;
    if (scale > 0) {
      const at::Tensor gradient = value.grad() * scale;
      first_[i].mul_(kBeta1).add_(gradient, 1 - kBeta1);
      second_[i].mul_(kBeta2).addcmul_(gradient, gradient, 1 - kBeta2);
      const double rate = learning_rate * rates_[i];
      if (value.dim() > 1) value.mul_(1 - rate * weight_decay_);
      const at::Tensor root = (second_[i] / correct2).sqrt_().add_(kEpsilon);
      value.addcdiv_(first_[i], root, -rate / correct1);
    }
    value.mutable_grad().zero_();
  }
}

}  // namespace tailor::predict
