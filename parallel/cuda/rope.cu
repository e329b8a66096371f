// Rotary position embedding, and keys and values into the paged pool.
#include "parallel/cuda/gpu.h"
#include "parallel/cuda/kernels.h"

namespace tailor::parallel::gpu {
namespace {

constexpr int kAngleThreads = 128, kRopeThreads = 256;

/// A block per row.
__global__ void __launch_bounds__(kAngleThreads) rope_angles_kernel(RopeAngles a) {
  const int64_t row = blockIdx.x;
  const auto position = static_cast<float>(a.positions[row]);
  for (int64_t i = threadIdx.x; i < a.half; i += blockDim.x) {
    const float angle = position * a.inverse_frequencies[i];
    a.out[row * 2 * a.half + i] = cosf(angle);
    a.out[row * 2 * a.half + a.half + i] = sinf(angle);
  }
}

/// A block per row. A thread takes a run of one head's first half with the run of its second half
/// that it is rotated with.
template <class T>
__global__ void __launch_bounds__(kRopeThreads) rope_append_kernel(RopeAppend a) {
  const int64_t row = blockIdx.x;
  const int64_t dim = a.layout.head_dim, half = dim / 2, groups = a.layout.num_groups_local;
  const int64_t all_heads = a.heads + 2 * groups;
  const T* qkv = static_cast<const T*>(a.qkv) + row * all_heads * dim;
  const T* bias = static_cast<const T*>(a.bias);
  const float* cosines = a.angles + row * dim;
  T* q = static_cast<T*>(a.q) + row * a.heads * dim;
  const int64_t slot = a.slots[row];
  const int64_t block = slot / a.layout.block_tokens, place = slot % a.layout.block_tokens;
  T* pool =
      static_cast<T*>(a.pool) + (slot < 0 ? 0 : block * a.layout.block_values() + place * dim);
  const bool whole = takes_runs(half, a.qkv, a.bias, a.angles, a.q, a.pool);

  for_runs(whole, all_heads * half, threadIdx.x, blockDim.x, [&](auto run, int64_t item) {
    constexpr int kLength = decltype(run)::kLength;
    const int64_t head = static_cast<uint32_t>(item) / static_cast<uint32_t>(half);
    const int64_t i = item - head * half, at = head * dim + i;
    float first[kLength], second[kLength];
    load(qkv + at, first);
    load(qkv + at + half, second);
    if (bias != nullptr) {
      float more[kLength];
      load(bias + at, more);
      for (int j = 0; j < kLength; ++j) first[j] += more[j];
      load(bias + at + half, more);
      for (int j = 0; j < kLength; ++j) second[j] += more[j];
    }
    const bool is_query = head < a.heads, is_value = head >= a.heads + groups;
    if (!is_value) {
      const float scale = is_query ? a.scale : 1.0f;
      float cosine[kLength], sine[kLength];
      load(cosines + i, cosine);
      load(cosines + half + i, sine);
      for (int j = 0; j < kLength; ++j) {
        const float x = first[j], y = second[j];
        first[j] = (x * cosine[j] - y * sine[j]) * scale;
        second[j] = (y * cosine[j] + x * sine[j]) * scale;
      }
    }
    if (!is_query && slot < 0) return;
    const int64_t group = is_value ? head - a.heads - groups : head - a.heads;
    T* out = is_query ? q + head * dim : pool + a.layout.plane_offset(group, a.layer, is_value);
    store(out + i, first);
    store(out + half + i, second);
  });
}

}  // namespace

Result<void> rope_angles(Stream stream, const RopeAngles& a) {
  if (a.rows == 0) return {};
  return launch("rope_angles", rope_angles_kernel, grid_of(a.rows),
                threads_for(a.half, kAngleThreads), 0, stream, a);
}

Result<void> rope_append(Stream stream, const RopeAppend& a) {
  if (a.rows == 0) return {};
  const int64_t pairs = (a.heads + 2 * a.layout.num_groups_local) * a.layout.head_dim / 2;
  return with_type(a.type, [&](auto zero) {
    return launch("rope_append", rope_append_kernel<decltype(zero)>, grid_of(a.rows),
                  threads_for(ceil_div(pairs, kRun), kRopeThreads), 0, stream, a);
  });
}

}  // namespace tailor::parallel::gpu
