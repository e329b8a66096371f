#include "weights/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace tailor::weights {
namespace {

FileIdentity identity_of(const struct stat& info) {
  const auto ns = [](const timespec& time) {
    return int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec;
  };
  return {info.st_dev, info.st_ino, static_cast<uint64_t>(info.st_size), ns(info.st_mtim),
          ns(info.st_ctim)};
}

}  // namespace

Result<std::shared_ptr<const MappedFile>> MappedFile::open(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0)
    return fail(ErrorCode::kNotFound, "cannot open " + path + ": " + std::strerror(errno));
  struct stat info {};
  const bool plain = ::fstat(fd, &info) == 0 && S_ISREG(info.st_mode);
  if (!plain || info.st_size == 0) {
    ::close(fd);
    return plain ? fail(ErrorCode::kDataLoss, path + " is empty")
                 : fail(ErrorCode::kNotFound, path + " is not a plain file");
  }
  const size_t size = static_cast<size_t>(info.st_size);
  void* data = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, fd, 0);
  const int mmap_errno = errno;
  ::close(fd);
  if (data == MAP_FAILED) {
    return fail(ErrorCode::kInternal, "cannot map " + path + ": " + std::strerror(mmap_errno));
  }
  return std::shared_ptr<const MappedFile>(
      new MappedFile(path, identity_of(info), static_cast<const std::byte*>(data), size));
}

bool MappedFile::is_unchanged() const {
  struct stat info {};
  return ::stat(path_.c_str(), &info) == 0 && identity_of(info) == identity_;
}

void MappedFile::release() const { ::madvise(const_cast<std::byte*>(data_), size_, MADV_DONTNEED); }

MappedFile::~MappedFile() { ::munmap(const_cast<std::byte*>(data_), size_); }

std::string printable(std::string_view name) {
  std::string out;
  for (char c : name.substr(0, 80)) out += (c >= 0x20 && c < 0x7f) ? c : '?';
  if (name.size() > 80) out += "...";
  return out;
}

}  // namespace tailor::weights
