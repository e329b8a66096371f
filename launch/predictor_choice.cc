#include "launch/predictor_choice.h"

#include <unistd.h>

#include <filesystem>

#include "parallel/weights/default_model.h"
#include "parallel/weights/weight_files.h"

namespace tailor::launch {
namespace {

namespace fs = std::filesystem;

bool exists(const std::string& path) {
  std::error_code ignored;
  return fs::exists(path, ignored);
}

std::string trained_for(const std::string& model) {
  const std::string predictors = TAILOR_DATA_FOLDER "/predictors/";
  if (model == "default") return predictors + "default";
  if (!exists(predictors)) return "";
  auto files = weights::WeightFiles::open(model);
  return files ? predictors + (*files)->fingerprint() : "";
}

}  // namespace

Result<std::string> choose_predictor(const std::string& asked, const std::string& model,
                                     const std::string& program_folder) {
  if (asked == "none") return asked;
  const bool program = access((program_folder + "/tailor-predictor").c_str(), X_OK) == 0;
  if (asked == "auto") {
    const std::string folder = trained_for(model);
    const bool complete = program && !folder.empty() && exists(folder + "/" + kPromptHeadFile) &&
                          exists(weights::cache_folder() + "/models/minilm");
    return complete ? folder : std::string("none");
  }
  if (!program)
    return fail(ErrorCode::kNotFound, "--predictor " + asked + " needs " + program_folder +
                                          "/tailor-predictor, which was not built");
  if (asked == "prompt-length" || asked.rfind("constant:", 0) == 0) return asked;
  if (!exists(asked + "/" + kPromptHeadFile))
    return fail(ErrorCode::kNotFound, "no predictor at " + asked + ": expected a folder with " +
                                          kPromptHeadFile + ", auto or none");
  return fs::absolute(asked).lexically_normal().string();
}

std::string choose_probe(const std::string& predictor, const std::string& model) {
  if (predictor == "none") return "";
  const std::string folder = predictor == "auto" ? trained_for(model)
                             : exists(predictor)
                                 ? fs::absolute(predictor).lexically_normal().string()
                                 : std::string();
  if (folder.empty()) return "";
  return exists(folder + "/probe.safetensors") || exists(folder + "/remaining.safetensors") ? folder
                                                                                            : "";
}

}  // namespace tailor::launch
