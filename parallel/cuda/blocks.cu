// Copies and checksums of KV blocks.
#include "parallel/cuda/gpu.h"
#include "parallel/cuda/kernels.h"

namespace tailor::parallel::gpu {
namespace {

// ---- copies -------------------------------------------------------------------------------------

constexpr int kCopyThreads = 256;
/// 16-byte packs of a thread in a row.
constexpr int64_t kCopyPacks = 8;

struct alignas(16) Bytes16 {
  uint64_t low, high;
};

/// Run blockIdx.y; blocks of a run share its bytes.
__global__ void __launch_bounds__(kCopyThreads) copy_slabs_kernel(CopySlabs a) {
  const std::byte* from = a.from + a.from_offsets[blockIdx.y];
  std::byte* to = a.to + a.to_offsets[blockIdx.y];
  const int64_t thread = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const int64_t threads = static_cast<int64_t>(gridDim.x) * blockDim.x;
  int64_t copied = 0;
  if (aligned(from) && aligned(to)) {
    copied = a.bytes / 16 * 16;
    for (int64_t i = thread * 16; i < copied; i += threads * 16)
      *reinterpret_cast<Bytes16*>(to + i) = *reinterpret_cast<const Bytes16*>(from + i);
  }
  for (int64_t i = copied + thread; i < a.bytes; i += threads) to[i] = from[i];
}

// ---- checksums ----------------------------------------------------------------------------------
// XXH64 (the xxHash specification; on the host: kv/block_layout.cc). Its four lanes are chains of
// multiplications over 32-byte stripes, so a slab's speed is the latency of one; what a chain does
// not need to wait for (loads, the first product of a word) the other lanes of a warp do ahead.

constexpr uint64_t kPrime1 = 0x9E3779B185EBCA87, kPrime2 = 0xC2B2AE3D27D4EB4F,
                   kPrime3 = 0x165667B19E3779F9, kPrime4 = 0x85EBCA77C2B2AE63,
                   kPrime5 = 0x27D4EB2F165667C5;
constexpr int kChains = 4;
/// Words of 8 bytes that a warp takes at once: 16 stripes.
constexpr int kWords = 2 * kWarp;

__device__ uint64_t rotated(uint64_t x, int bits) { return x << bits | x >> (64 - bits); }
__device__ uint64_t chained(uint64_t chain, uint64_t product) {
  return rotated(chain + product, 31) * kPrime1;
}
__device__ uint64_t merged(uint64_t hash, uint64_t chain) {
  return (hash ^ chained(0, chain * kPrime2)) * kPrime1 + kPrime4;
}
/// Little-endian, from anywhere.
template <class T>
__device__ T word_at(const std::byte* at) {
  if (reinterpret_cast<uintptr_t>(at) % sizeof(T) == 0) return *reinterpret_cast<const T*>(at);
  T word = 0;
  for (size_t i = 0; i < sizeof(T); ++i) word |= static_cast<T>(at[i]) << (8 * i);
  return word;
}

/// What is left behind the stripes; one thread.
__device__ uint64_t finished(uint64_t hash, const std::byte* at, const std::byte* end) {
  for (; end - at >= 8; at += 8)
    hash = rotated(hash ^ chained(0, word_at<uint64_t>(at) * kPrime2), 27) * kPrime1 + kPrime4;
  if (end - at >= 4) {
    hash = rotated(hash ^ word_at<uint32_t>(at) * kPrime1, 23) * kPrime2 + kPrime3;
    at += 4;
  }
  for (; at < end; ++at) hash = rotated(hash ^ static_cast<uint64_t>(*at) * kPrime5, 11) * kPrime1;
  hash = (hash ^ (hash >> 33)) * kPrime2;
  hash = (hash ^ (hash >> 29)) * kPrime3;
  return hash ^ (hash >> 32);
}

/// A warp, and a block, per slab. Lanes 0 .. 3 hold the chains.
__global__ void __launch_bounds__(kWarp) checksum_slabs_kernel(ChecksumSlabs a) {
  TAILOR_SHARED(uint64_t, products, kWords);
  const int lane = static_cast<int>(threadIdx.x);
  const std::byte* slab = a.pool + a.offsets[blockIdx.x];
  const int64_t words = a.slab_bytes / 32 * kChains;  // of whole stripes
  uint64_t chain = lane == 0   ? a.seed + kPrime1 + kPrime2
                   : lane == 1 ? a.seed + kPrime2
                   : lane == 2 ? a.seed
                               : a.seed - kPrime1;
  uint64_t ahead[2];
  const auto read = [&](int64_t first) {
    for (int i = 0; i < 2; ++i) {
      const int64_t word = first + i * kWarp + lane;
      ahead[i] = word < words ? word_at<uint64_t>(slab + word * 8) : 0;
    }
  };
  read(0);
  for (int64_t first = 0; first < words; first += kWords) {
    for (int i = 0; i < 2; ++i) products[i * kWarp + lane] = ahead[i] * kPrime2;
    __syncwarp();
    read(first + kWords);
    if (lane < kChains) {
      const int end = static_cast<int>(least(kWords, words - first));
      for (int word = lane; word < end; word += kChains) chain = chained(chain, products[word]);
    }
    __syncwarp();
  }

  uint64_t chains[kChains];
  for (int i = 0; i < kChains; ++i) chains[i] = shuffle(chain, i);
  if (lane != 0) return;
  uint64_t hash = a.seed + kPrime5;
  if (words > 0) {
    hash = rotated(chains[0], 1) + rotated(chains[1], 7) + rotated(chains[2], 12) +
           rotated(chains[3], 18);
    for (int i = 0; i < kChains; ++i) hash = merged(hash, chains[i]);
  }
  hash += static_cast<uint64_t>(a.slab_bytes);
  a.out[blockIdx.x] = finished(hash, slab + words * 8, slab + a.slab_bytes);
}

}  // namespace

Result<void> copy_slabs(Stream stream, const CopySlabs& a) {
  if (a.count == 0 || a.bytes == 0) return {};
  return launch("copy_slabs", copy_slabs_kernel,
                grid_of(ceil_div(a.bytes, 16 * kCopyThreads * kCopyPacks), a.count),
                threads_for(ceil_div(a.bytes, 16), kCopyThreads), 0, stream, a);
}

Result<void> checksum_slabs(Stream stream, const ChecksumSlabs& a) {
  if (a.count == 0) return {};
  return launch("checksum_slabs", checksum_slabs_kernel, grid_of(a.count), grid_of(kWarp), 0,
                stream, a);
}

}  // namespace tailor::parallel::gpu
