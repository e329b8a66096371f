// Attention over the paged pool: one simple kernel for every shape. A block takes one row and one
// KV group and goes through the row's keys in tiles, with a running maximum (online softmax:
// Milakov, Gimelshein, arXiv 1805.02867). Everything of a tile lies in shared memory as F32.
#include "parallel/cuda/gpu.h"
#include "parallel/cuda/kernels.h"

namespace tailor::parallel::gpu {
namespace {

constexpr int kAttentionThreads = 128;
constexpr int kTile = kAttentionTile;
static_assert(kTile == kWarp, "a lane weighs a key");

struct alignas(16) Four {
  float x, y, z, w;
};

/// What a block keeps in shared memory, in values of F32: rows of heads padded to whole fours, and
/// rows of the tile by four more, so that the lanes of a warp read them from different banks.
struct Room {
  int64_t heads, padded, stride;
  __host__ __device__ Room(int64_t heads, int64_t dim)
      : heads(heads), padded((dim + 3) / 4 * 4), stride(padded + 4) {}
  __host__ __device__ int64_t queries() const { return 0; }                // [heads, padded]
  __host__ __device__ int64_t sums() const { return heads * padded; }      // [heads, padded]
  __host__ __device__ int64_t tile() const { return 2 * heads * padded; }  // [kTile, stride]
  __host__ __device__ int64_t weights() const { return tile() + kTile * stride; }  // [heads, kTile]
  __host__ __device__ int64_t shrink() const { return weights() + heads * kTile; }  // [heads]
  __host__ __device__ int64_t top() const { return shrink() + heads; }              // [heads]
  __host__ __device__ int64_t total() const { return top() + heads; }               // [heads]
  __host__ __device__ int64_t values() const { return total() + heads; }
};

/// Rows of the pool to rows of the tile. The caller holds the barriers.
template <class T>
__device__ void load_tile(const T* pool, const int64_t* offsets, int keys, int64_t dim, bool whole,
                          float* tile, int64_t stride) {
  for_runs(whole, keys * dim, threadIdx.x, blockDim.x, [&](auto run, int64_t item) {
    const auto key = static_cast<uint32_t>(item) / static_cast<uint32_t>(dim);
    const int64_t d = item - key * dim;
    float values[run.kLength];
    load(pool + offsets[key] + d, values);
    store(tile + key * stride + d, values);
  });
}

template <class T>
__global__ void __launch_bounds__(kAttentionThreads) attention_kernel(PagedAttention a) {
  const int64_t row = blockIdx.x, group = blockIdx.y;
  const int64_t dim = a.layout.head_dim, heads = a.heads / a.layout.num_groups_local;
  const int thread = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
  const int lane = thread % kWarp, warp = thread / kWarp, warps = threads / kWarp;
  const int64_t num_keys = static_cast<int64_t>(a.positions[row]) + 1;
  const int32_t* blocks = a.block_ids + a.first_block[row];
  const T* pool = static_cast<const T*>(a.pool);
  const T* q = static_cast<const T*>(a.q) + (row * a.heads + group * heads) * dim;
  T* out = static_cast<T*>(a.out) + (row * a.heads + group * heads) * dim;
  const bool whole = takes_runs(dim, a.pool);

  TAILOR_DYNAMIC_SHARED(float, shared);
  TAILOR_SHARED(int64_t, offsets, kTile);  // of a key's K in the pool
  const Room room(heads, dim);
  const int64_t padded = room.padded, stride = room.stride;
  float *queries = shared + room.queries(), *sums = shared + room.sums(),
        *tile = shared + room.tile(), *weights = shared + room.weights(),
        *shrink = shared + room.shrink(), *top = shared + room.top(),
        *total = shared + room.total();

  for (int64_t i = thread; i < heads * padded; i += threads) {
    const int64_t head = i / padded, d = i % padded;
    queries[i] = d < dim ? to_float(q[head * dim + d]) : 0.0f;
    sums[i] = 0;
  }
  for (int64_t i = thread; i < kTile * (padded - dim); i += threads)
    tile[i / (padded - dim) * stride + dim + i % (padded - dim)] = 0;
  for (int64_t head = thread; head < heads; head += threads) {
    top[head] = -INFINITY;
    total[head] = 0;
  }

  for (int64_t first = 0; first < num_keys; first += kTile) {
    const int keys = static_cast<int>(least(kTile, num_keys - first));
    if (thread < keys) {
      const int64_t key = first + thread;
      offsets[thread] = blocks[key / a.layout.block_tokens] * a.layout.block_values() +
                        a.layout.plane_offset(group, a.layer, 0) +
                        key % a.layout.block_tokens * dim;
    }
    __syncthreads();  // and the tile before is done with
    load_tile(pool, offsets, keys, dim, whole, tile, stride);
    __syncthreads();

    // Scores: a thread per head and key.
    for (int64_t i = thread; i < heads * kTile; i += threads) {
      const int64_t head = i / kTile, key = i % kTile;
      float score = -INFINITY;
      if (key < keys) {
        const auto* x = reinterpret_cast<const Four*>(queries + head * padded);
        const auto* y = reinterpret_cast<const Four*>(tile + key * stride);
        score = 0;
        for (int64_t d = 0; d < padded / 4; ++d) {
          const Four u = x[d], v = y[d];
          score += u.x * v.x + u.y * v.y + u.z * v.z + u.w * v.w;
        }
      }
      weights[i] = score;
    }
    __syncthreads();

    // A warp per head: weights against the maximum so far, and how much what was summed shrinks.
    for (int64_t head = warp; head < heads; head += warps) {
      const float score = weights[head * kTile + lane], before = top[head];
      const float tile_top = warp_max(score);
      const float high = tile_top > before ? tile_top : before;
      const float weight = expf(score - high), less = expf(before - high);
      const float tile_total = warp_sum(weight);
      weights[head * kTile + lane] = weight;
      if (lane == 0) {
        total[head] = total[head] * less + tile_total;
        top[head] = high;
        shrink[head] = less;
      }
    }
    load_tile(pool + a.layout.plane_values(), offsets, keys, dim, whole, tile, stride);
    __syncthreads();

    // Sums: a thread per head and four dimensions.
    const auto fours = static_cast<int>(padded / 4);
    for (int i = thread; i < static_cast<int>(heads) * fours; i += threads) {
      const int64_t head = i / fours, d = i % fours * 4;
      auto* sum = reinterpret_cast<Four*>(sums + head * padded + d);
      const float less = shrink[head];
      Four s = *sum;
      s = {s.x * less, s.y * less, s.z * less, s.w * less};
      for (int key = 0; key < keys; ++key) {
        const float w = weights[head * kTile + key];
        const Four v = *reinterpret_cast<const Four*>(tile + key * stride + d);
        s = {s.x + w * v.x, s.y + w * v.y, s.z + w * v.z, s.w + w * v.w};
      }
      *sum = s;
    }
  }
  __syncthreads();
  for (int64_t i = thread; i < heads * dim; i += threads) {
    const int64_t head = i / dim, d = i % dim;
    out[i] = rounded<T>(num_keys > 0 ? sums[head * padded + d] / total[head] : 0.0f);
  }
}

}  // namespace

Result<void> paged_attention(Stream stream, const PagedAttention& a) {
  const int64_t groups = a.layout.num_groups_local;
  if (a.rows == 0 || groups == 0) return {};
  const Room room(a.heads / groups, a.layout.head_dim);
  return with_type(a.type, [&](auto zero) {
    return launch("paged_attention", attention_kernel<decltype(zero)>, grid_of(a.rows, groups),
                  threads_for(kAttentionThreads, kAttentionThreads),
                  static_cast<size_t>(room.values()) * sizeof(float), stream, a);
  });
}

}  // namespace tailor::parallel::gpu
