// A read-only memory mapping of a whole file, shared by everything that points into it. A file that
// shrinks while it is mapped kills the reader (SIGBUS): weight files are replaced by renaming,
// never rewritten in place.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>

#include "base/result.h"

namespace tailor::weights {

class MappedFile {
 public:
  /// Errors: NotFound (cannot be opened, or no plain file), DataLoss (empty).
  static Result<std::shared_ptr<const MappedFile>> open(const std::string& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::span<const std::byte> bytes() const { return {data_, size_}; }
  const std::string& path() const { return path_; }

 private:
  MappedFile(std::string path, const std::byte* data, size_t size)
      : path_(std::move(path)), data_(data), size_(size) {}

  const std::string path_;
  const std::byte* const data_;
  const size_t size_;
};

/// `name` as it may stand in a message: control characters and non-ASCII bytes become '?', cut
/// after 80 characters.
std::string printable(std::string_view name);

}  // namespace tailor::weights
