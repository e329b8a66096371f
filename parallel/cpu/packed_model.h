// A model's packed matrices in one read-only file that every rank and replica of a host maps, so
// that they share its memory: `cache_folder()/packed/<fingerprint>-<dtype>-<layout version>.tlr`.
// The first process to come makes it (others wait for a lock), writes beside it and renames: a file
// of that name is whole. It ends in a hash of its content, which is checked when it is opened (by
// content_hash.h: read through once, and again after whatever touched it), and it is used only
// where no other user could have written it; what fails is made anew. Where the folder cannot be
// written (full disk, read-only home) or is another user's, the process packs into its own memory,
// with a warning. The folder is kept within kPackedBytes and kPackedFiles. Immutable after open();
// any thread may read.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>

#include "base/result.h"
#include "parallel/cpu/packed_matrix.h"

namespace tailor::parallel::cpu {

/// Beyond these the packed files that have not been used for the longest time are removed. Who has
/// one mapped keeps it.
inline constexpr uint64_t kPackedBytes = uint64_t{64} << 30;
inline constexpr size_t kPackedFiles = 64;

struct PackedModelOptions {
  std::string folder;                       ///< where packed files live; empty = pack into memory
  std::string dtype = "auto";               ///< packed_kind()
  std::function<void(double)> on_progress;  ///< 0..1, while packing
  uint64_t kept_bytes = kPackedBytes;
  size_t kept_files = kPackedFiles;
};

class PackedModel {
 public:
  /// Packs or finds all 2-d tensors of `files`. Errors: those of pack(); LimitExceeded (no memory
  /// for a private copy); DataLoss (the model's files changed meanwhile).
  static Result<std::unique_ptr<PackedModel>> open(const weights::WeightFiles& files,
                                                   const PackedModelOptions& options);
  ~PackedModel();
  PackedModel(const PackedModel&) = delete;
  PackedModel& operator=(const PackedModel&) = delete;

  /// By Hugging Face name; "lm_head.weight" of a tied model is its embedding. Null if not there.
  const PackedMatrix* find(const std::string& name) const;
  uint64_t bytes() const { return bytes_; }
  /// "packed weights shared from FILE" or why not.
  const std::string& where() const { return where_; }

 private:
  PackedModel() = default;
  friend class PackedModelBuilder;

  std::map<std::string, PackedMatrix> matrices_;
  bool tied_ = false;
  std::shared_ptr<const weights::MappedFile> file_;  ///< null: private memory
  std::byte* private_ = nullptr;
  uint64_t bytes_ = 0;
  std::string where_;
};

}  // namespace tailor::parallel::cpu
