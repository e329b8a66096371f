#include "weights/content_hash.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "base/hex.h"
#include "weights/default_model.h"

namespace tailor::weights {
namespace {

namespace fs = std::filesystem;

constexpr size_t kPiece = 64 << 20;              // bytes between two reports of progress
constexpr Duration kWaitForOther = seconds(60);  // while another process hashes the same file
constexpr Duration kLookAgainAfter = milliseconds(20);
constexpr size_t kMaxEntryBytes = 8192;

int64_t wall_clock_ns() { return wall_clock_ms() * 1'000'000; }

std::string hex(XXH128_hash_t hash) {
  XXH128_canonical_t bytes;
  XXH128_canonicalFromHash(&bytes, hash);
  return to_hex(bytes.digest);
}

std::string hash_of_text(std::string_view text) {
  return content_hash(std::as_bytes(std::span(text)));
}

/// A kept hash, open and locked: one small file for each path, which says what it is about.
class Entry {
 public:
  Entry(const MappedFile& file, uint64_t bytes) {
    std::error_code ignored;
    const std::string path = fs::absolute(file.path(), ignored).lexically_normal().string();
    const FileIdentity& id = file.identity();
    about_ = "tailor-hash-1\n" + path + "\n";
    for (const uint64_t number :
         {bytes, id.device, id.inode, id.bytes, static_cast<uint64_t>(id.modified_ns),
          static_cast<uint64_t>(id.changed_ns)})
      about_ += std::to_string(number) + " ";
    folder_ = cache_folder() + "/hashes";
    if (!make_private_folder(folder_)) return;
    const std::string at = folder_ + "/" + hash_of_text(path);
    fd_ = ::open(at.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd_ >= 0 && !(is_private_file(fd_) && lock())) close_it();
  }
  ~Entry() { close_it(); }
  Entry(const Entry&) = delete;
  Entry& operator=(const Entry&) = delete;

  /// Empty when nothing is there that can be believed.
  std::string hash() const {
    if (fd_ < 0) return "";
    std::string text(kMaxEntryBytes, 0);
    const ssize_t count = pread(fd_, text.data(), text.size(), 0);
    text.resize(static_cast<size_t>(std::max<ssize_t>(count, 0)));
    if (text.size() != about_.size() + 66 || !text.starts_with(about_)) return "";
    const std::string hash = text.substr(about_.size(), 32);
    if (text != sealed(hash)) return "";
    futimens(fd_, nullptr);  // used now
    return hash;
  }

  void keep(const std::string& hash) const {
    if (fd_ < 0) return;
    const std::string text = sealed(hash);
    // A write that is cut off leaves an entry whose check is wrong.
    if (ftruncate(fd_, 0) != 0 ||
        pwrite(fd_, text.data(), text.size(), 0) != static_cast<ssize_t>(text.size()))
      return;
    forget_oldest();
  }

 private:
  std::string sealed(const std::string& hash) const {
    return about_ + hash + " " + hash_of_text(about_ + hash) + "\n";
  }

  bool lock() const {
    const Time give_up = now() + kWaitForOther;
    while (flock(fd_, LOCK_EX | LOCK_NB) != 0) {
      if ((errno != EWOULDBLOCK && errno != EINTR) || now() > give_up) return false;
      std::this_thread::sleep_for(kLookAgainAfter);
    }
    return true;
  }

  void forget_oldest() const {
    std::error_code ignored;
    std::vector<std::pair<fs::file_time_type, fs::path>> entries;
    for (const auto& entry : fs::directory_iterator(folder_, ignored))
      entries.emplace_back(entry.last_write_time(ignored), entry.path());
    if (entries.size() <= kHashesKept) return;
    std::sort(entries.begin(), entries.end());
    entries.resize(entries.size() - kHashesKept);
    for (const auto& entry : entries) fs::remove(entry.second, ignored);
  }

  void close_it() {
    if (fd_ >= 0) ::close(fd_);
    fd_ = -1;
  }

  std::string folder_, about_;
  int fd_ = -1;
};

}  // namespace

std::string content_hash(std::span<const std::byte> bytes, const HashProgress& on_progress) {
  if (bytes.size() <= kPiece) return hex(XXH3_128bits(bytes.data(), bytes.size()));
  const std::unique_ptr<XXH3_state_t, XXH_errorcode (*)(XXH3_state_t*)> state(XXH3_createState(),
                                                                              XXH3_freeState);
  if (!state) throw std::bad_alloc();
  XXH3_128bits_reset(state.get());
  for (size_t at = 0; at < bytes.size(); at += kPiece) {
    const auto piece = bytes.subspan(at, std::min(kPiece, bytes.size() - at));
    XXH3_128bits_update(state.get(), piece.data(), piece.size());
    if (on_progress)
      on_progress(static_cast<double>(at + piece.size()) / static_cast<double>(bytes.size()));
  }
  return hex(XXH3_128bits_digest(state.get()));
}

std::string file_hash(const MappedFile& file, uint64_t bytes, const HashProgress& on_progress) {
  const auto content = file.bytes().first(std::min<uint64_t>(bytes, file.bytes().size()));
  if (content.size() < kHashKeptFrom || !had_rested(file.identity(), wall_clock_ns())) {
    std::string hash = content_hash(content, on_progress);
    file.release();
    return hash;
  }
  const Entry entry(file, content.size());
  if (std::string kept = entry.hash(); !kept.empty()) return kept;
  std::string hash = content_hash(content, on_progress);
  file.release();
  if (file.is_unchanged()) entry.keep(hash);
  return hash;
}

bool had_rested(const FileIdentity& file, int64_t read_at_ns) {
  return std::max(file.modified_ns, file.changed_ns) + kRestingTimeNs <= read_at_ns;
}

Result<void> make_private_folder(const std::string& folder) {
  std::error_code error;
  fs::create_directories(fs::path(folder).parent_path(), error);
  const auto why = [&](const std::string& what) {
    return fail(ErrorCode::kUnavailable, folder + ": " + what);
  };
  if (::mkdir(folder.c_str(), 0700) != 0 && errno != EEXIST) return why(std::strerror(errno));
  struct stat info {};
  if (::lstat(folder.c_str(), &info) != 0) return why(std::strerror(errno));
  if (!S_ISDIR(info.st_mode)) return why("is no folder");
  constexpr mode_t kOthersWrite = S_IWGRP | S_IWOTH;
  if (info.st_uid != ::geteuid()) {
    return why("belongs to the user " + std::to_string(info.st_uid) + ", expected " +
               std::to_string(::geteuid()));
  }
  if ((info.st_mode & kOthersWrite) != 0 &&
      ::chmod(folder.c_str(), info.st_mode & 07777 & ~kOthersWrite) != 0)
    return why("others can write there, and that cannot be changed: " +
               std::string(std::strerror(errno)));
  return {};
}

bool is_private_file(int descriptor) {
  struct stat info {};
  return ::fstat(descriptor, &info) == 0 && S_ISREG(info.st_mode) && info.st_uid == ::geteuid() &&
         (info.st_mode & (S_IWGRP | S_IWOTH)) == 0;
}

}  // namespace tailor::weights
