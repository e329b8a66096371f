// Device: one GPU as the engine sees it: memory on it, pinned memory of the host, streams, events,
// copies. Plain C++: no header of CUDA. Which source is linked makes the device: device_cuda.cc
// over the CUDA runtime, device_fake.cc over host memory (parallel/cuda/device_fake.h). Owner: the
// rank's main thread; the device is current for the thread that opened it, and its calls are made
// there.
//
// Nothing here waits for the device but wait_until() and the destructors, nothing allocates but
// what makes memory, streams and events: the calls of a step cost microseconds each. Host memory
// that a copy reads or writes is pinned and stays untouched until an event behind the copy is
// passed.
//
// Errors of all calls: DeviceFailure in the runtime's own words; after one of those the device is
// of no use, and the rank must leave. Others are named where they can be.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>

#include "base/result.h"
#include "base/time.h"
#include "parallel/cuda/stream.h"

namespace tailor::parallel::gpu {

struct DeviceProperties {
  std::string name;          ///< "NVIDIA H200"
  int index = 0;             ///< among those this process sees
  int major = 0, minor = 0;  ///< compute capability
  int multiprocessors = 0;
  uint64_t memory_bytes = 0, l2_bytes = 0;
};

/// Memory and what is left of it, of all processes together.
struct DeviceMemoryInfo {
  uint64_t free_bytes = 0, total_bytes = 0;
};

/// An event: a point in a stream. Opaque.
using Event = struct EventHandle*;

class Device;

/// Memory, an event or a stream of its own, given back at the end. The device outlives it, and
/// what uses it in a stream is over before it goes.
class Memory {
 public:
  Memory() = default;
  Memory(Memory&& other) noexcept { *this = std::move(other); }
  Memory& operator=(Memory&& other) noexcept;
  ~Memory();

  /// On the device, or of the host.
  std::byte* data() const { return data_; }
  size_t bytes() const { return bytes_; }
  template <class T>
  T* as(size_t byte_offset = 0) const {
    return reinterpret_cast<T*>(data_ + byte_offset);
  }

 private:
  friend class Device;
  Device* device_ = nullptr;  // null = holds nothing
  std::byte* data_ = nullptr;
  size_t bytes_ = 0;
  bool pinned_ = false;
};

class OwnedEvent {
 public:
  OwnedEvent() = default;
  OwnedEvent(OwnedEvent&& other) noexcept { *this = std::move(other); }
  OwnedEvent& operator=(OwnedEvent&& other) noexcept;
  ~OwnedEvent();
  Event get() const { return event_; }

 private:
  friend class Device;
  Device* device_ = nullptr;
  Event event_ = nullptr;
};

class OwnedStream {
 public:
  OwnedStream() = default;
  OwnedStream(OwnedStream&& other) noexcept { *this = std::move(other); }
  OwnedStream& operator=(OwnedStream&& other) noexcept;
  ~OwnedStream();
  Stream get() const { return stream_; }

 private:
  friend class Device;
  Device* device_ = nullptr;
  Stream stream_ = nullptr;
};

class Device {
 public:
  /// "cuda" (the first) or "cuda:N". Cost: up to a second for the first of a process. Errors:
  /// InvalidArgument (not such a name), Unavailable (no driver or no such device: what is there).
  static Result<std::unique_ptr<Device>> open(const std::string& name);
  /// What the device is made of; its source knows.
  struct State;
  explicit Device(std::unique_ptr<State> state);
  State& state() { return *state_; }
  /// Waits for its streams.
  ~Device();
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  const DeviceProperties& properties() const;
  Result<DeviceMemoryInfo> memory() const;
  /// The stream that steps run in, made with the device: engine, GEMM and collective share it.
  Stream stream() const;

  /// Uninitialized, aligned to 256 bytes. At least one byte. Errors: LimitExceeded (names what was
  /// asked for and what is free).
  Result<Memory> allocate(size_t bytes);
  /// Of the host, page-locked: the device reads and writes it. Errors: as allocate.
  Result<Memory> allocate_pinned(size_t bytes);
  /// Runs beside all others: ordered by events alone.
  Result<OwnedStream> make_stream();
  /// `timed`: elapsed() takes it. Not recorded yet counts as passed.
  Result<OwnedEvent> make_event(bool timed = false);

  /// From anywhere to anywhere: device and pinned memory. 0 bytes are nothing.
  Result<void> copy(Stream stream, void* to, const void* from, size_t bytes);
  /// Device memory. Every byte becomes `value`.
  Result<void> fill(Stream stream, void* to, uint8_t value, size_t bytes);

  /// The event becomes the point behind all that is in the stream now.
  Result<void> record(Event event, Stream stream);
  /// What comes into `stream` from now on waits for the event as it was recorded last.
  Result<void> wait(Stream stream, Event event);
  /// Whether it is passed. Waits for nothing.
  Result<bool> passed(Event event) const;
  /// Of two timed ones that are passed.
  Result<Duration> elapsed(Event from, Event to) const;

  /// Waits on the host until the event is passed. Errors: Timeout (names `what`). Cost: looks again
  /// and again for some microseconds, then sleeps between the looks.
  Result<void> wait_until(Event event, Duration deadline, const char* what) const;

 private:
  friend class Memory;
  friend class OwnedEvent;
  friend class OwnedStream;
  void give_back(std::byte* data, bool pinned);
  void give_back(Event event);
  void give_back(Stream stream);

  const std::unique_ptr<State> state_;
};

}  // namespace tailor::parallel::gpu
