#include "predict/model/trained_predictor.h"

#include <filesystem>
#include <string_view>

namespace tailor::predict {
namespace {

constexpr std::string_view kEnd = ".safetensors", kTuned = "-encoder.safetensors";

}  // namespace

std::string tuned_encoder_file(const std::string& head_file) {
  const std::string_view stem = std::string_view(head_file).substr(
      0, head_file.size() - (head_file.ends_with(kEnd) ? kEnd.size() : 0));
  return std::string(stem).append(kTuned);
}

bool is_tuned_encoder_file(const std::string& file) { return file.ends_with(kTuned); }

HeadFeatures features_of_head(const HeadInfo& info, const std::string& head_file,
                              const std::string& encoder) {
  HeadFeatures out{info.encoder, ""};
  if (info.encoder == "lexical") return out;
  if (!encoder.empty()) out.what = encoder + (info.encoder.ends_with("+lexical") ? "+lexical" : "");
  const std::string tuned = tuned_encoder_file(head_file);
  if (std::filesystem::exists(tuned)) out.overlay = tuned;
  return out;
}

Result<std::unique_ptr<TrainedPredictor>> TrainedPredictor::load(const std::string& folder,
                                                                 int threads,
                                                                 const std::string& encoder,
                                                                 const std::string& head_file) {
  const std::string path = folder + "/" + head_file;
  TAILOR_ASSIGN(LengthHead head, LengthHead::load(path));
  const HeadInfo& info = head.info();
  if (info.kind != "prompt")
    return fail(ErrorCode::kInvalidArgument,
                path + ": expected a head for prompts, found one of kind " + info.kind);
  const HeadFeatures from = features_of_head(info, path, encoder);
  TAILOR_ASSIGN(PromptFeatures features, PromptFeatures::open(from.what, threads, from.overlay));
  if (features.size() != info.input_size ||
      features.encoder_fingerprint() != info.encoder_fingerprint)
    return fail(
        ErrorCode::kInvalidArgument,
        path + " was trained with encoder " + info.encoder + " (" + info.encoder_fingerprint +
            "), found another one (" + features.encoder_fingerprint() + ")" +
            (from.overlay.empty() ? "; layers tuned with it belong in " + tuned_encoder_file(path)
                                  : ""));
  return std::unique_ptr<TrainedPredictor>(
      new TrainedPredictor(std::move(head), std::move(features)));
}

std::vector<LengthLaw> TrainedPredictor::predict(std::span<const std::string> prompts) {
  std::vector<LengthLaw> laws(prompts.size(), head_.info().population);
  const auto features = features_.compute(prompts);
  if (!features) return laws;  // out of memory: the population stands in
  const auto width = static_cast<size_t>(features_.size());
  for (size_t i = 0; i < prompts.size(); ++i)
    laws[i] = head_.predict(std::span(*features).subspan(i * width, width));
  return laws;
}

}  // namespace tailor::predict
