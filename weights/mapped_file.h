// A read-only memory mapping of a whole file, shared by everything that points into it. A file that
// shrinks while it is mapped kills the reader (SIGBUS): weight files are replaced by renaming,
// never rewritten in place.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "base/result.h"

namespace tailor::weights {

/// What changes when a file does. Times are in nanoseconds since 1970, by the file system's clock.
struct FileIdentity {
  uint64_t device = 0, inode = 0, bytes = 0;
  int64_t modified_ns = 0, changed_ns = 0;
  friend bool operator==(const FileIdentity&, const FileIdentity&) = default;
};

class MappedFile {
 public:
  /// Errors: NotFound (cannot be opened, or no plain file), DataLoss (empty).
  static Result<std::shared_ptr<const MappedFile>> open(const std::string& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::span<const std::byte> bytes() const { return {data_, size_}; }
  const std::string& path() const { return path_; }
  /// As it was when it was opened.
  const FileIdentity& identity() const { return identity_; }
  /// Whether `path()` still names the same file, untouched since it was opened.
  bool is_unchanged() const;
  /// Takes the bytes out of this process's memory (they stay in the system's cache) until they are
  /// read again.
  void release() const;

 private:
  MappedFile(std::string path, FileIdentity identity, const std::byte* data, size_t size)
      : path_(std::move(path)), identity_(identity), data_(data), size_(size) {}

  const std::string path_;
  const FileIdentity identity_;
  const std::byte* const data_;
  const size_t size_;
};

/// `name` as it may stand in a message: control characters and non-ASCII bytes become '?', cut
/// after 80 characters.
std::string printable(std::string_view name);

}  // namespace tailor::weights
