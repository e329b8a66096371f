// How the CPU engine keeps a weight matrix: the numbers of the file, in the order its kernels read
// them. Sixteen outputs (rows of the stored matrix) make a tile, one SIMD lane each, so that every
// output adds up its own products in order of K and no width of SIMD changes a bit. The copy has
// the stored size (5-bit types, which are rare, are widened to bytes).
//
// A tile is a plane of scales, then a plane of quants; both count their blocks along K, so that a
// product over K reads memory nearly in order:
//
//   plain        [k][16 outputs] values, no scales
//   Q4_0, Q4_1   quants of a 32-block, 256 bytes: four vectors of [16 outputs][4 bytes]; byte i of
//                vector v holds value 4v + i in its low and 16 + 4v + i in its high nibble.
//                scales: d [16] (Q4_1: then m [16]), F16
//   Q8_0         512 bytes: eight vectors of [16 outputs][4 bytes], each byte value + 128; d, F16
//   Q8_1         the same, d and m in F32: w = d * value + m (from Q5_1, Q5_K)
//   Q4_K         quants as Q4_1; per 256: d [16], dmin [16] F16, 12 bytes of packed 6-bit scales
//                and minima [12][16]
//   Q6_K         384 bytes: four vectors of low nibbles as above, then two vectors of high bits:
//                bits 2f of vector h belong to values 16h + 4f + i; per 256: d [16] F16, sixteen
//                scales [16][16] int8
//
// Pure; immutable; any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "base/result.h"
#include "weights/weight_files.h"

namespace tailor::parallel::cpu {

inline constexpr int64_t kTileOutputs = 16;
inline constexpr int64_t kBlock = 32;        ///< activations are quantized in runs of so many
inline constexpr int64_t kSuperBlock = 256;  ///< of the K-quants

enum class PackedKind : uint32_t { kF32, kF16, kBF16, kQ4_0, kQ4_1, kQ8_0, kQ8_1, kQ4_K, kQ6_K };

std::string_view to_string(PackedKind kind);
/// Plain kinds multiply F32 activations, the others integers.
inline bool is_plain(PackedKind kind) { return kind <= PackedKind::kBF16; }

/// Where the planes of a tile lie, in bytes.
struct TileLayout {
  int64_t quant_bytes = 0;  ///< per K-block (plain: per k)
  int64_t scale_bytes = 0;  ///< per scale block; the scale plane is first
  int64_t quants_at = 0;    ///< offset of the quant plane, a multiple of 64
  int64_t bytes = 0;        ///< of a tile, a multiple of 64
};
TileLayout tile_layout(PackedKind kind, int64_t cols);

/// A packed matrix somewhere in memory, [rows outputs, cols inputs].
struct PackedMatrix {
  PackedKind kind = PackedKind::kF32;
  int64_t rows = 0, cols = 0;
  TileLayout layout;
  const std::byte* data = nullptr;  ///< [tiles], 64-byte aligned

  int64_t num_tiles() const { return (rows + kTileOutputs - 1) / kTileOutputs; }
  const std::byte* tile(int64_t t) const { return data + t * layout.bytes; }
  /// Writes row `row` dequantized, bit-equal to WeightFiles::read, to `out` [cols].
  void read_row(int64_t row, std::span<float> out) const;
};

/// Into what a tensor of the file is packed: `dtype` "auto" keeps the stored format, "f32" and
/// "bf16" convert. Random weights are BF16 under "auto".
Result<PackedKind> packed_kind(const weights::TensorInfo& info, const std::string& dtype);

/// Bytes that pack() writes.
uint64_t packed_bytes(PackedKind kind, int64_t rows, int64_t cols);

/// Packs rows [first_tile * 16, ...) of the tensor into `out` (zeroed, `num_tiles` tiles). Errors:
/// those of WeightFiles::read; InvalidArgument when cols are no multiple of the block.
Result<void> pack(const weights::WeightFiles& files, const std::string& name, PackedKind kind,
                  int64_t first_tile, int64_t num_tiles, std::byte* out);

}  // namespace tailor::parallel::cpu
