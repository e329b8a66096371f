// Reader of GGUF files (versions 2 and 3, little-endian): metadata and the tensor directory. The
// file is memory-mapped; opening touches the head only. Every length in the file is checked against
// what is left of it, so that a damaged or hostile file gives an error, never a crash. Immutable
// after open(). Source: the GGUF specification (ggml:docs/gguf.md).
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "base/result.h"
#include "weights/mapped_file.h"
#include "weights/stored_tensor.h"

namespace tailor::weights {

/// A metadata value; the file's ten number types are widened to three.
using GgufValue = std::variant<bool, int64_t, double, std::string, std::vector<int64_t>,
                               std::vector<double>, std::vector<std::string>>;

class GgufFile {
 public:
  /// Errors: NotFound; InvalidArgument (no GGUF, version, byte order, split file, tensor type we
  /// cannot read: one sentence with the tensor and what is supported); DataLoss (truncated,
  /// damaged).
  static Result<GgufFile> open(const std::string& path);

  const std::string& path() const { return file_->path(); }
  const std::shared_ptr<const MappedFile>& file() const {
    return file_;
  }  ///< what the tensors point into
  const std::vector<StoredTensor>& tensors() const { return tensors_; }  ///< in the file's order

  /// The value of `key` if it is there with type T.
  template <class T>
  const T* find(const std::string& key) const {
    auto it = metadata_.find(key);
    return it == metadata_.end() ? nullptr : std::get_if<T>(&it->second);
  }
  /// Integer, or a float, as double; nothing if absent or no number.
  std::optional<double> number(const std::string& key) const;
  bool has(const std::string& key) const { return metadata_.count(key) != 0; }
  /// Bytes behind the last tensor and its padding, which belong to nothing.
  uint64_t trailing_bytes() const { return trailing_bytes_; }

 private:
  GgufFile() = default;
  friend class GgufParser;

  std::shared_ptr<const MappedFile> file_;
  std::map<std::string, GgufValue> metadata_;
  std::vector<StoredTensor> tensors_;
  uint64_t trailing_bytes_ = 0;
};

}  // namespace tailor::weights
