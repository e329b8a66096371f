#include "comm/collective_shm.h"

#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <new>
#include <optional>
#include <string>
#include <utility>

#include "base/clock.h"
#include "comm/collective_checks.h"

namespace tailor::comm {
namespace {

constexpr size_t kLine = 128;  // two lines: the neighbour is fetched along
constexpr size_t kPage = 4096;
constexpr int kSlots = 2;
// between two readings of the clock; that many are made before any yield
constexpr int kLooksPerClock = 16;
constexpr size_t kStreamedBytes = 6 * 1024;
constexpr int kFewYields = 2;
constexpr Duration kSpinStep = microseconds(1);
constexpr int kMostRanks = 1 << 16;
constexpr Duration kLongestNap = milliseconds(100);  // a waker may be killed before it wakes

/// What a rank called, as one number: equal on all ranks, or they disagree.
struct Call {
  Operation operation = Operation::kBarrier;
  int root = 0;
  size_t bytes = 0;  // at most INT_MAX

  uint64_t packed() const {
    return static_cast<uint64_t>(operation) << 56 | static_cast<uint64_t>(root) << 32 | bytes;
  }
  static Call unpacked(uint64_t packed) {
    return {static_cast<Operation>(packed >> 56), static_cast<int>(packed >> 32 & 0xffffff),
            packed & 0xffffffff};
  }
};

std::string describe(const Call& call) {
  std::string text = name(call.operation);
  if (call.operation == Operation::kBarrier) return text;
  text += " of " + std::to_string(call.bytes) + " bytes";
  const bool rooted = call.operation != Operation::kAllGather;
  return rooted ? text + " with root " + std::to_string(call.root) : text;
}

/// What one rank tells the others, in the segment.
struct Cell {
  /// 2 * the round this rank has entered, + 1 once it has left the group. Written by its rank
  /// alone; the futex of those who wait for it.
  alignas(kLine) std::atomic<uint32_t> word{0};
  std::array<uint64_t, kSlots> calls{};  // of that round and the one before; ordered by `word`
  /// How many sleep on `word`.
  alignas(kLine) std::atomic<uint32_t> sleepers{0};
};
static_assert(std::atomic<uint32_t>::is_always_lock_free && sizeof(std::atomic<uint32_t>) == 4,
              "processes share it, and the kernel reads it as a futex");

constexpr uint32_t kLeft = 1;

/// Rounds wrap around: they are compared by their distance.
bool reached(uint32_t word, uint32_t round) {
  return static_cast<int32_t>((word & ~kLeft) - 2 * round) >= 0;
}

/// Where things lie in the segment: the cells, then [rank][slot][slot_bytes].
struct Layout {
  int size = 0;
  size_t slot_bytes = 0;

  size_t cells_bytes() const {
    return (static_cast<size_t>(size) * sizeof(Cell) + kPage - 1) / kPage * kPage;
  }
  size_t slot_stride() const { return (slot_bytes + kPage - 1) / kPage * kPage; }
  size_t bytes() const {
    return cells_bytes() + static_cast<size_t>(size) * kSlots * slot_stride();
  }
  Cell* cell(std::byte* base, int rank) const {
    return std::launder(reinterpret_cast<Cell*>(base + rank * sizeof(Cell)));
  }
  std::byte* slot(std::byte* base, int rank, uint32_t round) const {
    const size_t index = static_cast<size_t>(rank) * kSlots + round % kSlots;
    return base + cells_bytes() + index * slot_stride();
  }
};

void pause_core() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("isb");
#endif
}

/// Writes into a slot. Long parts go past the caches: the slot's lines lie in the caches of those
/// who read it last, and taking them back costs more than all the rest where cores are far apart
/// (docs/decisions/006 has the figures). Short parts are quicker within.
void copy_into_slot(std::byte* slot, const std::byte* from, size_t bytes) {
#if defined(__SSE2__) && !defined(__SANITIZE_THREAD__)  // whose sanitizer would not see the stores
  if (bytes >= kStreamedBytes) {
    constexpr size_t kStep = 4 * sizeof(__m128i);
    const size_t streamed = bytes / kStep * kStep;
    for (size_t at = 0; at < streamed; at += kStep) {
      const auto* in = reinterpret_cast<const __m128i*>(from + at);
      auto* out = reinterpret_cast<__m128i*>(slot + at);  // a slot begins at a page
      const __m128i a = _mm_loadu_si128(in), b = _mm_loadu_si128(in + 1),
                    c = _mm_loadu_si128(in + 2), d = _mm_loadu_si128(in + 3);
      _mm_stream_si128(out, a);
      _mm_stream_si128(out + 1, b);
      _mm_stream_si128(out + 2, c);
      _mm_stream_si128(out + 3, d);
    }
    _mm_sfence();  // a release store does not order streamed ones
    slot += streamed, from += streamed, bytes -= streamed;
  }
#endif
  if (bytes > 0) std::memcpy(slot, from, bytes);
}

/// Sleeps while `word` holds `seen`, at most `limit`. Shared between processes: not FUTEX_PRIVATE.
void futex_sleep(const std::atomic<uint32_t>& word, uint32_t seen, Duration limit) {
  const timespec most{limit / seconds(1), static_cast<long>((limit % seconds(1)).count())};
  syscall(SYS_futex, &word, FUTEX_WAIT, seen, &most, nullptr, 0);  // every return means: look again
}
void futex_wake_all(const std::atomic<uint32_t>& word) {
  syscall(SYS_futex, &word, FUTEX_WAKE, INT32_MAX, nullptr, nullptr, 0);
}

int usable_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  return sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
}

class ShmCollective final : public Collective {
 public:
  /// The segment's cells have been made.
  ShmCollective(std::shared_ptr<SharedSegment> segment, const Layout& layout, int rank,
                const ShmOptions& options)
      : segment_(std::move(segment)),
        layout_(layout),
        base_(segment_->bytes().data()),
        rank_(rank),
        own_(*layout.cell(base_, rank)),
        deadline_(options.deadline),
        spin_most_(std::max(options.ranks_on_host, layout.size) > usable_cores() ? Duration(0)
                                                                                 : options.spin),
        yield_for_(options.yield_for),
        spin_(spin_most_),
        checked_(layout.size, 0) {}

  ~ShmCollective() override { leave(); }

  int rank() const override { return rank_; }
  int size() const override { return layout_.size; }

  Result<void> broadcast(std::span<std::byte> data, int root) override {
    TAILOR_TRY(check_root("broadcast", root, size()));
    TAILOR_TRY(check_bytes("broadcast", data.size()));
    const bool sends = rank_ == root;
    return run({Operation::kBroadcast, root, data.size()}, sends ? data : std::span<std::byte>(),
               [&](size_t at, size_t bytes) -> Result<void> {
                 if (sends) return {};
                 TAILOR_TRY(meet(root));
                 copy(data.data() + at, slot_of(root), bytes);
                 return {};
               });
  }

  Result<void> all_gather(std::span<const std::byte> mine, std::span<std::byte> out) override {
    TAILOR_TRY(check_gathered_sizes("all_gather", mine.size(), out.size(), size()));
    return run({Operation::kAllGather, 0, mine.size()}, mine,
               [&](size_t at, size_t bytes) { return collect(mine, out, at, bytes); });
  }

  Result<void> gather(std::span<const std::byte> mine, std::span<std::byte> out,
                      int root) override {
    TAILOR_TRY(check_root("gather", root, size()));
    TAILOR_TRY(check_bytes("gather", mine.size()));
    if (rank_ == root) TAILOR_TRY(check_gathered_sizes("gather", mine.size(), out.size(), size()));
    return run({Operation::kGather, root, mine.size()},
               rank_ == root ? std::span<const std::byte>() : mine,
               [&](size_t at, size_t bytes) -> Result<void> {
                 return rank_ == root ? collect(mine, out, at, bytes) : Result<void>();
               });
  }

  Result<void> barrier() override {
    return run({Operation::kBarrier, 0, 0}, {}, [&](size_t, size_t) -> Result<void> {
      for (int d = 1; d < size(); ++d) TAILOR_TRY(meet((rank_ + d) % size()));
      return {};
    });
  }

 private:
  const std::byte* slot_of(int peer) const { return layout_.slot(base_, peer, round_); }

  static void copy(std::byte* to, const std::byte* from, size_t bytes) {
    if (bytes > 0) std::memcpy(to, from, bytes);
  }

  /// Every rank's piece [at, at + bytes) into its place of `out`.
  Result<void> collect(std::span<const std::byte> mine, std::span<std::byte> out, size_t at,
                       size_t bytes) {
    const auto place = [&](int rank) { return out.data() + rank * mine.size() + at; };
    if (bytes > 0 && place(rank_) != mine.data() + at)
      std::memmove(place(rank_), mine.data() + at, bytes);
    for (int d = 1; d < size(); ++d) {
      const int peer = (rank_ + d) % size();
      TAILOR_TRY(meet(peer));
      copy(place(peer), slot_of(peer), bytes);
    }
    return {};
  }

  /// One call: `sent` goes out piece by piece (empty: this rank sends nothing); after each,
  /// `receive(at, bytes)` waits for those it needs in this round and copies.
  template <class Receive>
  Result<void> run(const Call& call, std::span<const std::byte> sent, const Receive& receive) {
    if (broken_) return fail_with("the group is broken", *broken_);
    call_ = call;
    ++sequence_;
    started_ = Time{};
    size_t at = 0;
    do {
      const size_t bytes = std::min(call.bytes - at, layout_.slot_bytes);
      // All have entered the round before: its other slot and its older call may be written over.
      // Who did not need them then is compared with them now.
      for (int d = 1; d < size(); ++d) TAILOR_TRY(meet((rank_ + d) % size()));
      ++round_;
      round_sequence_ = sequence_;
      if (!sent.empty())
        copy_into_slot(layout_.slot(base_, rank_, round_), sent.data() + at, bytes);
      own_.calls[round_ % kSlots] = call.packed();
      enter();
      TAILOR_TRY(receive(at, bytes));
      at += bytes;
    } while (at < call.bytes);
    return {};
  }

  /// Says that this rank has entered round_. Sequentially consistent, as a sleeper's count and look
  /// are: either it sees the new word or we see that it sleeps.
  void enter() {
    own_.word.store(2 * round_, std::memory_order_seq_cst);
    if (own_.sleepers.load(std::memory_order_seq_cst) != 0) futex_wake_all(own_.word);
  }

  void leave() {
    if (own_.word.load(std::memory_order_relaxed) & kLeft) return;
    own_.word.fetch_or(kLeft, std::memory_order_seq_cst);
    if (own_.sleepers.load(std::memory_order_seq_cst) != 0) futex_wake_all(own_.word);
  }

  /// Waits until `peer` has entered round_ too, and compares what it called there.
  Result<void> meet(int peer) {
    if (checked_[peer] == round_) return {};
    Cell& cell = *layout_.cell(base_, peer);
    if (!reached(cell.word.load(std::memory_order_acquire), round_)) TAILOR_TRY(wait(peer, cell));
    checked_[peer] = round_;
    const uint64_t theirs = cell.calls[round_ % kSlots];
    const uint64_t ours = own_.calls[round_ % kSlots];
    if (theirs != ours) return give_up(disagreement(peer, theirs, ours));
    return {};
  }

  Result<void> wait(int peer, Cell& cell) {
    int looks = 0, next_clock = kLooksPerClock, yields = 0;
    Time began{};  // of this wait: read late, a wait that ends at once reads no clock
    Duration waited{};
    for (;;) {
      const uint32_t word = cell.word.load(std::memory_order_acquire);
      if (reached(word, round_)) return learn(yields), Result<void>();
      if (word & kLeft)
        return give_up(Error{ErrorCode::kInternal,
                             where() + ": rank " + std::to_string(peer) + " has left the group"});
      if (++looks >= next_clock) {
        next_clock = looks + kLooksPerClock;
        const Time at = now();
        if (began == Time{}) began = at;
        if (started_ == Time{}) started_ = at;
        if (at - started_ >= deadline_) return give_up(timed_out());
        waited = at - began;
      }
      if (looks < kLooksPerClock || waited < spin_) {
        pause_core();
      } else if (waited < spin_ + yield_for_) {
        sched_yield();
        ++yields;
      } else {
        cell.sleepers.fetch_add(1, std::memory_order_seq_cst);
        if (cell.word.load(std::memory_order_seq_cst) == word)
          futex_sleep(cell.word, word,
                      std::min(kLongestNap, started_ + deadline_ - (began + waited)));
        cell.sleepers.fetch_sub(1, std::memory_order_seq_cst);
        next_clock = looks;
      }
    }
  }

  /// Ranks may sit on one core even where there are enough, if something else runs too: then the
  /// peer comes only once we yield, and at once. So the spin halves where it ends that way, down to
  /// a few looks, and doubles where it was enough.
  void learn(int yields) {
    if (yields == 0) {
      spin_ = std::min(std::max(2 * spin_, kSpinStep), spin_most_);
    } else if (yields <= kFewYields) {
      spin_ = spin_ / 2 < kSpinStep ? Duration(0) : spin_ / 2;
    }
  }

  std::string where() const {
    return std::string(name(call_.operation)) + " #" + std::to_string(sequence_) + " on rank " +
           std::to_string(rank_) + " of " + std::to_string(size());
  }

  Error disagreement(int peer, uint64_t theirs, uint64_t ours) const {
    return Error{ErrorCode::kInternal,
                 "call #" + std::to_string(round_sequence_) + ": rank " + std::to_string(peer) +
                     " called " + describe(Call::unpacked(theirs)) + " where rank " +
                     std::to_string(rank_) + " called " + describe(Call::unpacked(ours))};
  }

  Error timed_out() const {
    std::vector<int> missing;
    for (int r = 0; r < size(); ++r) {
      const Cell& cell = *layout_.cell(base_, r);
      if (r != rank_ && !reached(cell.word.load(std::memory_order_acquire), round_))
        missing.push_back(r);
    }
    return timeout_error(name(call_.operation), sequence_, rank_, size(), missing, deadline_);
  }

  Unexpected give_up(Error error) {
    broken_ = error;
    leave();
    return fail(std::move(error));
  }

  const std::shared_ptr<SharedSegment> segment_;
  const Layout layout_;
  std::byte* const base_;
  const int rank_;
  Cell& own_;
  const Duration deadline_;
  const Duration spin_most_;
  const Duration yield_for_;

  Duration spin_;  // now, from zero to most
  std::optional<Error> broken_;
  Call call_;                      // in progress
  uint64_t sequence_ = 0;          // of calls
  uint32_t round_ = 0;             // entered last
  uint64_t round_sequence_ = 0;    // the call it belongs to
  Time started_{};                 // of this call's first long wait
  std::vector<uint32_t> checked_;  // [rank]: the last round in which it was met
};

Result<Layout> checked_layout(int size, const ShmOptions& options) {
  if (size < 1 || size > kMostRanks)
    return fail(ErrorCode::kInvalidArgument, "a group has 1 to " + std::to_string(kMostRanks) +
                                                 " ranks, found " + std::to_string(size));
  if (options.slot_bytes < 1 || options.slot_bytes > size_t{1} << 30)
    return fail(ErrorCode::kInvalidArgument, "a slot has 1 byte to 1 GiB, found " +
                                                 std::to_string(options.slot_bytes) + " bytes");
  return Layout{size, options.slot_bytes};
}

/// Rank 0, before any other looks.
void make_cells(SharedSegment& segment, const Layout& layout) {
  for (int rank = 0; rank < layout.size; ++rank)
    new (segment.bytes().data() + rank * sizeof(Cell)) Cell;
}

/// Boot and name of this host, as far as they tell hosts apart.
struct HostIdentity {
  std::array<char, 64> boot{};
  std::array<char, 256> host{};
};

HostIdentity host_identity() {
  HostIdentity out;
  std::string boot;
  std::ifstream("/proc/sys/kernel/random/boot_id") >> boot;
  std::strncpy(out.boot.data(), boot.c_str(), out.boot.size() - 1);
  gethostname(out.host.data(), out.host.size() - 1);
  return out;
}

}  // namespace

Result<bool> ranks_share_host(Collective& bootstrap) {
  const HostIdentity mine = host_identity();
  std::vector<HostIdentity> all(bootstrap.size());
  TAILOR_TRY(bootstrap.all_gather(std::as_bytes(std::span(&mine, 1)),
                                  std::as_writable_bytes(std::span(all))));
  for (const HostIdentity& other : all)
    if (other.boot != all[0].boot || other.host != all[0].host) return false;
  auto probe = SharedSegment::open(bootstrap, kPage);
  if (probe) return true;
  const ErrorCode code = probe.error().code;
  if (code == ErrorCode::kUnavailable || code == ErrorCode::kLimitExceeded) return false;
  return fail(std::move(probe.error()));
}

Result<std::unique_ptr<Collective>> make_shm_collective(Collective& bootstrap,
                                                        const ShmOptions& options) {
  TAILOR_ASSIGN(const Layout layout, checked_layout(bootstrap.size(), options));
  TAILOR_ASSIGN(auto segment, SharedSegment::open(bootstrap, layout.bytes(), options.segment));
  if (bootstrap.rank() == 0) make_cells(*segment, layout);
  TAILOR_TRY(bootstrap.barrier());
  return std::make_unique<ShmCollective>(std::move(segment), layout, bootstrap.rank(), options);
}

Result<std::vector<std::unique_ptr<Collective>>> make_shm_collectives_of_process(
    int size, const ShmOptions& options) {
  TAILOR_ASSIGN(const Layout layout, checked_layout(size, options));
  TAILOR_ASSIGN(auto segment, SharedSegment::of_this_process(layout.bytes()));
  make_cells(*segment, layout);
  std::vector<std::unique_ptr<Collective>> ranks;
  for (int rank = 0; rank < size; ++rank)
    ranks.push_back(std::make_unique<ShmCollective>(segment, layout, rank, options));
  return ranks;
}

}  // namespace tailor::comm
