#include "weights/dequantize.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "base/check.h"

namespace tailor::weights {
namespace {

static_assert(std::endian::native == std::endian::little, "weight files are little-endian");

struct TypeTraits {
  DataType type;
  std::string_view name;
  uint32_t ggml_type;
  int block_values;
  int block_bytes;
};

constexpr TypeTraits kTypes[] = {
    {DataType::kF32, "F32", 0, 1, 4},        {DataType::kF16, "F16", 1, 1, 2},
    {DataType::kBF16, "BF16", 30, 1, 2},     {DataType::kQ4_0, "Q4_0", 2, 32, 18},
    {DataType::kQ4_1, "Q4_1", 3, 32, 20},    {DataType::kQ5_0, "Q5_0", 6, 32, 22},
    {DataType::kQ5_1, "Q5_1", 7, 32, 24},    {DataType::kQ8_0, "Q8_0", 8, 32, 34},
    {DataType::kQ4_K, "Q4_K", 12, 256, 144}, {DataType::kQ5_K, "Q5_K", 13, 256, 176},
    {DataType::kQ6_K, "Q6_K", 14, 256, 210},
};

const TypeTraits& traits(DataType type) { return kTypes[static_cast<size_t>(type)]; }

uint16_t load_u16(const uint8_t* p) {
  uint16_t v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

uint32_t load_u32(const uint8_t* p) {
  uint32_t v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

float load_half(const uint8_t* p) { return half_to_float(load_u16(p)); }

// Blocks of 32: value j sits in the low nibble of byte j, value j + 16 in its high nibble; the
// fifth bit of the 5-bit types in a mask of 32 bits.

void block_q4_0(const uint8_t* b, float* out) {
  const float d = load_half(b);
  for (int j = 0; j < 16; ++j) {
    out[j] = d * static_cast<float>((b[2 + j] & 0xF) - 8);
    out[j + 16] = d * static_cast<float>((b[2 + j] >> 4) - 8);
  }
}

void block_q4_1(const uint8_t* b, float* out) {
  const float d = load_half(b), m = load_half(b + 2);
  for (int j = 0; j < 16; ++j) {
    out[j] = d * static_cast<float>(b[4 + j] & 0xF) + m;
    out[j + 16] = d * static_cast<float>(b[4 + j] >> 4) + m;
  }
}

int five_bits(uint32_t nibble, uint32_t high_bits, int index) {
  return static_cast<int>(nibble | ((high_bits >> index) & 1u) << 4);
}

void block_q5_0(const uint8_t* b, float* out) {
  const float d = load_half(b);
  const uint32_t high = load_u32(b + 2);
  for (int j = 0; j < 16; ++j) {
    out[j] = d * static_cast<float>(five_bits(b[6 + j] & 0xF, high, j) - 16);
    out[j + 16] = d * static_cast<float>(five_bits(b[6 + j] >> 4, high, j + 16) - 16);
  }
}

void block_q5_1(const uint8_t* b, float* out) {
  const float d = load_half(b), m = load_half(b + 2);
  const uint32_t high = load_u32(b + 4);
  for (int j = 0; j < 16; ++j) {
    out[j] = d * static_cast<float>(five_bits(b[8 + j] & 0xF, high, j)) + m;
    out[j + 16] = d * static_cast<float>(five_bits(b[8 + j] >> 4, high, j + 16)) + m;
  }
}

void block_q8_0(const uint8_t* b, float* out) {
  const float d = load_half(b);
  for (int j = 0; j < 32; ++j) out[j] = d * static_cast<float>(static_cast<int8_t>(b[2 + j]));
}

// Blocks of 256: eight runs of 32 values, each with a 6-bit scale and a 6-bit minimum packed into
// 12 bytes. The first four of either kind lie in the low six bits of bytes 0-3 and 4-7; the last
// four are split into nibbles (bytes 8-11) and the two bits left over in bytes 0-7.
struct ScaleAndMin {
  int scale, min;
};
ScaleAndMin packed_scale(const uint8_t* s, int run) {
  if (run < 4) return {s[run] & 63, s[run + 4] & 63};
  return {(s[run + 4] & 0xF) | (s[run - 4] >> 6) << 4, (s[run + 4] >> 4) | (s[run] >> 6) << 4};
}

void block_q4_k(const uint8_t* b, float* out) {
  const float d = load_half(b), d_min = load_half(b + 2);
  const uint8_t* quants = b + 16;
  for (int run = 0; run < 8; ++run) {
    const auto [scale, min] = packed_scale(b + 4, run);
    const float run_d = d * static_cast<float>(scale), run_min = d_min * static_cast<float>(min);
    const uint8_t* q = quants + run / 2 * 32;
    const int shift = run % 2 * 4;
    for (int j = 0; j < 32; ++j)
      *out++ = run_d * static_cast<float>((q[j] >> shift) & 0xF) - run_min;
  }
}

void block_q5_k(const uint8_t* b, float* out) {
  const float d = load_half(b), d_min = load_half(b + 2);
  const uint8_t* high = b + 16;
  const uint8_t* quants = b + 48;
  for (int run = 0; run < 8; ++run) {
    const auto [scale, min] = packed_scale(b + 4, run);
    const float run_d = d * static_cast<float>(scale), run_min = d_min * static_cast<float>(min);
    const uint8_t* q = quants + run / 2 * 32;
    const int shift = run % 2 * 4;
    for (int j = 0; j < 32; ++j) {
      const int value = ((q[j] >> shift) & 0xF) | ((high[j] >> run) & 1) << 4;
      *out++ = run_d * static_cast<float>(value) - run_min;
    }
  }
}

// Two halves of 128 values; in each, four runs of 32: two from the low and two from the high
// nibbles of 64 bytes, with two more bits per value in 32 bytes, and one signed scale per 16
// values.
void block_q6_k(const uint8_t* b, float* out) {
  const float d = load_half(b + 208);
  for (int half = 0; half < 2; ++half) {
    const uint8_t* low = b + half * 64;
    const uint8_t* high = b + 128 + half * 32;
    const uint8_t* scales = b + 192 + half * 8;
    for (int run = 0; run < 4; ++run) {
      for (int j = 0; j < 32; ++j) {
        const int nibble = (low[j + run % 2 * 32] >> (run / 2 * 4)) & 0xF;
        const int value = (nibble | ((high[j] >> (2 * run)) & 3) << 4) - 32;
        const auto scale = static_cast<int8_t>(scales[run * 2 + j / 16]);
        *out++ = d * static_cast<float>(scale) * static_cast<float>(value);
      }
    }
  }
}

void dequantize_block(DataType type, const uint8_t* block, float* out) {
  switch (type) {
    case DataType::kQ4_0:
      return block_q4_0(block, out);
    case DataType::kQ4_1:
      return block_q4_1(block, out);
    case DataType::kQ5_0:
      return block_q5_0(block, out);
    case DataType::kQ5_1:
      return block_q5_1(block, out);
    case DataType::kQ8_0:
      return block_q8_0(block, out);
    case DataType::kQ4_K:
      return block_q4_k(block, out);
    case DataType::kQ5_K:
      return block_q5_k(block, out);
    case DataType::kQ6_K:
      return block_q6_k(block, out);
    case DataType::kF32:
    case DataType::kF16:
    case DataType::kBF16:
      break;
  }
  TAILOR_CHECK(false, "plain types have no blocks");
}

}  // namespace

std::string_view to_string(DataType type) { return traits(type).name; }

std::optional<DataType> type_of_name(std::string_view name) {
  for (const TypeTraits& t : kTypes) {
    if (t.name == name) return t.type;
  }
  return std::nullopt;
}

std::optional<DataType> type_of_ggml(uint32_t ggml_type) {
  for (const TypeTraits& t : kTypes) {
    if (t.ggml_type == ggml_type) return t.type;
  }
  return std::nullopt;
}

std::optional<DataType> type_of_safetensors(std::string_view dtype) {
  for (const TypeTraits& t : kTypes) {
    if (t.block_values == 1 && t.name == dtype) return t.type;
  }
  return std::nullopt;
}

int64_t block_values(DataType type) { return traits(type).block_values; }
int64_t block_bytes(DataType type) { return traits(type).block_bytes; }

float half_to_float(uint16_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000u) << 16;
  const uint32_t exponent = (bits >> 10) & 31u, mantissa = bits & 0x3FFu;
  if (exponent == 0) {
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
    return std::bit_cast<float>(std::bit_cast<uint32_t>(magnitude) | sign);
  }
  const uint32_t wide = exponent == 31 ? 255u : exponent + 112u;
  return std::bit_cast<float>(sign | wide << 23 | mantissa << 13);
}

void dequantize_row(DataType type, const std::byte* row, int64_t begin, int64_t end, float* out) {
  if (end <= begin) return;
  const auto* bytes = reinterpret_cast<const uint8_t*>(row);
  if (type == DataType::kF32) {
    std::memcpy(out, bytes + begin * 4, static_cast<size_t>(end - begin) * 4);
    return;
  }
  if (type == DataType::kF16) {
    for (int64_t i = begin; i < end; ++i) *out++ = load_half(bytes + i * 2);
    return;
  }
  if (type == DataType::kBF16) {
    for (int64_t i = begin; i < end; ++i) {
      *out++ = std::bit_cast<float>(static_cast<uint32_t>(load_u16(bytes + i * 2)) << 16);
    }
    return;
  }
  const int64_t values = block_values(type), size = block_bytes(type);
  while (begin < end) {
    const int64_t block = begin / values, offset = begin % values;
    const int64_t count = std::min(values - offset, end - begin);
    if (count == values) {
      dequantize_block(type, bytes + block * size, out);
    } else {
      float whole[256];
      dequantize_block(type, bytes + block * size, whole);
      std::copy_n(whole + offset, count, out);
    }
    out += count;
    begin += count;
  }
}

}  // namespace tailor::weights
