// Places: several arrays in one allocation, handed out in order, each aligned as the device's own
// allocations are. Without memory it counts what they need.
#pragma once

#include <cstddef>

namespace tailor::parallel::gpu {

class Places {
 public:
  static constexpr size_t kAlignment = 256;

  explicit Places(std::byte* data) : data_(data) {}
  std::byte* take_bytes(size_t bytes) {
    const size_t at = used_;
    used_ += (bytes + kAlignment - 1) / kAlignment * kAlignment;
    return data_ == nullptr ? nullptr : data_ + at;
  }
  template <class T>
  T* take(size_t count) {
    return reinterpret_cast<T*>(take_bytes(count * sizeof(T)));
  }
  size_t used() const { return used_; }

 private:
  std::byte* const data_;
  size_t used_ = 0;
};

}  // namespace tailor::parallel::gpu
