#include "predict/model/prompt_features.h"

#include <algorithm>

#include "predict/lexical.h"
#include "predict/model/encoder_torch.h"
#include "weights/default_model.h"

namespace tailor::predict {

Result<PromptFeatures> PromptFeatures::open(const std::string& what, int threads,
                                            const std::string& overlay) {
  PromptFeatures out;
  std::string encoder = what;
  const std::string suffix = "+lexical";
  if (what == "lexical") {
    out.lexical_ = true, encoder = "";
  } else if (what.size() > suffix.size() && what.ends_with(suffix)) {
    out.lexical_ = true, encoder.resize(what.size() - suffix.size());
  }
  if (encoder.empty() && !out.lexical_)
    return fail(ErrorCode::kInvalidArgument,
                "features are lexical, ENCODER or ENCODER+lexical, found \"" + what + "\"");
  out.name_ = "lexical";
  if (!encoder.empty()) {
    TAILOR_ASSIGN(const std::string folder, weights::resolve_encoder(encoder));
    TAILOR_ASSIGN(out.encoder_, Encoder::load(folder, threads));
    if (!overlay.empty()) TAILOR_TRY(out.encoder_->net()->overlay(overlay));
    out.name_ = out.encoder_->name() + (out.lexical_ ? suffix : "");
  }
  return out;
}

int PromptFeatures::size() const {
  return (encoder_ ? encoder_->feature_size() : 0) +
         (lexical_ ? static_cast<int>(kLexicalFeatures) : 0);
}

Result<std::vector<float>> PromptFeatures::compute(std::span<const std::string> prompts) const {
  std::vector<float> encoded;
  if (encoder_) {
    TAILOR_ASSIGN(encoded, encoder_->encode(prompts));
    if (!lexical_) return encoded;
  }
  const size_t width = encoder_ ? static_cast<size_t>(encoder_->feature_size()) : 0;
  std::vector<float> out;
  out.reserve(prompts.size() * static_cast<size_t>(size()));
  for (size_t i = 0; i < prompts.size(); ++i) {
    const auto row = encoded.begin() + static_cast<std::ptrdiff_t>(i * width);
    out.insert(out.end(), row, row + static_cast<std::ptrdiff_t>(width));
    const auto counted = lexical_features(prompts[i]);
    out.insert(out.end(), counted.begin(), counted.end());
  }
  return out;
}

}  // namespace tailor::predict
