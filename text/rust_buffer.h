// Memory and strings across the Rust border, for text/*.cc only.
#pragma once

#include <string>
#include <string_view>

#include "text/rust/tailor_text.h"

namespace tailor::text {

inline tt_str to_rust(std::string_view s) { return {s.data(), s.size()}; }

/// Owns one buffer of the Rust side.
class RustBuffer {
 public:
  RustBuffer() = default;
  ~RustBuffer() { tt_free_buffer(buffer_); }
  RustBuffer(const RustBuffer&) = delete;
  RustBuffer& operator=(const RustBuffer&) = delete;

  tt_buffer* out() { return &buffer_; }
  size_t size() const { return buffer_.size; }
  const uint8_t* data() const { return buffer_.data; }
  std::string str() const { return {reinterpret_cast<const char*>(buffer_.data), buffer_.size}; }

 private:
  tt_buffer buffer_{nullptr, 0, 0};
};

}  // namespace tailor::text
