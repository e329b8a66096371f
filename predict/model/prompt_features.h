// PromptFeatures: from prompts to what a prompt head reads: a sentence encoder's vector, lexical
// features, or both side by side. Owner: one thread.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "predict/model/encoder.h"

namespace tailor::predict {

class PromptFeatures {
 public:
  /// `what` is "lexical", "ENCODER" or "ENCODER+lexical", ENCODER being minilm or a Hugging Face
  /// folder. `overlay`: a file with tuned layers of the encoder, or empty. `threads`: of libtorch.
  /// Errors: InvalidArgument, and those of Encoder::load.
  static Result<PromptFeatures> open(const std::string& what, int threads,
                                     const std::string& overlay = "");

  int size() const;
  /// As heads name it: the encoder by its folder's last name.
  const std::string& name() const { return name_; }
  std::string encoder_fingerprint() const { return encoder_ ? encoder_->fingerprint() : ""; }
  const Encoder* encoder() const { return encoder_.get(); }  ///< null for lexical features alone
  bool lexical() const { return lexical_; }

  /// prompts [n] -> [n, size()]. Errors: those of Encoder::encode.
  Result<std::vector<float>> compute(std::span<const std::string> prompts) const;

 private:
  std::unique_ptr<Encoder> encoder_;
  bool lexical_ = false;
  std::string name_;
};

}  // namespace tailor::predict
