// What both devices share: who owns what.
#include "parallel/cuda/device.h"

#include <sched.h>

#include <string>
#include <thread>
#include <utility>

#include "base/clock.h"

namespace tailor::parallel::gpu {

Memory& Memory::operator=(Memory&& other) noexcept {
  std::swap(device_, other.device_);
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  std::swap(pinned_, other.pinned_);
  return *this;
}
Memory::~Memory() {
  if (device_ != nullptr) device_->give_back(data_, pinned_);
}

OwnedEvent& OwnedEvent::operator=(OwnedEvent&& other) noexcept {
  std::swap(device_, other.device_);
  std::swap(event_, other.event_);
  return *this;
}
OwnedEvent::~OwnedEvent() {
  if (device_ != nullptr) device_->give_back(event_);
}

OwnedStream& OwnedStream::operator=(OwnedStream&& other) noexcept {
  std::swap(device_, other.device_);
  std::swap(stream_, other.stream_);
  return *this;
}
OwnedStream::~OwnedStream() {
  if (device_ != nullptr) device_->give_back(stream_);
}

Result<void> Device::wait_until(Event event, Duration deadline, const char* what) const {
  const Time began = now();
  for (;;) {
    TAILOR_ASSIGN(const bool over, passed(event));
    if (over) return {};
    const Duration waited = now() - began;
    if (waited > deadline)
      return fail(ErrorCode::kTimeout, std::string(what) + ": device " + properties().name +
                                           " was not done within " +
                                           std::to_string(to_seconds(deadline)) + " s");
    if (waited < microseconds(50))
      sched_yield();
    else
      std::this_thread::sleep_for(microseconds(20));
  }
}

}  // namespace tailor::parallel::gpu
