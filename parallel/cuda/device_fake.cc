#include "parallel/cuda/device_fake.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "base/check.h"
#include "base/clock.h"
#include "parallel/cuda/stream_fake.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace tailor::parallel::gpu {
namespace {

/// Fresh memory up to this size is filled with NaNs (of F32 and BF16 alike); larger is left zero,
/// and so untouched.
constexpr size_t kPoisonedBytes = size_t{64} << 20;

/// What lies between `begin` and `end` may not be touched under ASan.
void poison(std::byte* begin, std::byte* end, bool poisoned) {
#if defined(__SANITIZE_ADDRESS__)
  if (poisoned)
    ASAN_POISON_MEMORY_REGION(begin, end - begin);
  else
    ASAN_UNPOISON_MEMORY_REGION(begin, end - begin);
#else
  (void)begin, (void)end, (void)poisoned;
#endif
}

size_t page_bytes() { return static_cast<size_t>(sysconf(_SC_PAGESIZE)); }

/// An allocation: whole pages and one behind them that nobody may touch.
struct Block {
  size_t bytes = 0;
  bool pinned = false;
  size_t mapped() const { return (bytes + page_bytes() - 1) / page_bytes() * page_bytes(); }
};

/// One recording of an event.
struct Point {
  std::atomic<bool> passed{false};
  Time when{};
};

/// What the streams of a device share.
struct Shared {
  explicit Shared(const FakeDeviceOptions& options) : options(options) {}

  const FakeDeviceOptions options;
  std::atomic<int64_t> pieces{0};
  std::mutex mutex;
  std::condition_variable changed;  // a point is passed, work comes, a stream closes
  std::optional<Error> failed;      // guarded by mutex: nothing runs any more
};

class FakeStream final : public StreamHandle {
 public:
  FakeStream(Shared& shared, uint64_t seed)
      : shared_(shared), random_(seed), thread_([this] { run(); }) {}
  /// Behind all its work, unless it hangs.
  ~FakeStream() override {
    {
      const std::lock_guard lock(shared_.mutex);
      closing_ = true;
    }
    shared_.changed.notify_all();
    thread_.join();
  }

  Result<void> put(std::function<Result<void>()> work) override {
    {
      const std::lock_guard lock(shared_.mutex);
      if (shared_.failed) return fail(*shared_.failed);
      queue_.push_back(std::move(work));
    }
    shared_.changed.notify_all();
    return {};
  }

  /// In the stream: until the point is passed, or this stream closes.
  void wait_for(const Point& point) {
    std::unique_lock lock(shared_.mutex);
    shared_.changed.wait(lock, [&] { return point.passed || closing_ || shared_.failed; });
  }

 private:
  void run() {
    for (;;) {
      std::function<Result<void>()> work;
      {
        std::unique_lock lock(shared_.mutex);
        shared_.changed.wait(lock, [&] { return closing_ || !queue_.empty(); });
        if (queue_.empty()) return;
        work = std::move(queue_.front());
        queue_.pop_front();
        if (shared_.failed) continue;
        if (shared_.options.hangs_after >= 0 && shared_.pieces++ >= shared_.options.hangs_after) {
          shared_.changed.wait(lock, [&] { return closing_; });
          return;
        }
      }
      pause();
      if (auto done = work(); !done) {
        const std::lock_guard lock(shared_.mutex);
        if (!shared_.failed) shared_.failed = done.error();
        shared_.changed.notify_all();
      }
    }
  }

  void pause() {
    const auto most = static_cast<uint64_t>(shared_.options.late_by.count());
    if (most == 0 || random_() % 8 != 0) return;
    std::this_thread::sleep_for(Duration(random_() % most));
  }

  Shared& shared_;
  std::deque<std::function<Result<void>()>> queue_;  // guarded by the shared mutex
  bool closing_ = false;                             // guarded by the shared mutex
  std::mt19937_64 random_;                           // of the thread
  std::thread thread_;                               // last: begins when all else is there
};

}  // namespace

struct EventHandle {
  std::shared_ptr<Point> point;  // null: not recorded yet
  bool timed = false;
};

struct Device::State {
  explicit State(const FakeDeviceOptions& options) : shared(options) {
    properties.name = "fake device";
    properties.multiprocessors = 1;
    properties.memory_bytes = options.memory_bytes;
    main = std::make_unique<FakeStream>(shared, options.seed);
  }

  Result<void> healthy() {
    const std::lock_guard lock(shared.mutex);
    return shared.failed ? Result<void>(fail(*shared.failed)) : Result<void>();
  }

  /// Null: the system refuses.
  std::byte* map(size_t bytes, bool pinned) {
    const Block block{bytes, pinned};
    void* at = mmap(nullptr, block.mapped() + page_bytes(), PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED) return nullptr;
    auto* data = static_cast<std::byte*>(at);
    mprotect(data + block.mapped(), page_bytes(), PROT_NONE);
    if (bytes <= kPoisonedBytes) std::memset(data, 0xff, bytes);
    poison(data + bytes, data + block.mapped(), true);
    blocks.emplace(data, block);
    (pinned ? use.pinned_bytes : use.device_bytes) += bytes;
    return data;
  }

  /// A copy stays inside one of our blocks: what is not pinned a real device copies otherwise.
  bool holds(const void* data, size_t bytes) const {
    const auto* at = static_cast<const std::byte*>(data);
    auto block = blocks.upper_bound(const_cast<std::byte*>(at));
    if (block == blocks.begin()) return false;
    --block;
    return at + bytes <= block->first + block->second.bytes;
  }

  Shared shared;
  DeviceProperties properties;
  std::map<std::byte*, Block> blocks;
  FakeDeviceUse use;
  uint64_t streams = 0;
  std::unique_ptr<FakeStream> main;
};

Device::Device(std::unique_ptr<State> state) : state_(std::move(state)) {}

Device::~Device() {
  state_->main.reset();
  for (const auto& [data, block] : state_->blocks) {
    poison(data, data + block.mapped(), false);
    munmap(data, block.mapped() + page_bytes());
  }
}

Result<std::unique_ptr<Device>> Device::open(const std::string& name) {
  const std::string prefix = "cuda";
  int index = 0;
  if (name != prefix) {
    const bool numbered = name.size() > 5 && name.size() < 9 && name.rfind(prefix + ":", 0) == 0 &&
                          name.find_first_not_of("0123456789", 5) == std::string::npos;
    if (!numbered)
      return fail(ErrorCode::kInvalidArgument, "device must be cuda or cuda:N, found " + name);
    index = std::stoi(name.substr(5));
  }
  auto device = open_fake_device({.seed = 1 + static_cast<uint64_t>(index)});
  device->state().properties.index = index;
  return device;
}

std::unique_ptr<Device> open_fake_device(const FakeDeviceOptions& options) {
  return std::make_unique<Device>(std::make_unique<Device::State>(options));
}
FakeDeviceUse fake_device_use(Device& device) { return device.state().use; }
std::span<std::byte> pinned_memory(Device& device, size_t bytes) {
  for (const auto& [data, block] : device.state().blocks)
    if (block.pinned && block.bytes == bytes) return {data, bytes};
  return {};
}

const DeviceProperties& Device::properties() const { return state_->properties; }
Stream Device::stream() const { return state_->main.get(); }

Result<DeviceMemoryInfo> Device::memory() const {
  const uint64_t total = state_->properties.memory_bytes;
  return DeviceMemoryInfo{total - std::min(total, state_->use.device_bytes), total};
}

Result<Memory> Device::allocate(size_t bytes) {
  TAILOR_ASSIGN(const DeviceMemoryInfo info, memory());
  Memory out;
  if (bytes <= info.free_bytes) out.data_ = state_->map(bytes, false);
  if (out.data_ == nullptr)
    return fail(ErrorCode::kLimitExceeded, "device memory: " + std::to_string(bytes) +
                                               " bytes were asked for, " +
                                               std::to_string(info.free_bytes) + " are free");
  out.device_ = this;
  out.bytes_ = bytes;
  return out;
}

Result<Memory> Device::allocate_pinned(size_t bytes) {
  Memory out;
  out.data_ = state_->map(bytes, true);
  if (out.data_ == nullptr)
    return fail(ErrorCode::kLimitExceeded,
                "pinned memory: " + std::to_string(bytes) + " bytes are not to be had");
  out.device_ = this;
  out.bytes_ = bytes;
  out.pinned_ = true;
  return out;
}

Result<OwnedStream> Device::make_stream() {
  OwnedStream out;
  out.device_ = this;
  out.stream_ =
      new FakeStream(state_->shared, state_->shared.options.seed * 1000 + ++state_->streams);
  return out;
}

Result<OwnedEvent> Device::make_event(bool timed) {
  OwnedEvent out;
  out.device_ = this;
  out.event_ = new EventHandle{nullptr, timed};
  return out;
}

Result<void> Device::copy(Stream stream, void* to, const void* from, size_t bytes) {
  if (bytes == 0) return {};
  TAILOR_CHECK(state_->holds(to, bytes) && state_->holds(from, bytes),
               "a copy keeps to device memory and pinned memory");
  return stream->put([=]() -> Result<void> {
    std::memcpy(to, from, bytes);
    return {};
  });
}

Result<void> Device::fill(Stream stream, void* to, uint8_t value, size_t bytes) {
  if (bytes == 0) return {};
  TAILOR_CHECK(state_->holds(to, bytes), "only what is allocated is filled");
  return stream->put([=]() -> Result<void> {
    // Fresh pages instead of zeros: a large pool is not touched before it is used.
    auto* begin = static_cast<std::byte*>(to);
    const size_t pages = bytes / page_bytes() * page_bytes();
    const bool aligned = reinterpret_cast<uintptr_t>(to) % page_bytes() == 0;
    const bool fresh = value == 0 && aligned && pages > 0 && madvise(to, pages, MADV_DONTNEED) == 0;
    const size_t done = fresh ? pages : 0;
    std::memset(begin + done, value, bytes - done);
    return {};
  });
}

Result<void> Device::record(Event event, Stream stream) {
  event->point = std::make_shared<Point>();
  return stream->put([point = event->point, shared = &state_->shared]() -> Result<void> {
    const std::lock_guard lock(shared->mutex);
    point->when = now();
    point->passed = true;
    shared->changed.notify_all();
    return {};
  });
}

Result<void> Device::wait(Stream stream, Event event) {
  if (event->point == nullptr) return state_->healthy();
  return stream->put(
      [point = event->point, queue = static_cast<FakeStream*>(stream)]() -> Result<void> {
        queue->wait_for(*point);
        return {};
      });
}

Result<bool> Device::passed(Event event) const {
  TAILOR_TRY(state_->healthy());
  return event->point == nullptr || event->point->passed;
}

Result<Duration> Device::elapsed(Event from, Event to) const {
  TAILOR_CHECK(from->timed && to->timed && from->point && to->point && from->point->passed &&
                   to->point->passed,
               "time passes between two timed events that are passed");
  return to->point->when - from->point->when;
}

void Device::give_back(std::byte* data, bool pinned) {
  const auto at = state_->blocks.find(data);
  TAILOR_CHECK(at != state_->blocks.end(), "memory is given back once");
  const Block block = at->second;
  state_->blocks.erase(at);
  (pinned ? state_->use.pinned_bytes : state_->use.device_bytes) -= block.bytes;
  poison(data, data + block.mapped(), false);
  munmap(data, block.mapped() + page_bytes());
}
void Device::give_back(Event event) { delete event; }
void Device::give_back(Stream stream) { delete stream; }

}  // namespace tailor::parallel::gpu
