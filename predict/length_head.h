// LengthHead: the small network that turns features (of a prompt, or of a hidden state of the
// served model) into the law of an answer's length. Inference only, without torch; predict/model
// trains it, and both keep to this one description of the arithmetic:
//
//   z = (x - mean) / deviation, held to [-10, 10]
//   trunk: any number of Linear -> LayerNorm -> GELU (the exact one)
//   log-t: two separate stacks Linear -> (GELU -> Linear) end in one number each,
//          mu = target_mean[0] + target_deviation[0] a,
//          ln(1 + sigma) = target_mean[1] + target_deviation[1] b
//   histogram: one stack ends in 32 logits, softmax(logits / temperature)
//
// A head may hold several members (the same network trained from other seeds): their numbers before
// the recalibration, or their probabilities, are averaged. The recalibration (scheduling by TIE,
// arXiv 2604.00499, with the error of mu folded into sigma) is part of the file:
//
//   mu' = mu_scale mu + mu_shift                        (shrinks towards the population)
//   sigma'^2 = exp(2 (sigma_scale ln sigma + sigma_shift)) + error_variance (nu - 2) / nu
//
// A file is one safetensors file whose metadata names everything else. Immutable after load: any
// thread may predict.
#pragma once

#include <array>
#include <span>
#include <string>
#include <vector>

#include "base/length_law.h"
#include "base/result.h"

namespace tailor::predict {

struct HeadInfo {
  /// "prompt", "probe" (hidden state of the last prompt token) or "remaining" (of a generated one:
  /// the law of what is to come)
  std::string kind;
  std::string encoder;              ///< what makes the input, e.g. "minilm+lexical", "hidden"
  std::string encoder_fingerprint;  ///< of the encoder's weights; empty where there is none
  std::string model_fingerprint;    ///< of the model whose lengths it learned; empty = any
  std::string model_name;
  int layer = -1;                ///< of "hidden": after how many layers
  bool takes_generated = false;  ///< the last input is ln(1 + tokens generated)
  int input_size = 0;
  double nu = 3.5;
  LengthLaw population;  ///< of all training prompts together: the answer where there is none
  std::string trained_on;
};

/// y = W x + b. `weight` is [outputs, inputs], row-major, as torch's Linear has it.
struct HeadLinear {
  int inputs = 0, outputs = 0;
  std::vector<float> weight, bias;
};

struct HeadTrunkLayer {
  HeadLinear linear;
  std::vector<float> norm_weight, norm_bias;  ///< of the LayerNorm, epsilon 1e-5
};

/// One trained network. Either `mu` and `sigma` hold 1 or 2 layers each, or `bins` does.
struct HeadMember {
  std::vector<HeadTrunkLayer> trunk;
  std::vector<HeadLinear> mu, sigma, bins;
};

struct HeadRecalibration {
  double mu_scale = 1, mu_shift = 0;
  double sigma_scale = 1, sigma_shift = 0;
  double error_variance = 0;
  double temperature = 1;  ///< of a histogram's logits
};

/// All that a head's file holds.
struct HeadWeights {
  HeadInfo info;
  std::vector<float> mean, deviation;  ///< [input_size]
  std::vector<HeadMember> members;     ///< at least 1, all of one shape
  std::array<double, 2> target_mean{0, 0}, target_deviation{1, 1};
  double low = 1, high = 1;  ///< of a histogram's bins, tokens
  HeadRecalibration recalibration;
};

class LengthHead {
 public:
  static constexpr int kMaxWidth = 1024;  ///< of a hidden layer: what predict() keeps on its stack

  /// Errors: NotFound; InvalidArgument (no head file, or a newer one); DataLoss (damaged: names the
  /// tensor or entry).
  static Result<LengthHead> load(const std::string& path);
  /// Checks that all shapes fit each other and all numbers are finite.
  static Result<LengthHead> make(HeadWeights weights, const std::string& name = "head");

  const HeadInfo& info() const { return weights_.info; }
  const HeadWeights& weights() const { return weights_; }
  bool is_histogram() const { return !weights_.members.front().bins.empty(); }

  /// `features` [input_size]. Features that are not finite or not of that size give the population
  /// law. Cost: one multiply-add per weight; nothing is allocated.
  LengthLaw predict(std::span<const float> features) const;

 private:
  explicit LengthHead(HeadWeights weights);

  // The same weights, [inputs, outputs] one after the other: so products run along memory.
  struct Columns {
    int inputs = 0, outputs = 0;
    std::vector<float> weight;
    const float* bias = nullptr;
  };
  struct Member {
    std::vector<Columns> trunk, mu, sigma, bins;
  };
  void run_trunk(size_t member, std::span<const float> features, float* state,
                 float* scratch) const;
  void run_first(const Columns& layer, std::span<const float> features, float* out) const;
  void run_stack(const std::vector<Columns>& stack, std::span<const float> features,
                 const float* state, float* out) const;

  HeadWeights weights_;
  std::vector<Member> members_;
};

/// Replaces the file in one rename. Errors: Unavailable (cannot be written).
Result<void> save_head(const HeadWeights& weights, const std::string& path);

}  // namespace tailor::predict
