// `tailor restamp`: heads, length files and feature files that name their model by the older
// fingerprint, which came from samples, get the one of its every byte; only where the older one is
// this model's too.
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "launch/commands/command.h"
#include "predict/restamp.h"
#include "weights/default_model.h"
#include "weights/weight_files.h"

namespace tailor::launch {
namespace {

namespace fs = std::filesystem;

struct Options {
  std::string model = "default";
  std::vector<std::string> files;
};

/// A folder stands for the files in it that carry a stamp.
std::vector<std::string> all_files(const std::vector<std::string>& named) {
  std::vector<std::string> out;
  for (const std::string& name : named) {
    std::error_code error;
    if (!fs::is_directory(name, error)) {
      out.push_back(name);
      continue;
    }
    const size_t before = out.size();
    for (const auto& entry : fs::directory_iterator(name, error))
      if (entry.is_regular_file(error) && predict::stamp_of(entry.path().string()))
        out.push_back(entry.path().string());
    std::sort(out.begin() + static_cast<std::ptrdiff_t>(before), out.end());
  }
  return out;
}

Result<bool> restamp_all(const Options& o) {
  TAILOR_ASSIGN(const std::string path, weights::resolve_model(o.model));
  TAILOR_ASSIGN(const auto model, weights::WeightFiles::open(path));
  const std::vector<std::string> files = all_files(o.files);
  if (files.empty())
    return fail(ErrorCode::kNotFound, "no head, length file or feature file is there");
  bool all = true;
  for (const std::string& file : files) {
    const auto renewed = predict::restamp(file, model->sampled_fingerprint(), model->fingerprint());
    if (!renewed) {
      print_error(renewed.error());
      all = false;
    } else {
      std::printf("%s: %s\n", file.c_str(), *renewed ? "renewed" : "is as it should be");
    }
  }
  return all;
}

}  // namespace

Command add_restamp(CLI::App& parent) {
  auto options = std::make_shared<Options>();
  CLI::App* app = parent.add_subcommand(
      "restamp", "Renew the model's fingerprint in heads, length and feature files made before");
  app->add_option("--model", options->model, "The model they were made with: default, or a path");
  app->add_option("files", options->files, "Files, or folders with such files")->required();
  return {app, [options] {
            const auto all = restamp_all(*options);
            if (!all) return print_error(all.error());
            return *all ? 0 : 1;
          }};
}

}  // namespace tailor::launch
