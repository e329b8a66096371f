// HeadNet: the network of a length head while it is trained; predict/length_head.h says what it
// computes. Sources of predict/model (and its tests) only. Owner: one thread.
#pragma once

#include <ATen/ATen.h>

#include <string>
#include <utility>
#include <vector>

#include "predict/length_head.h"

namespace tailor::predict {

struct HeadShape {
  int inputs = 0;
  std::vector<int> trunk;  ///< widths, e.g. {256, 256}; empty = linear in the features
  int stack = 0;           ///< width of each head's own layer, e.g. 128; 0 = none
  bool histogram = false;
  double trunk_dropout = 0.2, stack_dropout = 0.1;
};

class HeadNet {
 public:
  /// Weights as torch.nn.Linear draws them, from torch's global generator.
  explicit HeadNet(const HeadShape& shape);

  struct Output {
    at::Tensor mu, sigma;  ///< [n] in target units; undefined for a histogram
    at::Tensor logits;     ///< [n, 32]
  };
  /// `z` [n, inputs]: z-scored. With `training` the dropout is drawn.
  Output forward(const at::Tensor& z, bool training) const;

  /// By name, in one order: for the optimizer and the checkpoint.
  std::vector<std::pair<std::string, at::Tensor>>& parameters() { return parameters_; }
  HeadMember to_member() const;

 private:
  struct Linear {
    at::Tensor weight, bias;
  };
  struct Trunk {
    Linear linear;
    at::Tensor norm_weight, norm_bias;
  };
  Linear add_linear(const std::string& name, int inputs, int outputs);
  std::vector<Linear> add_stack(const std::string& name, int inputs, int outputs);
  at::Tensor run_stack(const std::vector<Linear>& stack, at::Tensor x, bool training) const;

  HeadShape shape_;
  std::vector<Trunk> trunk_;
  std::vector<Linear> mu_, sigma_, bins_;
  std::vector<std::pair<std::string, at::Tensor>> parameters_;
};

/// AdamW (Loshchilov and Hutter 2019) over a HeadNet's or an encoder's parameters; decay acts on
/// matrices only. Its state is plain tensors, for the checkpoint.
class AdamW {
 public:
  /// `rates`: of each parameter, as a multiple of the learning rate; empty = 1.
  AdamW(std::vector<std::pair<std::string, at::Tensor>> parameters, double weight_decay,
        std::vector<double> rates = {})
      : parameters_(std::move(parameters)), rates_(std::move(rates)), weight_decay_(weight_decay) {
    rates_.resize(parameters_.size(), 1);
    for (auto& [name, value] : parameters_) {
      first_.push_back(at::zeros_like(value));
      second_.push_back(at::zeros_like(value));
    }
  }
  /// One step with the gradients that are there, scaled down to norm `clip` together; clears them.
  void step(double learning_rate, double clip);
  int64_t& steps() { return steps_; }
  int64_t steps() const { return steps_; }
  const std::vector<at::Tensor>& first() const { return first_; }
  const std::vector<at::Tensor>& second() const { return second_; }

 private:
  std::vector<std::pair<std::string, at::Tensor>> parameters_;
  std::vector<at::Tensor> first_, second_;
  std::vector<double> rates_;
  double weight_decay_;
  int64_t steps_ = 0;
};

}  // namespace tailor::predict
