// TrainedPredictor: a prompt head with its encoder, behind the predictor's door. A folder holds
// NAME.safetensors (prompt.safetensors) and, where the encoder was tuned with that head, its tuned
// layers in NAME-encoder.safetensors. Owner: the predictor process's main thread.
#pragma once

#include <memory>
#include <string>

#include "base/result.h"
#include "predict/length_head.h"
#include "predict/model/prompt_features.h"
#include "predict/prompt_predictor.h"

namespace tailor::predict {

/// Where the tuned layers of a head's encoder stand; the file need not be there.
std::string tuned_encoder_file(const std::string& head_file);
bool is_tuned_encoder_file(const std::string& file);

/// What PromptFeatures::open needs for the head in `head_file`: its features, with the encoder in
/// folder `encoder` instead of the named one unless that is empty, and its tuned layers' file,
/// empty where there is none.
struct HeadFeatures {
  std::string what, overlay;
};
HeadFeatures features_of_head(const HeadInfo& info, const std::string& head_file,
                              const std::string& encoder);

class TrainedPredictor final : public PromptPredictor {
 public:
  /// `head_file` in the folder. `encoder`: minilm or a Hugging Face folder, empty = the one that
  /// the head names. Errors: NotFound, DataLoss, InvalidArgument (a head for something else than
  /// prompts; an encoder with other weights than the head was trained with).
  static Result<std::unique_ptr<TrainedPredictor>> load(
      const std::string& folder, int threads, const std::string& encoder = "",
      const std::string& head_file = "prompt.safetensors");

  const LengthHead& head() const { return head_; }
  const PromptFeatures& features() const { return features_; }
  std::vector<LengthLaw> predict(std::span<const std::string> prompts) override;

 private:
  TrainedPredictor(LengthHead head, PromptFeatures features)
      : head_(std::move(head)), features_(std::move(features)) {}
  const LengthHead head_;
  const PromptFeatures features_;
};

}  // namespace tailor::predict
