// Reader of safetensors files: one file, or the shards that a model.safetensors.index.json names.
// Memory-mapped; opening touches the heads only. Every length and offset is checked against the
// file, and the tensors must tile the data: none overlaps another, no byte belongs to none.
// Immutable after open. Source: the safetensors format description (8-byte header length, JSON
// header, data) and its own reader, which refuses the same.
#pragma once

#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "base/result.h"
#include "weights/mapped_file.h"
#include "weights/stored_tensor.h"

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

  /// As if the header had never named these.
  void leave_out(const std::set<std::string>& names);

 private:
  std::shared_ptr<const MappedFile> file_;
  std::vector<StoredTensor> tensors_;
  std::vector<Unreadable> unreadable_;
  std::map<std::string, std::string> metadata_;
};

/// The safetensors files of a Hugging Face folder: the shards named by
/// model.safetensors.index.json, else model.safetensors. Each tensor is in one of them alone: in
/// the shard that the index's weight_map names, where it must be; copies in other shards are left
/// out. What the user should know of that is added to `remarks`, a sentence each. Errors: NotFound
/// (names what was looked for), InvalidArgument, DataLoss (also: two shards hold a tensor that the
/// index does not name).
Result<std::vector<SafetensorsFile>> open_safetensors_folder(
    const std::string& folder, std::vector<std::string>* remarks = nullptr);

/// "a, b, c and 5 more", as they may stand in a message.
std::string some_names(const std::vector<std::string>& names);

}  // namespace tailor::weights
