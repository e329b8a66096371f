#include "weights/default_model.h"

#include <pwd.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>

namespace tailor::weights {

std::string cache_folder() {
  const auto variable = [](const char* name) -> std::string {
    const char* value = std::getenv(name);
    return value ? value : "";
  };
  if (const auto folder = variable("TAILOR_CACHE"); !folder.empty()) return folder;
  if (const auto folder = variable("XDG_CACHE_HOME"); !folder.empty()) return folder + "/tailor";
  std::string home = variable("HOME");
  if (home.empty()) {
    const passwd* user = ::getpwuid(::getuid());
    if (user && user->pw_dir) home = user->pw_dir;
  }
  return home + "/.cache/tailor";
}

std::string default_model_path() {
  return cache_folder() + "/models/default/SmolLM2-135M-Instruct.Q4_1.gguf";
}

Result<std::string> resolve_model(const std::string& model) {
  std::error_code ignored;
  if (model == "default") {
    const std::string path = default_model_path();
    if (std::filesystem::exists(path, ignored)) return path;
    return fail(ErrorCode::kNotFound,
                "the default model is not at " + path + ": run launch/setup, which puts it there");
  }
  if (model.empty())
    return fail(ErrorCode::kNotFound, "no model named: expected default, a folder or a .gguf file");
  if (std::filesystem::exists(model, ignored)) return model;
  return fail(ErrorCode::kNotFound,
              "no model at " + model + ": expected default, a Hugging Face folder or a .gguf file");
}

Result<std::string> resolve_encoder(const std::string& encoder) {
  const std::string folder = encoder == "minilm" ? cache_folder() + "/models/minilm" : encoder;
  std::error_code ignored;
  if (std::filesystem::exists(folder + "/config.json", ignored)) return folder;
  if (encoder == "minilm") {
    return fail(ErrorCode::kNotFound, "the default encoder is not in " + folder +
                                          ": run launch/setup, which puts it there");
  }
  return fail(ErrorCode::kNotFound,
              "no encoder at " + encoder + ": expected minilm or a Hugging Face folder");
}

}  // namespace tailor::weights
