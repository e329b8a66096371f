#include "parallel/cuda/gemm.h"

#include <string>

namespace tailor::parallel::gpu {

using kv::ValueType;

Result<void> check(const GemmShape& shape) {
  const auto known = [](ValueType type) {
    return type == ValueType::kF32 || type == ValueType::kBF16;
  };
  if (shape.n < 1 || shape.k < 1 || shape.rows_max < 1 || !known(shape.type) ||
      (shape.out != shape.type && shape.out != ValueType::kF32))
    return fail(ErrorCode::kInvalidArgument, "no product of " + std::to_string(shape.rows_max) +
                                                 " rows with " + std::to_string(shape.n) + " x " +
                                                 std::to_string(shape.k) + " of this type");
  return {};
}

}  // namespace tailor::parallel::gpu
