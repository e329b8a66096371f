#include "parallel/cpu/packed_matrix.h"

#include <array>
#include <bit>
#include <cstring>
#include <vector>

#include "base/check.h"
#include "weights/dequantize.h"

namespace tailor::parallel::cpu {
namespace {

using weights::DataType;

constexpr int64_t kNibbleBytes = 256, kByteBytes = 512, kSixBitBytes = 384;

template <class T>
void put(std::byte* at, T value) {
  std::memcpy(at, &value, sizeof value);
}
template <class T>
T get(const std::byte* at) {
  T value;
  std::memcpy(&value, at, sizeof value);
  return value;
}
uint8_t byte_at(const std::byte* p, int64_t i) { return static_cast<uint8_t>(p[i]); }

/// The quants of one output's 32-block: 0..15, 0..31, 0..63, or value + 128.
using Quants = std::array<uint8_t, kBlock>;

void put_nibbles(std::byte* block, int64_t output, const Quants& q) {
  for (int v = 0; v < 4; ++v)
    for (int i = 0; i < 4; ++i)
      block[v * 64 + output * 4 + i] =
          static_cast<std::byte>((q[4 * v + i] & 15) | (q[16 + 4 * v + i] & 15) << 4);
}
void get_nibbles(const std::byte* block, int64_t output, Quants& q) {
  for (int v = 0; v < 4; ++v)
    for (int i = 0; i < 4; ++i) {
      const uint8_t both = byte_at(block, v * 64 + output * 4 + i);
      q[4 * v + i] = both & 15;
      q[16 + 4 * v + i] = both >> 4;
    }
}
void put_bytes(std::byte* block, int64_t output, const Quants& q) {
  for (int v = 0; v < 8; ++v)
    for (int i = 0; i < 4; ++i)
      block[v * 64 + output * 4 + i] = static_cast<std::byte>(q[4 * v + i]);
}
void get_bytes(const std::byte* block, int64_t output, Quants& q) {
  for (int v = 0; v < 8; ++v)
    for (int i = 0; i < 4; ++i) q[4 * v + i] = byte_at(block, v * 64 + output * 4 + i);
}
void put_high_bits(std::byte* block, int64_t output, const Quants& q) {
  for (int h = 0; h < 2; ++h)
    for (int i = 0; i < 4; ++i) {
      uint8_t bits = 0;
      for (int f = 0; f < 4; ++f)
        bits = static_cast<uint8_t>(bits | (q[16 * h + 4 * f + i] >> 4 & 3) << (2 * f));
      block[kNibbleBytes + h * 64 + output * 4 + i] = static_cast<std::byte>(bits);
    }
}
void get_high_bits(const std::byte* block, int64_t output, Quants& q) {
  for (int h = 0; h < 2; ++h)
    for (int i = 0; i < 4; ++i)
      for (int f = 0; f < 4; ++f)
        q[16 * h + 4 * f + i] |= static_cast<uint8_t>(
            (byte_at(block, kNibbleBytes + h * 64 + output * 4 + i) >> (2 * f) & 3) << 4);
}

/// Run `run` of a Q4_K or Q5_K block's packed scales (weights/dequantize.cc tells how).
struct ScaleAndMin {
  int scale, min;
};
template <class At>
ScaleAndMin packed_scale(At s, int run) {
  if (run < 4) return {s(run) & 63, s(run + 4) & 63};
  return {(s(run + 4) & 15) | (s(run - 4) >> 6) << 4, (s(run + 4) >> 4) | (s(run) >> 6) << 4};
}

/// One output's row of a tile, from the file's bytes.
class RowPacker {
 public:
  RowPacker(PackedKind kind, int64_t cols, std::byte* tile, int64_t output)
      : kind_(kind), cols_(cols), layout_(tile_layout(kind, cols)), tile_(tile), output_(output) {}

  void plain(const float* values) {
    for (int64_t k = 0; k < cols_; ++k) {
      std::byte* at = tile_ + k * layout_.quant_bytes;
      if (kind_ == PackedKind::kF32) {
        put(at + output_ * 4, values[k]);
      } else {  // BF16, to nearest even
        const auto bits = std::bit_cast<uint32_t>(values[k]);
        put(at + output_ * 2, static_cast<uint16_t>((bits + 0x7FFF + (bits >> 16 & 1)) >> 16));
      }
    }
  }
  void halves(const std::byte* row) {
    for (int64_t k = 0; k < cols_; ++k)
      put(tile_ + k * layout_.quant_bytes + output_ * 2, get<uint16_t>(row + k * 2));
  }

  void q4(const std::byte* row, bool with_min) {
    const int64_t size = with_min ? 20 : 18;
    for (int64_t b = 0; b < cols_ / kBlock; ++b, row += size) {
      Quants q;
      const std::byte* nibbles = row + (with_min ? 4 : 2);
      for (int j = 0; j < 16; ++j) {
        q[j] = byte_at(nibbles, j) & 15;
        q[j + 16] = byte_at(nibbles, j) >> 4;
      }
      put_nibbles(quants(b), output_, q);
      put(scales(b) + output_ * 2, get<uint16_t>(row));
      if (with_min) put(scales(b) + 32 + output_ * 2, get<uint16_t>(row + 2));
    }
  }
  void q8_0(const std::byte* row) {
    for (int64_t b = 0; b < cols_ / kBlock; ++b, row += 34) {
      Quants q;
      for (int j = 0; j < 32; ++j) q[j] = byte_at(row, 2 + j) ^ 0x80;
      put_bytes(quants(b), output_, q);
      put(scales(b) + output_ * 2, get<uint16_t>(row));
    }
  }
  void q5(const std::byte* row, bool with_min) {
    const int64_t size = with_min ? 24 : 22, high_at = with_min ? 4 : 2;
    for (int64_t b = 0; b < cols_ / kBlock; ++b, row += size) {
      const auto high = get<uint32_t>(row + high_at);
      const std::byte* nibbles = row + high_at + 4;
      Quants q;
      for (int j = 0; j < 32; ++j) {
        const int nibble = j < 16 ? byte_at(nibbles, j) & 15 : byte_at(nibbles, j - 16) >> 4;
        const int value = (nibble | (high >> j & 1) << 4) - (with_min ? 0 : 16);
        q[j] = static_cast<uint8_t>(value + 128);
      }
      put_bytes(quants(b), output_, q);
      if (!with_min) {
        put(scales(b) + output_ * 2, get<uint16_t>(row));
      } else {
        put(scales(b) + output_ * 4, weights::half_to_float(get<uint16_t>(row)));
        put(scales(b) + 64 + output_ * 4, weights::half_to_float(get<uint16_t>(row + 2)));
      }
    }
  }
  void q5_k(const std::byte* row) {
    for (int64_t s = 0; s < cols_ / kSuperBlock; ++s, row += 176) {
      const float d = weights::half_to_float(get<uint16_t>(row));
      const float d_min = weights::half_to_float(get<uint16_t>(row + 2));
      for (int run = 0; run < 8; ++run) {
        const auto [scale, min] = packed_scale([&](int i) { return byte_at(row, 4 + i); }, run);
        Quants q;
        for (int j = 0; j < 32; ++j) {
          const int low = byte_at(row, 48 + run / 2 * 32 + j) >> (run % 2 * 4) & 15;
          q[j] = static_cast<uint8_t>((low | (byte_at(row, 16 + j) >> run & 1) << 4) + 128);
        }
        const int64_t b = s * 8 + run;
        put_bytes(quants(b), output_, q);
        put(scales(b) + output_ * 4, d * static_cast<float>(scale));
        put(scales(b) + 64 + output_ * 4, -(d_min * static_cast<float>(min)));
      }
    }
  }
  void q4_k(const std::byte* row) {
    for (int64_t s = 0; s < cols_ / kSuperBlock; ++s, row += 144) {
      put(scales(s) + output_ * 2, get<uint16_t>(row));
      put(scales(s) + 32 + output_ * 2, get<uint16_t>(row + 2));
      for (int i = 0; i < 12; ++i) scales(s)[64 + i * 16 + output_] = row[4 + i];
      for (int run = 0; run < 8; ++run) {
        Quants q;
        for (int j = 0; j < 32; ++j)
          q[j] = byte_at(row, 16 + run / 2 * 32 + j) >> (run % 2 * 4) & 15;
        put_nibbles(quants(s * 8 + run), output_, q);
      }
    }
  }
  void q6_k(const std::byte* row) {
    for (int64_t s = 0; s < cols_ / kSuperBlock; ++s, row += 210) {
      put(scales(s) + output_ * 2, get<uint16_t>(row + 208));
      for (int i = 0; i < 16; ++i) scales(s)[32 + i * 16 + output_] = row[192 + i];
      for (int run = 0; run < 8; ++run) {
        const int half = run / 4, quarter = run % 4;
        Quants q;
        for (int j = 0; j < 32; ++j) {
          const int low = byte_at(row, half * 64 + quarter % 2 * 32 + j) >> (quarter / 2 * 4) & 15;
          const int high = byte_at(row, 128 + half * 32 + j) >> (2 * quarter) & 3;
          q[j] = static_cast<uint8_t>(low | high << 4);
        }
        put_nibbles(quants(s * 8 + run), output_, q);
        put_high_bits(quants(s * 8 + run), output_, q);
      }
    }
  }

 private:
  std::byte* quants(int64_t block) {
    return tile_ + layout_.quants_at + block * layout_.quant_bytes;
  }
  std::byte* scales(int64_t block) { return tile_ + block * layout_.scale_bytes; }

  const PackedKind kind_;
  const int64_t cols_;
  const TileLayout layout_;
  std::byte* const tile_;
  const int64_t output_;
};

}  // namespace

std::string_view to_string(PackedKind kind) {
  constexpr std::string_view kNames[] = {"F32",  "F16",  "BF16", "Q4_0", "Q4_1",
                                         "Q8_0", "Q8_1", "Q4_K", "Q6_K"};
  return kNames[static_cast<size_t>(kind)];
}

TileLayout tile_layout(PackedKind kind, int64_t cols) {
  TileLayout out;
  int64_t blocks = cols / kBlock, scale_blocks = blocks;
  switch (kind) {
    case PackedKind::kF32:
      out.quant_bytes = 64, blocks = cols, scale_blocks = 0;
      break;
    case PackedKind::kF16:
    case PackedKind::kBF16:
      out.quant_bytes = 32, blocks = cols, scale_blocks = 0;
      break;
    case PackedKind::kQ4_0:
      out.quant_bytes = kNibbleBytes, out.scale_bytes = 32;
      break;
    case PackedKind::kQ4_1:
      out.quant_bytes = kNibbleBytes, out.scale_bytes = 64;
      break;
    case PackedKind::kQ8_0:
      out.quant_bytes = kByteBytes, out.scale_bytes = 32;
      break;
    case PackedKind::kQ8_1:
      out.quant_bytes = kByteBytes, out.scale_bytes = 128;
      break;
    case PackedKind::kQ4_K:
      out.quant_bytes = kNibbleBytes, out.scale_bytes = 64 + 12 * 16;
      scale_blocks = cols / kSuperBlock;
      break;
    case PackedKind::kQ6_K:
      out.quant_bytes = kSixBitBytes, out.scale_bytes = 32 + 16 * 16;
      scale_blocks = cols / kSuperBlock;
      break;
  }
  out.quants_at = (scale_blocks * out.scale_bytes + 63) / 64 * 64;
  out.bytes = (out.quants_at + blocks * out.quant_bytes + 63) / 64 * 64;
  return out;
}

void PackedMatrix::read_row(int64_t row, std::span<float> out) const {
  TAILOR_CHECK(row >= 0 && row < rows && static_cast<int64_t>(out.size()) == cols,
               "a row of the packed matrix, whole");
  const std::byte* base = tile(row / kTileOutputs);
  const int64_t o = row % kTileOutputs;
  if (is_plain(kind)) {
    for (int64_t k = 0; k < cols; ++k) {
      const std::byte* at = base + k * layout.quant_bytes;
      if (kind == PackedKind::kF32)
        out[k] = get<float>(at + o * 4);
      else if (kind == PackedKind::kF16)
        out[k] = weights::half_to_float(get<uint16_t>(at + o * 2));
      else
        out[k] = std::bit_cast<float>(static_cast<uint32_t>(get<uint16_t>(at + o * 2)) << 16);
    }
    return;
  }
  const bool super = kind == PackedKind::kQ4_K || kind == PackedKind::kQ6_K;
  for (int64_t b = 0; b < cols / kBlock; ++b) {
    const std::byte* block = base + layout.quants_at + b * layout.quant_bytes;
    const std::byte* s = base + (super ? b / 8 : b) * layout.scale_bytes;
    const auto half = [&](int64_t at) { return weights::half_to_float(get<uint16_t>(s + at)); };
    float* to = out.data() + b * kBlock;
    Quants q;
    switch (kind) {
      case PackedKind::kQ4_0:
        get_nibbles(block, o, q);
        for (int j = 0; j < 32; ++j) to[j] = half(o * 2) * static_cast<float>(q[j] - 8);
        break;
      case PackedKind::kQ4_1:
        get_nibbles(block, o, q);
        for (int j = 0; j < 32; ++j)
          to[j] = half(o * 2) * static_cast<float>(q[j]) + half(32 + o * 2);
        break;
      case PackedKind::kQ8_0:
        get_bytes(block, o, q);
        for (int j = 0; j < 32; ++j) to[j] = half(o * 2) * static_cast<float>(q[j] - 128);
        break;
      case PackedKind::kQ8_1:
        get_bytes(block, o, q);
        for (int j = 0; j < 32; ++j)
          to[j] =
              get<float>(s + o * 4) * static_cast<float>(q[j] - 128) + get<float>(s + 64 + o * 4);
        break;
      case PackedKind::kQ4_K: {
        get_nibbles(block, o, q);
        const auto [scale, min] = packed_scale([&](int i) { return byte_at(s, 64 + i * 16 + o); },
                                               static_cast<int>(b % 8));
        const float d = half(o * 2) * static_cast<float>(scale);
        const float m = half(32 + o * 2) * static_cast<float>(min);
        for (int j = 0; j < 32; ++j) to[j] = d * static_cast<float>(q[j]) - m;
        break;
      }
      default:  // Q6_K
        get_nibbles(block, o, q);
        get_high_bits(block, o, q);
        for (int j = 0; j < 32; ++j) {
          const auto scale = get<int8_t>(s + 32 + (b % 8 * 2 + j / 16) * 16 + o);
          to[j] = half(o * 2) * static_cast<float>(scale) * static_cast<float>(q[j] - 32);
        }
    }
  }
}

Result<PackedKind> packed_kind(const weights::TensorInfo& info, const std::string& dtype) {
  if (dtype == "f32") return PackedKind::kF32;
  if (dtype == "bf16") return PackedKind::kBF16;
  if (dtype != "auto")
    return fail(ErrorCode::kInvalidArgument, "dtype must be auto, f32 or bf16, found " + dtype);
  const auto type = weights::type_of_name(info.type);
  if (!type) return PackedKind::kBF16;  // random
  switch (*type) {
    case DataType::kF32:
      return PackedKind::kF32;
    case DataType::kF16:
      return PackedKind::kF16;
    case DataType::kBF16:
      return PackedKind::kBF16;
    case DataType::kQ4_0:
      return PackedKind::kQ4_0;
    case DataType::kQ4_1:
      return PackedKind::kQ4_1;
    case DataType::kQ5_0:
    case DataType::kQ8_0:
      return PackedKind::kQ8_0;
    case DataType::kQ5_1:
    case DataType::kQ5_K:
      return PackedKind::kQ8_1;
    case DataType::kQ4_K:
      return PackedKind::kQ4_K;
    case DataType::kQ6_K:
      return PackedKind::kQ6_K;
  }
  return fail(ErrorCode::kInternal, "a weight type without a packed kind");
}

uint64_t packed_bytes(PackedKind kind, int64_t rows, int64_t cols) {
  return static_cast<uint64_t>((rows + kTileOutputs - 1) / kTileOutputs *
                               tile_layout(kind, cols).bytes);
}

Result<void> pack(const weights::WeightFiles& files, const std::string& name, PackedKind kind,
                  int64_t first_tile, int64_t num_tiles, std::byte* out) {
  const weights::TensorInfo* info = files.find(name);
  if (!info) return fail(ErrorCode::kNotFound, files.path() + ": tensor " + name + " is not there");
  const int64_t rows = info->shape[0], cols = info->shape[1];
  const int64_t last = std::min(rows, (first_tile + num_tiles) * kTileOutputs);
  const auto type = weights::type_of_name(info->type);
  const TileLayout layout = tile_layout(kind, cols);
  std::vector<float> values;
  for (int64_t row = first_tile * kTileOutputs; row < last; ++row) {
    std::byte* tile = out + (row / kTileOutputs - first_tile) * layout.bytes;
    RowPacker packer(kind, cols, tile, row % kTileOutputs);
    if (kind == PackedKind::kF32 || kind == PackedKind::kBF16) {
      values.resize(static_cast<size_t>(cols));
      TAILOR_TRY(files.read(name, row, row + 1, 0, cols, values));
      packer.plain(values.data());
      continue;
    }
    const std::byte* stored = files.stored_row(name, row);
    TAILOR_CHECK(stored != nullptr && type, "quantized kinds come from stored rows");
    switch (*type) {
      case DataType::kF16:
        packer.halves(stored);
        break;
      case DataType::kQ4_0:
      case DataType::kQ4_1:
        packer.q4(stored, *type == DataType::kQ4_1);
        break;
      case DataType::kQ8_0:
        packer.q8_0(stored);
        break;
      case DataType::kQ5_0:
      case DataType::kQ5_1:
        packer.q5(stored, *type == DataType::kQ5_1);
        break;
      case DataType::kQ4_K:
        packer.q4_k(stored);
        break;
      case DataType::kQ5_K:
        packer.q5_k(stored);
        break;
      case DataType::kQ6_K:
        packer.q6_k(stored);
        break;
      default:
        TAILOR_CHECK(false, "plain types are packed above");
    }
  }
  return {};
}

}  // namespace tailor::parallel::cpu
