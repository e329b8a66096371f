#include "comm/shared_segment.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <new>
#include <string>
#include <vector>

namespace tailor::comm {
namespace {

constexpr size_t kPage = 4096;
constexpr const char* kMemfdName = "tailor-collective";
using Word = std::atomic<uint64_t>;
static_assert(Word::is_always_lock_free, "ranks share it across processes");

size_t round_up(size_t bytes) { return (bytes + kPage - 1) / kPage * kPage; }

/// What a rank tells the others of its part: empty text = it went well.
struct Verdict {
  int32_t code = 0;
  std::array<char, 252> text{};

  static Verdict of(const Result<void>& result) {
    Verdict out;
    if (result) return out;
    out.code = static_cast<int32_t>(result.error().code);
    std::strncpy(out.text.data(), result.error().message.c_str(), out.text.size() - 1);
    return out;
  }
};

/// Where rank 0's memory lies.
struct Offer {
  Verdict verdict;
  uint64_t nonce = 0;
  std::array<char, 112> path{};  // opened by the others; a name of shm_open where `named`
  int32_t named = 0;
  int32_t reserved = 0;
};

template <class T>
std::span<std::byte> bytes_of(T& value) {
  return std::as_writable_bytes(std::span(&value, 1));
}

std::string reason() { return std::strerror(errno); }

/// The first rank that did not succeed speaks for all: every rank gets the same answer.
Result<void> agree(Collective& bootstrap, const Result<void>& mine) {
  Verdict own = Verdict::of(mine);
  std::vector<Verdict> all(bootstrap.size());
  TAILOR_TRY(bootstrap.all_gather(bytes_of(own), std::as_writable_bytes(std::span(all))));
  for (int rank = 0; rank < bootstrap.size(); ++rank) {
    if (all[rank].code != 0)
      return fail(static_cast<ErrorCode>(all[rank].code),
                  "rank " + std::to_string(rank) + ": " + all[rank].text.data());
  }
  return {};
}

/// Rank 0's open file, and its name as long as it has one.
class Source {
 public:
  Source() = default;
  ~Source() {
    unlink();
    if (fd_ >= 0) close(fd_);
  }
  Source(const Source&) = delete;
  Source& operator=(const Source&) = delete;

  Result<void> make(size_t bytes, SegmentKind kind, Offer& offer) {
    if (getrandom(&offer.nonce, sizeof offer.nonce, 0) != sizeof offer.nonce)
      return fail(ErrorCode::kUnavailable, "the system gave no random number: " + reason());
    offer.nonce |= 1;  // never the zero of fresh memory
    offer.named = kind == SegmentKind::kNamed;
    if (offer.named) {
      std::snprintf(offer.path.data(), offer.path.size(), "/tailor-%u-collective-%d-%016llx",
                    getuid(), getpid(), static_cast<unsigned long long>(offer.nonce));
      fd_ = shm_open(offer.path.data(), O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0600);
      if (fd_ < 0) return fail(ErrorCode::kUnavailable, "shm_open was refused: " + reason());
      name_ = offer.path.data();
    } else {
      fd_ = memfd_create(kMemfdName, MFD_CLOEXEC | MFD_ALLOW_SEALING);
      if (fd_ < 0) return fail(ErrorCode::kUnavailable, "memfd_create was refused: " + reason());
      std::snprintf(offer.path.data(), offer.path.size(), "/proc/%d/fd/%d", getpid(), fd_);
    }
    // Every page now: a page that cannot be had later would be a SIGBUS.
    if (const int code = posix_fallocate(fd_, 0, static_cast<off_t>(bytes)); code != 0)
      return fail(
          ErrorCode::kLimitExceeded,
          std::to_string(bytes) + " bytes of shared memory were refused: " + std::strerror(code));
    if (!offer.named) fcntl(fd_, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW);  // nor cut by a peer
    return {};
  }

  void unlink() {
    if (!name_.empty()) shm_unlink(name_.c_str());
    name_.clear();
  }
  int fd() const { return fd_; }

 private:
  int fd_ = -1;
  std::string name_;
};

/// Opens what rank 0 offers, and nothing else: on another host, or in another pid namespace, the
/// same path may name any file.
Result<int> open_offered(const Offer& offer, size_t bytes) {
  const std::string path = offer.path.data();
  const auto foreign = [&] {
    return fail(ErrorCode::kUnavailable, path + " is not rank 0's shared memory here");
  };
  if (!offer.named) {
    std::array<char, 256> target{};
    if (readlink(path.c_str(), target.data(), target.size() - 1) < 0)
      return fail(ErrorCode::kUnavailable, "cannot look at rank 0's " + path + ": " + reason());
    if (std::string(target.data()).find(std::string("memfd:") + kMemfdName) == std::string::npos)
      return foreign();
  }
  const int fd = offer.named ? shm_open(path.c_str(), O_RDWR | O_CLOEXEC, 0)
                             : ::open(path.c_str(), O_RDWR | O_CLOEXEC);
  if (fd < 0)
    return fail(ErrorCode::kUnavailable, "cannot open rank 0's " + path + ": " + reason());
  struct stat found = {};
  if (fstat(fd, &found) == 0 && found.st_size == static_cast<off_t>(bytes)) return fd;
  close(fd);
  return foreign();
}

Word* head_words(std::byte* mapped) { return std::launder(reinterpret_cast<Word*>(mapped)); }
uint64_t answer(uint64_t nonce, int rank) { return nonce + 2 * static_cast<uint64_t>(rank) + 1; }

}  // namespace

SharedSegment::~SharedSegment() { munmap(mapped_.data(), mapped_.size()); }

Result<std::shared_ptr<SharedSegment>> SharedSegment::map(int fd, size_t mapped, size_t head) {
  const int flags = MAP_SHARED | MAP_POPULATE | (fd < 0 ? MAP_ANONYMOUS : 0);
  void* at = mmap(nullptr, mapped, PROT_READ | PROT_WRITE, flags, fd, 0);
  if (at == MAP_FAILED)
    return fail(ErrorCode::kLimitExceeded,
                "cannot map " + std::to_string(mapped) + " bytes of shared memory: " + reason());
  const std::span<std::byte> all(static_cast<std::byte*>(at), mapped);
  return std::shared_ptr<SharedSegment>(new SharedSegment(all, all.subspan(head)));
}

Result<std::shared_ptr<SharedSegment>> SharedSegment::of_this_process(size_t bytes) {
  return map(-1, round_up(bytes), 0);
}

Result<std::shared_ptr<SharedSegment>> SharedSegment::open_once(Collective& bootstrap, size_t bytes,
                                                                SegmentKind kind) {
  const int rank = bootstrap.rank();
  const int size = bootstrap.size();
  const size_t head = round_up((1 + static_cast<size_t>(size)) * sizeof(Word));
  const size_t mapped = head + round_up(bytes);

  Source source;
  Offer offer;
  if (rank == 0) offer.verdict = Verdict::of(source.make(mapped, kind, offer));
  TAILOR_TRY(bootstrap.broadcast(bytes_of(offer), 0));
  if (offer.verdict.code != 0)
    return fail(static_cast<ErrorCode>(offer.verdict.code),
                std::string("rank 0: ") + offer.verdict.text.data());

  std::shared_ptr<SharedSegment> segment;
  const auto join = [&]() -> Result<void> {
    if (rank == 0) {
      TAILOR_ASSIGN(segment, map(source.fd(), mapped, head));
      return {};
    }
    TAILOR_ASSIGN(const int fd, open_offered(offer, mapped));
    auto mapping = map(fd, mapped, head);
    close(fd);
    TAILOR_ASSIGN(segment, std::move(mapping));
    return {};
  };
  Result<void> joined = join();
  if (rank == 0 && joined) {
    for (int r = 0; r <= size; ++r) new (segment->mapped_.data() + r * sizeof(Word)) Word(0);
    head_words(segment->mapped_.data())[0].store(offer.nonce, std::memory_order_release);
  }
  Result<void> all_joined = agree(bootstrap, joined);
  source.unlink();
  TAILOR_TRY(std::move(all_joined));

  Word* words = head_words(segment->mapped_.data());
  Result<void> read;
  if (words[0].load(std::memory_order_acquire) != offer.nonce)
    read = fail(ErrorCode::kUnavailable,
                std::string(offer.path.data()) + " is not rank 0's shared memory here");
  else
    words[1 + rank].store(answer(offer.nonce, rank), std::memory_order_release);
  TAILOR_TRY(agree(bootstrap, read));

  for (int r = 0; r < size && read; ++r) {
    if (words[1 + r].load(std::memory_order_acquire) != answer(offer.nonce, r))
      read = fail(ErrorCode::kUnavailable,
                  "what rank " + std::to_string(r) + " wrote into the shared memory is not there");
  }
  TAILOR_TRY(agree(bootstrap, read));
  return segment;
}

Result<std::shared_ptr<SharedSegment>> SharedSegment::open(Collective& bootstrap, size_t bytes,
                                                           SegmentKind kind) {
  if (kind != SegmentKind::kAny) return open_once(bootstrap, bytes, kind);
  auto unnamed = open_once(bootstrap, bytes, SegmentKind::kUnnamed);
  if (unnamed || unnamed.error().code != ErrorCode::kUnavailable) return unnamed;
  auto named = open_once(bootstrap, bytes, SegmentKind::kNamed);
  if (!named && named.error().code == ErrorCode::kUnavailable)
    return fail_with(unnamed.error().message + "; by name", named.error());
  return named;
}

}  // namespace tailor::comm
