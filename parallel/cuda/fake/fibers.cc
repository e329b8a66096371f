#include "parallel/cuda/fake/fibers.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <boost/context/fiber.hpp>
#include <boost/context/protected_fixedsize_stack.hpp>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "base/check.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

namespace tailor::parallel::gpu::fake {
namespace {

namespace context = boost::context;

constexpr size_t kStackBytes = size_t{256} << 10;
constexpr uint32_t kWarp = 32;
constexpr uint32_t kMaxThreads = 1024;
constexpr int kPoison = 0xFF;  // NaN in F32, F64 and BF16, -1 in integers

// ASan follows a switch of stacks when it is told of it.
#if defined(__SANITIZE_ADDRESS__)
void leaving(void** kept, const void* bottom, size_t bytes) {
  __sanitizer_start_switch_fiber(kept, bottom, bytes);
}
void arrived(void* kept, const void** bottom, size_t* bytes) {
  __sanitizer_finish_switch_fiber(kept, bottom, bytes);
}
#else
void leaving(void**, const void*, size_t) {}
void arrived(void*, const void**, size_t*) {}
#endif

/// SplitMix64. Source: Steele, Lea, Flood, OOPSLA 2014.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint32_t below(uint32_t n) {
    uint64_t z = state_ += 0x9E3779B97F4A7C15;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
    return static_cast<uint32_t>(((z ^ (z >> 31)) >> 32) * n >> 32);
  }

 private:
  uint64_t state_;
};

/// Who is ready, and who of them goes on. Each block has one of three orders: anyone, by a draw
/// each time, so that all advance alike; or the first in an order of all threads, or of all warps,
/// that is drawn once, so that some run ahead of others as far as barriers let them. The second
/// kind finds what needs a thread to fall far behind, the first what needs many to change places.
class Ready {
 public:
  void begin(uint32_t threads, Random& random) {
    random_ = &random;
    threads_.clear();
    ranks_.fill(0);
    const uint32_t order = random.below(3);
    anyone_ = order == 0;
    if (anyone_) return;
    at_rank_.resize(threads);
    rank_of_.resize(threads);
    std::iota(at_rank_.begin(), at_rank_.end(), 0u);
    const uint32_t run = order == 1 ? 1 : kWarp;  // what stays together
    for (uint32_t left = threads / run; left > 1; --left) {
      const auto one = at_rank_.begin() + random.below(left) * run;
      std::swap_ranges(one, one + run, at_rank_.begin() + (left - 1) * run);
    }
    for (uint32_t rank = 0; rank < threads; ++rank) rank_of_[at_rank_[rank]] = rank;
  }
  void add(uint32_t thread) {
    if (anyone_) {
      threads_.push_back(thread);
    } else {
      ranks_[rank_of_[thread] / 64] |= uint64_t{1} << rank_of_[thread] % 64;
    }
  }
  /// Takes one out; -1 when there is none.
  int take() {
    if (anyone_) {
      if (threads_.empty()) return -1;
      std::swap(threads_[random_->below(static_cast<uint32_t>(threads_.size()))], threads_.back());
      const auto thread = static_cast<int>(threads_.back());
      threads_.pop_back();
      return thread;
    }
    for (size_t word = 0; word < ranks_.size(); ++word) {
      if (ranks_[word] == 0) continue;
      const auto rank = word * 64 + static_cast<size_t>(std::countr_zero(ranks_[word]));
      ranks_[word] &= ranks_[word] - 1;
      return static_cast<int>(at_rank_[rank]);
    }
    return -1;
  }

 private:
  Random* random_ = nullptr;
  bool anyone_ = true;
  std::vector<uint32_t> threads_;                   // ready, where anyone may go on
  std::vector<uint32_t> at_rank_, rank_of_;         // the order, where there is one
  std::array<uint64_t, kMaxThreads / 64> ranks_{};  // ready, in that order
};

enum class At : uint8_t { kReady, kBarrier, kExchange, kEnd };
const char* name(At at) {
  switch (at) {
    case At::kReady:
      return "is ready";
    case At::kBarrier:
      return "waits at __syncthreads";
    case At::kExchange:
      return "waits in an exchange of its warp";
    case At::kEnd:
      return "has ended";
  }
  return "";
}

struct Fiber {
  Thread self;
  At at = At::kEnd;
  context::fiber body, scheduler;
  const void *bottom = nullptr, *scheduler_bottom = nullptr;
  size_t scheduler_bytes = 0;
  void* kept = nullptr;
};

/// An exchange of a warp. Two rounds of values: a lane may be one exchange ahead of a slow one.
struct Warp {
  uint32_t arrived = 0;
  Exchange kind = Exchange::kSync;
  std::array<uint64_t, kWarp> values[2];
  std::array<uint8_t, kWarp> round;  // of each lane's next exchange
};

struct SharedArray {
  const void* key = nullptr;
  size_t bytes = 0;
  std::unique_ptr<void, void (*)(void*)> memory{nullptr, std::free};
  uint64_t filled_for = 0;
};

class Runner {
 public:
  ~Runner() {
    stopping_ = true;
    for (auto& fiber : fibers_) resume(*fiber);
  }

  void run(const Launch& launch, uint64_t seed) {
    const Dim3 grid = launch.grid, block = launch.block;
    threads_ = block.x * block.y * block.z;
    TAILOR_CHECK(threads_ > 0 && threads_ % kWarp == 0 && threads_ <= kMaxThreads,
                 "a block has whole warps, at most 32");
    TAILOR_CHECK(launch_ == nullptr, "a kernel launches no kernel");
    launch_ = &launch;
    Random random(seed);
    while (fibers_.size() < threads_) add_fiber();
    warps_.resize(threads_ / kWarp);
    shared_.clear();
    dynamic_ = SharedArray{};
    dynamic_.bytes = launch.shared_bytes;
    dynamic_.memory.reset(std::malloc(launch.shared_bytes));

    std::vector<uint64_t> blocks(uint64_t{grid.x} * grid.y * grid.z);
    std::iota(blocks.begin(), blocks.end(), uint64_t{0});
    for (size_t left = blocks.size(); left > 0; --left) {
      std::swap(blocks[random.below(static_cast<uint32_t>(left))], blocks[left - 1]);
      run_block(blocks[left - 1], random);
    }
    launch_ = nullptr;
  }

  void sync_threads() {
    Fiber& fiber = *current_;
    fiber.at = At::kBarrier;
    if (++at_barrier_ == threads_) {
      at_barrier_ = 0;
      for (uint32_t i = 0; i < threads_; ++i) make_ready(i);
    }
    yield(fiber);
  }

  /// Deposits and waits; returns the values of all lanes, which stay until the lane's exchange
  /// after the next.
  const std::array<uint64_t, kWarp>& exchange(Exchange kind, uint64_t value) {
    Fiber& fiber = *current_;
    const uint32_t thread = fiber.self.index, lane = thread % kWarp;
    Warp& warp = warps_[thread / kWarp];
    if (warp.arrived == 0) warp.kind = kind;
    TAILOR_CHECK(warp.kind == kind, "lanes of a warp are in different exchanges");
    auto& values = warp.values[warp.round[lane]];
    warp.round[lane] ^= 1;
    values[lane] = value;
    fiber.at = At::kExchange;
    if (++warp.arrived == kWarp) {
      warp.arrived = 0;
      for (uint32_t i = 0; i < kWarp; ++i) make_ready(thread - lane + i);
    }
    yield(fiber);
    return values;
  }

  void* shared(const void* key, size_t bytes) {
    for (SharedArray& array : shared_)
      if (array.key == key) return filled(array);
    SharedArray& array = shared_.emplace_back();
    array.key = key;
    array.bytes = bytes;
    array.memory.reset(std::malloc(bytes));
    return filled(array);
  }
  void* dynamic_shared() { return filled(dynamic_); }

 private:
  void run_block(uint64_t index, Random& random) {
    const Dim3 grid = launch_->grid, block = launch_->block;
    const Dim3 at{static_cast<unsigned>(index % grid.x),
                  static_cast<unsigned>(index / grid.x % grid.y),
                  static_cast<unsigned>(index / grid.x / grid.y)};
    ++block_;
    at_barrier_ = 0;
    for (Warp& warp : warps_) {
      warp.arrived = 0;
      warp.round.fill(0);
    }
    ready_.begin(threads_, random);
    for (uint32_t i = 0; i < threads_; ++i) {
      fibers_[i]->self = {
          {i % block.x, i / block.x % block.y, i / block.x / block.y}, at, block, grid, i};
      make_ready(i);
    }
    uint32_t ended = 0;
    for (int next = ready_.take(); next >= 0; next = ready_.take()) {
      Fiber& fiber = *fibers_[static_cast<size_t>(next)];
      resume(fiber);
      ended += fiber.at == At::kEnd;
    }
    if (ended != threads_) stuck(at);
  }

  [[noreturn]] void stuck(Dim3 block) const {
    std::string what = std::string("kernel ") + launch_->kernel + ", block " +
                       std::to_string(block.x) + " " + std::to_string(block.y) + ":";
    At last = At::kReady;
    for (uint32_t i = 0; i < threads_; ++i) {
      if (fibers_[i]->at == last) continue;
      last = fibers_[i]->at;
      what += " thread " + std::to_string(i) + " " + name(last) + ",";
    }
    what += " and so for ever";
    check_failed("all threads of a block come to a barrier, and all lanes to an exchange", __FILE__,
                 __LINE__, what.c_str());
  }

  void make_ready(uint32_t index) {
    fibers_[index]->at = At::kReady;
    ready_.add(index);
  }

  void* filled(SharedArray& array) {
    if (array.filled_for != block_) {
      std::memset(array.memory.get(), kPoison, array.bytes);
      array.filled_for = block_;
    }
    return array.memory.get();
  }

  void add_fiber() {
    Fiber& fiber = *fibers_.emplace_back(std::make_unique<Fiber>());
    context::protected_fixedsize_stack stacks(kStackBytes);
    const context::stack_context stack = stacks.allocate();
    fiber.bottom = static_cast<const char*>(stack.sp) - stack.size;
    fiber.body =
        context::fiber(std::allocator_arg, context::preallocated(stack.sp, stack.size, stack),
                       stacks, [this, &fiber](context::fiber&& scheduler) {
                         arrived(nullptr, &fiber.scheduler_bottom, &fiber.scheduler_bytes);
                         fiber.scheduler = std::move(scheduler);
                         while (!stopping_) {
                           launch_->thread();
                           fiber.at = At::kEnd;
                           yield(fiber);
                         }
                         leaving(nullptr, fiber.scheduler_bottom, fiber.scheduler_bytes);
                         return std::move(fiber.scheduler);
                       });
  }

  void resume(Fiber& fiber) {
    current_ = &fiber;
    current = &fiber.self;
    void* kept = nullptr;
    leaving(&kept, fiber.bottom, kStackBytes);
    fiber.body = std::move(fiber.body).resume();
    arrived(kept, nullptr, nullptr);
    current_ = nullptr;
    current = nullptr;
  }

  static void yield(Fiber& fiber) {
    leaving(&fiber.kept, fiber.scheduler_bottom, fiber.scheduler_bytes);
    fiber.scheduler = std::move(fiber.scheduler).resume();
    arrived(fiber.kept, &fiber.scheduler_bottom, &fiber.scheduler_bytes);
  }

  std::vector<std::unique_ptr<Fiber>> fibers_;
  Fiber* current_ = nullptr;
  bool stopping_ = false;
  // of the launch
  const Launch* launch_ = nullptr;
  uint32_t threads_ = 0;
  std::vector<SharedArray> shared_;
  SharedArray dynamic_;
  // of the block
  uint64_t block_ = 0;
  Ready ready_;
  uint32_t at_barrier_ = 0;
  std::vector<Warp> warps_;
};

Runner& runner() {
  thread_local Runner runner;
  return runner;
}

std::atomic<uint64_t> seeds{1};

}  // namespace

void run(const Launch& launch, uint64_t seed) { runner().run(launch, seed); }
void set_next_seed(uint64_t seed) { seeds = seed; }
uint64_t next_seed() { return seeds++; }

void sync_threads() { runner().sync_threads(); }

void exchange(Exchange kind, const void* value, size_t bytes, int from, void* out) {
  uint64_t word = 0;
  TAILOR_CHECK(bytes <= sizeof word && from >= 0 && from < static_cast<int>(kWarp),
               "an exchange of at most 8 bytes, from a lane");
  if (bytes > 0) std::memcpy(&word, value, bytes);
  const uint64_t taken = runner().exchange(kind, word)[static_cast<size_t>(from)];
  if (bytes > 0) std::memcpy(out, &taken, bytes);
}

uint32_t ballot(bool predicate) {
  const auto& values = runner().exchange(Exchange::kBallot, predicate);
  uint32_t lanes = 0;
  for (uint32_t i = 0; i < kWarp; ++i) lanes |= static_cast<uint32_t>(values[i]) << i;
  return lanes;
}

void* shared(const void* key, size_t bytes) { return runner().shared(key, bytes); }
void* dynamic_shared() { return runner().dynamic_shared(); }

}  // namespace tailor::parallel::gpu::fake
