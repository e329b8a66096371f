// Reader of safetensors files: one file, or the shards that a model.safetensors.index.json names.
// Memory-mapped; opening touches the heads only. Every length and offset is checked against the
// file. Immutable after open. Source: the safetensors format description (8-byte header length,
// JSON header, data).
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "parallel/weights/mapped_file.h"
#include "parallel/weights/stored_tensor.h"

namespace tailor::weights {

class SafetensorsFile {
 public:
  /// Tensors of a type other than F32, F16 and BF16 are left out of `tensors()` and named in
  /// `unreadable()`. Errors: NotFound; InvalidArgument (no safetensors file); DataLoss (truncated,
  /// damaged).
  static Result<SafetensorsFile> open(const std::string& path);

  const std::string& path() const { return file_->path(); }
  const std::shared_ptr<const MappedFile>& file() const {
    return file_;
  }  ///< what the tensors point into
  const std::vector<StoredTensor>& tensors() const { return tensors_; }  ///< in the header's order
  struct Unreadable {
    std::string name, dtype;
  };
  const std::vector<Unreadable>& unreadable() const { return unreadable_; }
  /// What the header says beside tensors ("__metadata__": texts by name).
  const std::map<std::string, std::string>& metadata() const { return metadata_; }

 private:
  std::shared_ptr<const MappedFile> file_;
  std::vector<StoredTensor> tensors_;
  std::vector<Unreadable> unreadable_;
  std::map<std::string, std::string> metadata_;
};

/// The safetensors files of a Hugging Face folder: the shards named by model.safetensors.index.json
/// (each tensor must be in the shard the index names), else model.safetensors. Errors: NotFound
/// (names what was looked for), InvalidArgument, DataLoss.
Result<std::vector<SafetensorsFile>> open_safetensors_folder(const std::string& folder);

}  // namespace tailor::weights
