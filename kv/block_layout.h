// Where things lie inside a block, and what a slab's bytes mean. A block holds `block_tokens`
// tokens of all layers as one contiguous slab per KV group:
// [block][group_local][layer][K,V][plane], so that swapping or moving a block, also between
// replicas of different tp sizes, is a few large copies. The slab (block, global KV group) is the
// unit of identity, checksum and transfer.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace tailor::kv {

/// Tokens of a block wherever nobody says otherwise: in the planner, the engines and on the wire.
inline constexpr int32_t kBlockTokens = 16;

enum class ValueType : uint8_t { kF32, kF16, kBF16 };
constexpr size_t value_bytes(ValueType type) { return type == ValueType::kF32 ? 4 : 2; }

/// How a K plane lies; a V plane is [slot][head_dim] everywhere. Engines differ in it.
enum class KeyPlane : uint8_t {
  kBySlot,       ///< [slot][head_dim]
  kByDimension,  ///< [head_dim][slot]
};

/// All strides count values, not bytes.
struct BlockLayout {
  int64_t block_tokens = kBlockTokens;
  int64_t num_layers = 0;
  int64_t num_groups_local = 0;
  int64_t head_dim = 0;
  ValueType value_type = ValueType::kF32;
  KeyPlane key_plane = KeyPlane::kBySlot;

  constexpr int64_t value_bytes() const {
    return static_cast<int64_t>(kv::value_bytes(value_type));
  }
  /// K or V of one layer and group.
  constexpr int64_t plane_values() const { return block_tokens * head_dim; }
  constexpr int64_t slab_values() const { return num_layers * 2 * plane_values(); }
  constexpr int64_t block_values() const { return num_groups_local * slab_values(); }
  constexpr int64_t slab_bytes() const { return slab_values() * value_bytes(); }
  constexpr int64_t block_bytes() const { return block_values() * value_bytes(); }
  /// Offset of a K (kv = 0) or V (kv = 1) plane inside a block.
  constexpr int64_t plane_offset(int64_t group, int64_t layer, int64_t kv) const {
    return group * slab_values() + (layer * 2 + kv) * plane_values();
  }
  /// Offset of a slab inside a pool, in bytes.
  constexpr int64_t slab_offset(int64_t block, int64_t group) const {
    return block * block_bytes() + group * slab_bytes();
  }

  /// What the bytes of a slab mean: a part of its identity beside block and group, so that a slab
  /// of another layout never matches. "16 tokens, 30 layers, 64 F16, K by dimension".
  std::string slab_format() const;
};

/// XXH64 of a slab's bytes, seeded by its format (slab_seed). Verified on every arrival of a block
/// that left the device. Source: xxHash, the XXH64 specification.
uint64_t slab_seed(const BlockLayout& layout);
uint64_t slab_checksum(const BlockLayout& layout, std::span<const std::byte> slab);
uint64_t xxh64(std::span<const std::byte> bytes, uint64_t seed);

}  // namespace tailor::kv
