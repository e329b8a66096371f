#include "launch/predictor_choice.h"

#include <unistd.h>

#include <array>
#include <filesystem>
#include <memory>
#include <vector>

#include "base/model_stamp.h"
#include "predict/length_head.h"
#include "weights/default_model.h"
#include "weights/weight_files.h"

namespace tailor::launch {
namespace {

namespace fs = std::filesystem;

constexpr std::array kProbeFiles = {"probe.safetensors", "remaining.safetensors"};

bool exists(const std::string& path) {
  std::error_code ignored;
  return fs::exists(path, ignored);
}

/// The model as it is opened when first asked for; null where it cannot be: the ranks say why.
class Model {
 public:
  explicit Model(const std::string& name) : name_(name) {}
  const weights::WeightFiles* files() {
    if (!std::exchange(tried_, true)) {
      const auto path = weights::resolve_model(name_);
      auto opened = path ? weights::WeightFiles::open(*path) : fail(path.error());
      if (opened) files_ = std::move(*opened);
    }
    return files_.get();
  }

 private:
  const std::string name_;
  bool tried_ = false;
  std::unique_ptr<weights::WeightFiles> files_;
};

std::string trained_for(const std::string& name, Model& model) {
  const std::string predictors = TAILOR_DATA_FOLDER "/predictors/";
  if (name == "default") return predictors + "default";
  if (!exists(predictors) || !model.files()) return "";
  const std::string older = predictors + model.files()->sampled_fingerprint();
  return exists(older) ? older : predictors + model.files()->fingerprint();
}

/// What stands against using the head in `path` with the model; empty = nothing.
std::string misfit(const std::string& path, Model& model) {
  if (!exists(path) || !model.files()) return "";
  const auto head = predict::LengthHead::load(path);
  if (!head || stamp_fits(head->info().model_fingerprint, model.files()->fingerprint())) return "";
  return head->info().model_fingerprint;
}

}  // namespace

Result<PredictorChoice> choose_predictor(const PredictorQuestion& q) {
  PredictorChoice out{"none", "", ""};
  if (q.asked == "none") return out;
  Model model(q.model);
  const bool found = q.asked == "auto";
  const std::string folder = found             ? trained_for(q.model, model)
                             : exists(q.asked) ? fs::absolute(q.asked).lexically_normal().string()
                                               : std::string();
  std::string other, not_used;
  const auto fits = [&](const char* file) {
    std::string made_with = q.random_weights ? "" : misfit(folder + "/" + file, model);
    if (made_with.empty()) return true;
    other = std::move(made_with);
    return false;
  };
  if (!folder.empty()) {
    bool probe = false, all = true;
    for (const char* file : kProbeFiles) {
      probe = probe || exists(folder + "/" + file);
      all = fits(file) && all;
    }
    if (probe && all) out.probe = folder;
    if (!all) not_used = "its probe is not used";
  }
  const bool program = access((q.program_folder + "/tailor-predictor").c_str(), X_OK) == 0;
  const bool head = !folder.empty() && exists(folder + "/" + kPromptHeadFile);
  if (found) {
    const bool same = head && fits(kPromptHeadFile);
    if (same && program && exists(weights::cache_folder() + "/models/minilm"))
      out.predictor = folder;
    if (head && !same) not_used = "none of it is used";
  } else if (!program) {
    return fail(ErrorCode::kNotFound, "--predictor " + q.asked + " needs " + q.program_folder +
                                          "/tailor-predictor, which was not built");
  } else if (q.asked == "prompt-length" || q.asked.rfind("constant:", 0) == 0) {
    out.predictor = q.asked;
  } else if (!head) {
    return fail(ErrorCode::kNotFound, "no predictor at " + q.asked + ": expected a folder with " +
                                          kPromptHeadFile + ", auto or none");
  } else {
    out.predictor = folder;
    if (!fits(kPromptHeadFile))
      not_used += (not_used.empty() ? "" : ", ") + std::string("its prompt head is used as asked");
  }
  if (!not_used.empty())
    out.warning =
        stamp_misfit(folder, other, model.files()->fingerprint(), q.model) + "; " + not_used;
  return out;
}

}  // namespace tailor::launch
