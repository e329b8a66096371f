// Writes one safetensors file of F32 and F16 tensors with texts in its metadata: heads,
// checkpoints, tuned encoder layers.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"

namespace tailor::predict {

class SafetensorsWriter {
 public:
  void add(const std::string& name, const std::vector<int64_t>& shape,
           std::span<const float> values);
  /// F16, by its bits.
  void add_half(const std::string& name, const std::vector<int64_t>& shape,
                std::span<const uint16_t> bits);
  std::map<std::string, std::string>& metadata() { return metadata_; }

  /// Replaces the file in one rename: a reader, or a run that goes on after a kill, finds the old
  /// one or the new one. Errors: Unavailable (cannot be written: why).
  Result<void> write(const std::string& path) const;

 private:
  struct Entry {
    std::string name;
    const char* type;
    std::vector<int64_t> shape;
    size_t begin, end;
  };
  void add_bytes(const std::string& name, const char* type, const std::vector<int64_t>& shape,
                 const void* bytes, size_t count);

  std::vector<Entry> entries_;
  std::map<std::string, std::string> metadata_;
  std::string data_;
};

}  // namespace tailor::predict
