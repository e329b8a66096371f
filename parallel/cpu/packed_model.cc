#include "parallel/cpu/packed_model.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <utility>
#include <vector>

#include "base/log.h"
#include "weights/content_hash.h"
#include "weights/mapped_file.h"

namespace tailor::parallel::cpu {
namespace {

/// Raised whenever packed_matrix.h's layout changes.
constexpr int kLayoutVersion = 2;
constexpr uint64_t kPage = 4096;

/// Last in the file and written last.
struct Seal {
  char mark[16] = "tailor packed 3";
  char hash[32] = {};  ///< of all before, as content_hash() gives it
};

namespace fs = std::filesystem;

class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() {
    if (fd_ >= 0) close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return fd_; }

 private:
  const int fd_;
};

std::string system_reason() { return std::strerror(errno); }

/// A lock file, locked; it may be removed while it is held. -1 = `wait` is false and another holds
/// it, or errno says why not.
int lock_file(const std::string& path, bool wait) {
  for (;;) {
    const int fd = open(path.c_str(), O_CREAT | O_RDWR | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0) return -1;
    struct stat held = {}, named = {};
    if (flock(fd, wait ? LOCK_EX : LOCK_EX | LOCK_NB) == 0 && fstat(fd, &held) == 0) {
      if (stat(path.c_str(), &named) == 0 && held.st_ino == named.st_ino) return fd;
    } else if (errno != EINTR) {
      const int reason = errno;
      close(fd);
      errno = reason;
      return -1;
    }
    close(fd);  // its last holder removed it
  }
}

/// Removes what killed packers left and what goes beyond the bounds, but not `own`.
void trim(const PackedModelOptions& options, const std::string& own) {
  struct Old {
    fs::file_time_type used;
    uint64_t bytes;
    std::string path;
  };
  std::vector<Old> packed;
  uint64_t bytes = 0;
  std::error_code ignored;
  const auto remove_unlocked = [&](const std::string& path, const std::string& what) {
    const Descriptor lock(lock_file(path + ".lock", false));
    if (lock.get() < 0) return false;  // somebody is at it
    fs::remove(what, ignored);
    fs::remove(path + ".lock", ignored);
    return true;
  };
  for (const auto& entry : fs::directory_iterator(options.folder, ignored)) {
    const std::string path = entry.path().string();
    if (path.ends_with(".tlr.next") && path != own + ".next")
      remove_unlocked(path.substr(0, path.size() - 5), path);
    if (!path.ends_with(".tlr")) continue;
    // The lock file's time is that of the last use: the file's own must not move.
    // What is not there counts as old.
    const auto locked = fs::last_write_time(path + ".lock", ignored);
    packed.push_back(
        {std::max(locked, fs::last_write_time(path, ignored)), entry.file_size(ignored), path});
    bytes += packed.back().bytes;
  }
  std::sort(packed.begin(), packed.end(),
            [](const Old& a, const Old& b) { return a.used < b.used; });
  size_t left = packed.size();
  for (const Old& old : packed) {
    if (bytes <= options.kept_bytes && left <= options.kept_files) break;
    if (old.path == own || !remove_unlocked(old.path, old.path)) continue;
    LOG_INFO("packed weights not used for long are removed: {}", old.path);
    bytes -= old.bytes;
    --left;
  }
}

}  // namespace

class PackedModelBuilder {
 public:
  PackedModelBuilder(const weights::WeightFiles& files, const PackedModelOptions& options)
      : files_(files), options_(options) {}

  Result<std::unique_ptr<PackedModel>> build() {
    TAILOR_TRY(lay_out());
    if (!options_.folder.empty()) {
      auto shared = share();
      if (shared) return finish("shared from " + path_);
      if (shared.error().code != ErrorCode::kUnavailable) return fail(shared.error());
      reason_ = ", packed into private memory because " + shared.error().message;
    }
    TAILOR_TRY(pack_privately());
    return finish("private" + reason_);
  }

 private:
  Result<void> lay_out() {
    out_->tied_ = files_.config().tie_embeddings;
    uint64_t at = 0;
    for (const weights::TensorInfo& info : files_.tensors()) {
      if (info.shape.size() != 2) continue;
      PackedMatrix matrix;
      TAILOR_ASSIGN(matrix.kind, packed_kind(info, options_.dtype));
      matrix.rows = info.shape[0];
      matrix.cols = info.shape[1];
      matrix.layout = tile_layout(matrix.kind, matrix.cols);
      offsets_.push_back(at);
      at += packed_bytes(matrix.kind, matrix.rows, matrix.cols);
      at = (at + kPage - 1) / kPage * kPage;
      out_->matrices_.emplace(info.name, matrix);
    }
    out_->bytes_ = at;
    return {};
  }

  /// Unavailable = no file here, go on without.
  Result<void> share() {
    TAILOR_TRY(weights::make_private_folder(options_.folder));
    path_ = options_.folder + "/" + files_.fingerprint() + "-" + options_.dtype + "-" +
            std::to_string(kLayoutVersion) + ".tlr";
    if (map_file()) return {};
    const Descriptor lock(lock_file(path_ + ".lock", true));
    if (lock.get() < 0) return fail(ErrorCode::kUnavailable, path_ + ".lock: " + system_reason());
    if (map_file()) return {};  // another process has made it meanwhile
    TAILOR_TRY(make_file());
    trim(options_, path_);
    return {};
  }

  bool map_file(bool just_made = false) {
    {
      const Descriptor file(open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
      if (file.get() < 0) return false;
      if (!weights::is_private_file(file.get())) return distrust("other users can write it");
    }
    auto file = weights::MappedFile::open(path_);
    if (!file) return false;
    const auto bytes = (*file)->bytes();
    Seal seal, found;
    if (bytes.size() != out_->bytes_ + sizeof seal) return distrust("its size is wrong");
    std::memcpy(&found, bytes.data() + out_->bytes_, sizeof found);
    if (std::memcmp(found.mark, seal.mark, sizeof seal.mark) != 0)
      return distrust("its seal is wrong");
    if (!just_made && weights::file_hash(**file, out_->bytes_, options_.on_progress) !=
                          std::string_view(found.hash, sizeof found.hash))
      return distrust("its content is not what was written");
    out_->file_ = std::move(*file);
    utimensat(AT_FDCWD, (path_ + ".lock").c_str(), nullptr, 0);  // used now
    return true;
  }

  bool distrust(const char* why) {
    if (!std::exchange(distrusted_, true))
      LOG_WARN("packed weights in {} are made anew: {}", path_, why);
    return false;
  }

  Result<void> make_file() {
    const std::string next = path_ + ".next";
    unlink(next.c_str());  // left by a packer that was killed
    const Descriptor file(open(next.c_str(), O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0600));
    if (file.get() < 0) return fail(ErrorCode::kUnavailable, next + ": " + system_reason());
    const auto give_up = [&](const std::string& what) {
      const std::string reason = what + ": " + system_reason();
      unlink(next.c_str());
      return fail(ErrorCode::kUnavailable, reason);
    };
    // Room first: a full disk must not become a fault inside the mapping.
    if (const int failed =
            posix_fallocate(file.get(), 0, static_cast<off_t>(out_->bytes_ + sizeof(Seal)))) {
      errno = failed;
      return give_up("no room for " + std::to_string(out_->bytes_ >> 20) + " MiB in " + next);
    }
    void* base = mmap(nullptr, out_->bytes_, PROT_READ | PROT_WRITE, MAP_SHARED, file.get(), 0);
    if (base == MAP_FAILED) return give_up(next);
    auto packed = pack_all(static_cast<std::byte*>(base));
    Seal seal;
    const std::string hash =
        weights::content_hash({static_cast<const std::byte*>(base), out_->bytes_});
    std::memcpy(seal.hash, hash.data(), sizeof seal.hash);
    munmap(base, out_->bytes_);
    if (!packed) {
      unlink(next.c_str());
      return packed;
    }
    if (pwrite(file.get(), &seal, sizeof seal, static_cast<off_t>(out_->bytes_)) != sizeof seal ||
        fdatasync(file.get()) != 0 || rename(next.c_str(), path_.c_str()) != 0)
      return give_up(next);
    if (!map_file(true)) return fail(ErrorCode::kUnavailable, path_ + " cannot be mapped");
    return {};
  }

  Result<void> pack_privately() {
    void* base = mmap(nullptr, std::max<uint64_t>(out_->bytes_, 1), PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED)
      return fail(ErrorCode::kLimitExceeded, "no memory for " + std::to_string(out_->bytes_ >> 20) +
                                                 " MiB of packed weights: " + system_reason());
    out_->private_ = static_cast<std::byte*>(base);
    return pack_all(out_->private_);
  }

  Result<void> pack_all(std::byte* base) {
    constexpr int64_t kPiece = 256;  // tiles between reports
    size_t index = 0;
    uint64_t done = 0;
    for (const auto& [name, matrix] : out_->matrices_) {
      std::byte* to = base + offsets_[index++];
      for (int64_t tile = 0; tile < matrix.num_tiles(); tile += kPiece) {
        const int64_t count = std::min(kPiece, matrix.num_tiles() - tile);
        TAILOR_TRY(pack(files_, name, matrix.kind, tile, count, to + tile * matrix.layout.bytes));
        done += static_cast<uint64_t>(count * matrix.layout.bytes);
        if (options_.on_progress)
          options_.on_progress(static_cast<double>(done) / static_cast<double>(out_->bytes_));
      }
    }
    // A name that says which weights these are must not go to a mixture of two.
    return files_.check_unchanged();
  }

  Result<std::unique_ptr<PackedModel>> finish(std::string where) {
    size_t index = 0;
    const std::byte* base = out_->file_ ? out_->file_->bytes().data() : out_->private_;
    for (auto& [name, matrix] : out_->matrices_) matrix.data = base + offsets_[index++];
    out_->where_ = std::move(where);
    return std::move(out_);
  }

  const weights::WeightFiles& files_;
  const PackedModelOptions& options_;
  std::unique_ptr<PackedModel> out_{new PackedModel};
  std::vector<uint64_t> offsets_;  // in the order of matrices_: by name, as the files are sorted
  std::string path_, reason_;
  bool distrusted_ = false;
};

Result<std::unique_ptr<PackedModel>> PackedModel::open(const weights::WeightFiles& files,
                                                       const PackedModelOptions& options) {
  return PackedModelBuilder(files, options).build();
}

PackedModel::~PackedModel() {
  if (private_) munmap(private_, std::max<uint64_t>(bytes_, 1));
}

const PackedMatrix* PackedModel::find(const std::string& name) const {
  auto it = matrices_.find(name);
  if (it == matrices_.end() && tied_ && name == "lm_head.weight")
    it = matrices_.find("model.embed_tokens.weight");
  return it == matrices_.end() ? nullptr : &it->second;
}

}  // namespace tailor::parallel::cpu
