#include "parallel/cpu/packed_model.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <vector>

namespace tailor::parallel::cpu {
namespace {

/// Raised whenever packed_matrix.h's layout changes.
constexpr int kLayoutVersion = 2;
constexpr uint64_t kPage = 4096;
/// Last in the file and written last.
constexpr char kSeal[16] = "tailor packed 2";

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
    std::error_code error;
    std::filesystem::create_directories(options_.folder, error);
    path_ = options_.folder + "/" + files_.fingerprint() + "-" + options_.dtype + "-" +
            std::to_string(kLayoutVersion) + ".tlr";
    if (map_file()) return {};
    const Descriptor lock(open((path_ + ".lock").c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0600));
    if (lock.get() < 0 || flock(lock.get(), LOCK_EX) != 0)
      return fail(ErrorCode::kUnavailable, path_ + ".lock: " + system_reason());
    if (map_file()) return {};  // another process has made it meanwhile
    return make_file();
  }

  bool map_file() {
    const Descriptor file(open(path_.c_str(), O_RDONLY | O_CLOEXEC));
    struct stat status {};
    if (file.get() < 0 || fstat(file.get(), &status) != 0 ||
        static_cast<uint64_t>(status.st_size) != out_->bytes_ + sizeof kSeal)
      return false;
    char seal[sizeof kSeal];
    if (pread(file.get(), seal, sizeof seal, static_cast<off_t>(out_->bytes_)) != sizeof seal ||
        std::memcmp(seal, kSeal, sizeof seal) != 0)
      return false;
    void* base = mmap(nullptr, out_->bytes_, PROT_READ, MAP_SHARED, file.get(), 0);
    if (base == MAP_FAILED) return false;
    out_->base_ = static_cast<std::byte*>(base);
    return true;
  }

  Result<void> make_file() {
    const std::string next = path_ + ".next";
    const Descriptor file(open(next.c_str(), O_CREAT | O_TRUNC | O_RDWR | O_CLOEXEC, 0600));
    if (file.get() < 0) return fail(ErrorCode::kUnavailable, next + ": " + system_reason());
    const auto give_up = [&](const std::string& what) {
      const std::string reason = what + ": " + system_reason();
      unlink(next.c_str());
      return fail(ErrorCode::kUnavailable, reason);
    };
    // Room first: a full disk must not become a fault inside the mapping.
    if (const int failed =
            posix_fallocate(file.get(), 0, static_cast<off_t>(out_->bytes_ + sizeof kSeal))) {
      errno = failed;
      return give_up("no room for " + std::to_string(out_->bytes_ >> 20) + " MiB in " + next);
    }
    void* base = mmap(nullptr, out_->bytes_, PROT_READ | PROT_WRITE, MAP_SHARED, file.get(), 0);
    if (base == MAP_FAILED) return give_up(next);
    auto packed = pack_all(static_cast<std::byte*>(base));
    munmap(base, out_->bytes_);
    if (!packed) {
      unlink(next.c_str());
      return packed;
    }
    if (pwrite(file.get(), kSeal, sizeof kSeal, static_cast<off_t>(out_->bytes_)) != sizeof kSeal ||
        fdatasync(file.get()) != 0 || rename(next.c_str(), path_.c_str()) != 0)
      return give_up(next);
    if (!map_file()) return fail(ErrorCode::kUnavailable, path_ + " cannot be mapped");
    return {};
  }

  Result<void> pack_privately() {
    void* base = mmap(nullptr, std::max<uint64_t>(out_->bytes_, 1), PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED)
      return fail(ErrorCode::kLimitExceeded, "no memory for " + std::to_string(out_->bytes_ >> 20) +
                                                 " MiB of packed weights: " + system_reason());
    out_->base_ = static_cast<std::byte*>(base);
    return pack_all(out_->base_);
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
    return {};
  }

  Result<std::unique_ptr<PackedModel>> finish(std::string where) {
    size_t index = 0;
    for (auto& [name, matrix] : out_->matrices_) matrix.data = out_->base_ + offsets_[index++];
    out_->where_ = std::move(where);
    return std::move(out_);
  }

  const weights::WeightFiles& files_;
  const PackedModelOptions& options_;
  std::unique_ptr<PackedModel> out_{new PackedModel};
  std::vector<uint64_t> offsets_;  // in the order of matrices_: by name, as the files are sorted
  std::string path_, reason_;
};

Result<std::unique_ptr<PackedModel>> PackedModel::open(const weights::WeightFiles& files,
                                                       const PackedModelOptions& options) {
  return PackedModelBuilder(files, options).build();
}

PackedModel::~PackedModel() {
  if (base_) munmap(base_, std::max<uint64_t>(bytes_, 1));
}

const PackedMatrix* PackedModel::find(const std::string& name) const {
  auto it = matrices_.find(name);
  if (it == matrices_.end() && tied_ && name == "lm_head.weight")
    it = matrices_.find("model.embed_tokens.weight");
  return it == matrices_.end() ? nullptr : &it->second;
}

}  // namespace tailor::parallel::cpu
