// Gemm: the products of weights and activations. y[m, n] = x[m, k] W[n, k]^T, all row-major and
// dense, added up in F32. Which source is linked makes it: gemm_cublaslt.cc, gemm_fake.cc (a plain
// loop). Owner: the rank's main thread.
//
// A shape (n, k, types) is named once, at start, and its number of rows m given with every call, up
// to the most that was named: what a backend chooses, it chooses in prepare().
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "base/result.h"
#include "kv/block_layout.h"
#include "parallel/cuda/device.h"

namespace tailor::parallel::gpu {

/// Of x and W; F32 or BF16. `out` is the same or F32.
struct GemmShape {
  int64_t n = 0, k = 0;
  kv::ValueType type = kv::ValueType::kF32;
  kv::ValueType out = kv::ValueType::kF32;
  /// Most rows of a call.
  int64_t rows_max = 0;
};

/// What every backend refuses. Errors: InvalidArgument.
Result<void> check(const GemmShape& shape);

/// Device pointers, aligned to 16 bytes.
struct GemmCall {
  const void* x = nullptr;  ///< [m, k]
  const void* w = nullptr;  ///< [n, k]
  void* y = nullptr;        ///< [m, n]
  int64_t m = 0;
};

class Gemm {
 public:
  /// Workspace and handles. `stream` is that of all calls (work areas are not shared). Errors:
  /// LimitExceeded, DeviceFailure.
  static Result<std::unique_ptr<Gemm>> make(Device& device, Stream stream);
  ~Gemm();
  Gemm(const Gemm&) = delete;
  Gemm& operator=(const Gemm&) = delete;

  /// Takes up a shape and says how it is called. May measure its candidates on the device (writes
  /// scratch memory of its own only) and log its choice. Errors: InvalidArgument (sizes or types
  /// that no backend takes: names them), DeviceFailure.
  Result<int> prepare(const GemmShape& shape);

  /// Puts the product into the stream. m = 0 is nothing. Allocates nothing. Errors: DeviceFailure.
  Result<void> run(int shape, const GemmCall& call);

 private:
  struct State;
  explicit Gemm(std::unique_ptr<State> state);
  const std::unique_ptr<State> state_;
};

}  // namespace tailor::parallel::gpu
