// One tensor as a file stores it, whatever the file's format. `data` points into the file's
// mapping.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "weights/dequantize.h"

namespace tailor::weights {

struct StoredTensor {
  std::string name;            ///< the file's own name for it
  std::vector<int64_t> shape;  ///< row-major, last dimension contiguous; all sizes at least 0
  DataType type = DataType::kF32;
  const std::byte* data = nullptr;
  uint64_t bytes = 0;  ///< checked: `data + bytes` lies inside the mapping and fits shape and type
};

/// "[576, 1536]"
std::string shape_string(const std::vector<int64_t>& shape);

}  // namespace tailor::weights
