#include "parallel/cuda/gemm_choices.h"

#include <unistd.h>

#include <cctype>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>

namespace tailor::parallel::gpu {
namespace {

constexpr const char* kHead = "tailor gemm choices 1: ";

std::string file_name(const std::string& tag) {
  std::string name = "gemm-";
  for (const char c : tag) name += std::isalnum(static_cast<unsigned char>(c)) ? c : '_';
  return name + ".txt";
}

}  // namespace

GemmChoices::GemmChoices(const std::string& folder, const std::string& tag) : tag_(tag) {
  if (folder.empty()) return;
  path_ = folder + "/" + file_name(tag);
  std::ifstream file(path_);
  std::string line;
  if (!std::getline(file, line) || line != kHead + tag) return;
  while (choices_.size() < kMost && std::getline(file, line)) {
    std::istringstream in(line);
    GemmChoiceKey key;
    GemmChoice choice;
    in >> key.n >> key.k >> key.rows >> key.type >> key.out >> choice.microseconds >>
        choice.workspace_bytes >> std::hex;
    for (uint64_t& word : choice.algorithm) in >> word;
    if (!in) return;
    choices_[key] = choice;
  }
}

std::optional<GemmChoice> GemmChoices::find(const GemmChoiceKey& key) const {
  const auto found = choices_.find(key);
  if (found == choices_.end()) return std::nullopt;
  return found->second;
}

void GemmChoices::put(const GemmChoiceKey& key, const GemmChoice& choice) {
  if (choices_.size() >= kMost && choices_.count(key) == 0) choices_.clear();
  choices_[key] = choice;
  changed_ = true;
}

Result<void> GemmChoices::save() {
  if (path_.empty() || !changed_) return {};
  const std::string next = path_ + "." + std::to_string(getpid());
  std::error_code ignored;
  std::filesystem::create_directories(std::filesystem::path(path_).parent_path(), ignored);
  {
    std::ofstream file(next);
    file << kHead << tag_ << "\n";
    for (const auto& [key, choice] : choices_) {
      file << std::dec << key.n << " " << key.k << " " << key.rows << " " << key.type << " "
           << key.out << " " << choice.microseconds << " " << choice.workspace_bytes << std::hex;
      for (const uint64_t word : choice.algorithm) file << " " << word;
      file << "\n";
    }
    if (!file.flush())
      return fail(ErrorCode::kUnavailable, next + " cannot be written: " + std::strerror(errno));
  }
  if (std::rename(next.c_str(), path_.c_str()) != 0)
    return fail(ErrorCode::kUnavailable, path_ + " cannot be written: " + std::strerror(errno));
  changed_ = false;
  return {};
}

}  // namespace tailor::parallel::gpu
