// Which of a GEMM library's algorithms was the fastest for a shape, kept in a file from one start
// to the next: measuring them takes seconds. Knows no CUDA. An algorithm is the library's own 64
// bytes, good for the device and version of the file's tag only. Owner: the rank's main thread;
// ranks that start together each write the whole file, and the last one stays.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <string>

#include "base/result.h"

namespace tailor::parallel::gpu {

struct GemmChoiceKey {
  int64_t n = 0, k = 0, rows = 0;
  int32_t type = 0, out = 0;  ///< kv::ValueType
  auto operator<=>(const GemmChoiceKey&) const = default;
};

struct GemmChoice {
  std::array<uint64_t, 8> algorithm{};
  uint64_t workspace_bytes = 0;
  double microseconds = 0;
};

class GemmChoices {
 public:
  /// More are not kept: a file that has grown so old begins anew.
  static constexpr size_t kMost = 1024;

  /// Reads FOLDER/gemm-TAG.txt as far as it makes sense; `tag` names device and library with their
  /// versions. An empty folder: nothing is kept.
  GemmChoices(const std::string& folder, const std::string& tag);

  std::optional<GemmChoice> find(const GemmChoiceKey& key) const;
  void put(const GemmChoiceKey& key, const GemmChoice& choice);
  size_t size() const { return choices_.size(); }
  const std::string& path() const { return path_; }
  /// Replaces the file, if there is something new. Errors: Unavailable (cannot be written: why).
  Result<void> save();

 private:
  const std::string tag_;
  std::string path_;
  std::map<GemmChoiceKey, GemmChoice> choices_;
  bool changed_ = false;
};

}  // namespace tailor::parallel::gpu
