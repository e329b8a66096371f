// The CPU engine's kernels, as a table of functions per instruction set. One source
// (kernels_cpu.inc) is compiled three times over three thin SIMD layers, and all three give the
// same bits: outputs lie in lanes and add up their own products in order of K with fused
// multiply-adds; integer sums are exact; what is summed across a row goes by sixteen virtual lanes
// and one fixed tree. Pure functions; any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "base/result.h"
#include "parallel/cpu/packed_matrix.h"

namespace tailor::parallel::cpu {

/// Rows of one panel: what a product takes through a tile at once.
inline constexpr int64_t kPanelRows = 16;

/// The inputs of up to 16 rows, arranged for products. Both forms may be filled.
struct Panel {
  int32_t rows = 0;
  int64_t first_col = 0;  ///< the column of the matrix that the panel begins with
  // For plain weights: [cols][rows].
  float* values = nullptr;
  // For block-quantized weights, b = 32-block, r = row: [b][rows] of 32 int8, of scale, of scale *
  // sum, of minus the sums of both halves.
  int8_t* quants = nullptr;
  float* scales = nullptr;
  float* scaled_sums = nullptr;
  int32_t* minus_sums = nullptr;  ///< [b][rows][2]
};

/// One row's queries of one KV group against the blocks of its sequence.
struct AttentionRow {
  const std::byte* pool = nullptr;  ///< K plane of this layer and group in block 0
  int64_t block_stride = 0;         ///< bytes from a block to the next
  int64_t value_plane = 0;          ///< bytes from a K plane to its V plane
  const int32_t* blocks = nullptr;  ///< block table
  int64_t num_keys = 0;             ///< positions 0 .. num_keys - 1 are attended to
  int32_t heads = 0;                ///< queries of the group
  int32_t head_dim = 0;             ///< a multiple of 16, at most 256
  const float* queries = nullptr;   ///< [heads][head_dim], scaled
  float* out = nullptr;             ///< [heads][head_dim]
};
inline constexpr int64_t kBlockSlots = 16;  ///< tokens of a KV block: lanes of a score
inline constexpr int32_t kMaxHeadDim = 256;

inline constexpr int64_t kVocabularyChunk = 64;

struct CpuKernels {
  const char* name;

  /// out[r * stride + 16 t + lane] = sum over k in [k_begin, k_end) of tile t's weights times row
  /// r. For block-quantized kinds the range consists of whole blocks.
  void (*product)(const PackedMatrix& matrix, int64_t first_tile, int64_t num_tiles,
                  int64_t k_begin, int64_t k_end, const Panel& panel, float* out, int64_t stride);

  /// Fills columns [at, at + cols) of row `row` of the panel, counted from its first, from `x`
  /// [cols]: values, or quants (whole blocks).
  void (*fill_values)(const float* x, int64_t at, int64_t cols, int32_t row, const Panel& panel);
  void (*fill_quants)(const float* x, int64_t at, int64_t cols, int32_t row, const Panel& panel);

  /// out = x * rsqrt(mean(x^2) + eps) * weight.
  void (*rms_norm)(const float* x, const float* weight, float eps, int64_t cols, float* out);
  /// gate[i] = silu(gate[i]) * up[i].
  void (*gated)(float* gate, const float* up, int64_t n);
  /// into[i] += from[i].
  void (*add)(float* into, const float* from, int64_t n);
  /// Rotate-half RoPE in place: x [heads][head_dim], cos and sin [head_dim / 2]; then times scale.
  void (*rope)(float* x, int64_t heads, int64_t head_dim, const float* cos, const float* sin,
               float scale);

  /// Stores k and v [head_dim] as slot `slot` of a K plane [head_dim][16] and a V plane
  /// [16][head_dim], in F16 or F32.
  void (*append_f16)(const float* k, const float* v, int32_t head_dim, int32_t slot,
                     std::byte* k_plane, std::byte* v_plane);
  void (*append_f32)(const float* k, const float* v, int32_t head_dim, int32_t slot,
                     std::byte* k_plane, std::byte* v_plane);
  void (*attend_f16)(const AttentionRow& row);
  void (*attend_f32)(const AttentionRow& row);

  /// For sampling: the largest of every 64 values, to `maxima` [n / 64, rounded up]; true when all
  /// are finite.
  bool (*chunk_maxima)(const float* x, int64_t n, float* maxima);
  /// out[i] = exp((x[i] - top) * factor), 0 where that is below e^-87, for x <= top; their sums
  /// over every 64 to `sums`.
  void (*weigh)(const float* x, int64_t n, float top, float factor, float* out, float* sums);

  /// Calibration (tailor bench kernels): independent fused multiply-adds, and dot products of four
  /// bytes, in registers alone; both return multiply-adds done.
  int64_t (*probe_fma)(int64_t rounds, float* sink);
  int64_t (*probe_dot)(int64_t rounds, float* sink);
  /// Reads n values (a multiple of 64) in order.
  void (*probe_read)(const float* x, int64_t n, float* sink);
};

/// "auto" (the widest this CPU has), "avx512" (with VNNI), "avx2" (with FMA and F16C), "scalar".
/// Errors: InvalidArgument (unknown, or this CPU lacks it).
Result<const CpuKernels*> cpu_kernels(const std::string& instruction_set);

}  // namespace tailor::parallel::cpu
