// The memory of a step: one anonymous mapping, reserved once for the largest step and touched only
// as far as steps reach. Owner: the engine.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/check.h"
#include "parallel/cpu/kernels_cpu.h"

namespace tailor::parallel::cpu {

class Arena {
 public:
  explicit Arena(uint64_t bytes) : bytes_(bytes) {
    void* base = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    TAILOR_CHECK(base != MAP_FAILED, "address space for the step's memory");
    base_ = static_cast<std::byte*>(base);
  }
  ~Arena() { munmap(base_, bytes_); }
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  /// 64-byte aligned, zeroed.
  template <class T>
  T* take(int64_t count) {
    std::byte* at = base_ + used_;
    used_ += (static_cast<uint64_t>(count) * sizeof(T) + 63) / 64 * 64;
    TAILOR_CHECK(used_ <= bytes_, "the step's memory was counted before it was taken");
    return reinterpret_cast<T*>(at);
  }

 private:
  const uint64_t bytes_;
  std::byte* base_ = nullptr;
  uint64_t used_ = 0;
};

/// The inputs of one kind of product, for all rows of a step, in panels of 16.
class PanelSet {
 public:
  /// `values`, `quants`: which forms its consumers need.
  static uint64_t bytes(int64_t max_rows, int64_t cols) {
    return static_cast<uint64_t>(padded(max_rows) * (cols + kBlock)) * 6 + 1024;
  }
  PanelSet(Arena& arena, int64_t max_rows, int64_t first_col, int64_t cols, bool values,
           bool quants)
      : first_col_(first_col), cols_(cols) {
    const int64_t count = padded(max_rows) * cols, blocks = count / kBlock;
    if (values) values_ = arena.take<float>(count);
    if (!quants) return;
    quants_ = arena.take<int8_t>(count);
    scales_ = arena.take<float>(blocks);
    scaled_sums_ = arena.take<float>(blocks);
    minus_sums_ = arena.take<int32_t>(2 * blocks);
  }

  void set_rows(int64_t rows) { rows_ = rows; }
  int64_t num_panels() const { return (rows_ + kPanelRows - 1) / kPanelRows; }
  int64_t cols() const { return cols_; }

  Panel panel(int64_t index) const {
    const int64_t first = index * kPanelRows;
    Panel out;
    out.rows = static_cast<int32_t>(rows_ - first < kPanelRows ? rows_ - first : kPanelRows);
    out.first_col = first_col_;
    if (values_) out.values = values_ + first * cols_;
    if (!quants_) return out;
    const int64_t blocks = first * (cols_ / kBlock);
    out.quants = quants_ + blocks * kBlock;
    out.scales = scales_ + blocks;
    out.scaled_sums = scaled_sums_ + blocks;
    out.minus_sums = minus_sums_ + 2 * blocks;
    return out;
  }

  /// Columns [at, at + cols) of row `row`, counted from the panels' first.
  void fill(const CpuKernels& kernels, const float* x, int64_t at, int64_t cols,
            int64_t row) const {
    const Panel to = panel(row / kPanelRows);
    const auto in_panel = static_cast<int32_t>(row % kPanelRows);
    if (values_) kernels.fill_values(x, at, cols, in_panel, to);
    if (quants_) kernels.fill_quants(x, at, cols, in_panel, to);
  }

 private:
  static int64_t padded(int64_t rows) { return (rows + kPanelRows - 1) / kPanelRows * kPanelRows; }

  int64_t first_col_, cols_, rows_ = 0;
  float* values_ = nullptr;
  int8_t* quants_ = nullptr;
  float *scales_ = nullptr, *scaled_sums_ = nullptr;
  int32_t* minus_sums_ = nullptr;
};

}  // namespace tailor::parallel::cpu
