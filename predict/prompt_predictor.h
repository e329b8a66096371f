// PromptPredictor: the door to whatever says, from a prompt's text, how long its answer will be.
// Virtual because a network of its own stands behind it (encoder and head, predict/model/), or in
// tests something simple. Owner: the predictor process's main thread.
#pragma once

#include <algorithm>
#include <cmath>
#include <span>
#include <string>
#include <vector>

#include "base/length_law.h"
#include "tie/law.h"

namespace tailor::predict {

class PromptPredictor {
 public:
  virtual ~PromptPredictor() = default;
  /// One law per prompt, in order; kind none where it has no idea. Any text is a prompt: empty,
  /// longer than the encoder reads, in any script, not UTF-8.
  virtual std::vector<LengthLaw> predict(std::span<const std::string> prompts) = 0;
};

/// The same law for every prompt.
class ConstantPredictor final : public PromptPredictor {
 public:
  explicit ConstantPredictor(const LengthLaw& law) : law_(law) {}
  std::vector<LengthLaw> predict(std::span<const std::string> prompts) override {
    return std::vector<LengthLaw>(prompts.size(), law_);
  }

 private:
  const LengthLaw law_;
};

/// Expects an answer of as many tokens as the prompt has (four bytes each), give or take a factor
/// e: knows nothing of language, and tells prompts apart.
class PromptLengthPredictor final : public PromptPredictor {
 public:
  std::vector<LengthLaw> predict(std::span<const std::string> prompts) override {
    std::vector<LengthLaw> laws;
    laws.reserve(prompts.size());
    for (const std::string& prompt : prompts)
      laws.push_back(
          tie::log_t(std::log(std::max(1.0, static_cast<double>(prompt.size()) / 4)), 1.0));
    return laws;
  }
};

}  // namespace tailor::predict
