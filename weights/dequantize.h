// The number formats of weight files and their way to float. Quantized types store rows as blocks
// of 32 or 256 values (the ggml formats); a block's bytes are little-endian and need no alignment.
// Pure functions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace tailor::weights {

enum class DataType : uint8_t {
  kF32,
  kF16,
  kBF16,
  kQ4_0,
  kQ4_1,
  kQ5_0,
  kQ5_1,
  kQ8_0,
  kQ4_K,
  kQ5_K,
  kQ6_K
};

/// "F32", "Q4_1", ... as the files' own tools print them.
std::string_view to_string(DataType type);
/// The other way; nothing for a name that is none of ours.
std::optional<DataType> type_of_name(std::string_view name);
/// The type behind a GGUF tensor's type number; nothing for one we cannot read.
std::optional<DataType> type_of_ggml(uint32_t ggml_type);
/// The type behind a safetensors dtype ("F32", "F16", "BF16"); nothing for one we cannot read.
std::optional<DataType> type_of_safetensors(std::string_view dtype);

int64_t block_values(DataType type);  ///< values per block; 1 for the plain types
int64_t block_bytes(DataType type);

/// Bytes of a row of `cols` values; `cols` must be a multiple of `block_values(type)`.
inline uint64_t row_bytes(DataType type, uint64_t cols) {
  return cols / static_cast<uint64_t>(block_values(type)) *
         static_cast<uint64_t>(block_bytes(type));
}

/// Writes values [begin, end) of the row stored at `row` to `out`. Touches the whole blocks these
/// values lie in. Same float operations in the same order as ggml's reference (scale times value,
/// then minus or plus the minimum, no fused multiply-add), so that results are equal bit for bit.
void dequantize_row(DataType type, const std::byte* row, int64_t begin, int64_t end, float* out);

float half_to_float(uint16_t bits);

}  // namespace tailor::weights
