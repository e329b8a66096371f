// Kernels along rows of activations: embedding, addition and RMSNorm, SiLU, logits of many ranks.
#include "parallel/cuda/gpu.h"
#include "parallel/cuda/kernels.h"

namespace tailor::parallel::gpu {
namespace {

constexpr int kRowThreads = 512;

// ---- embedding ----------------------------------------------------------------------------------

/// A block per row.
template <class T>
__global__ void __launch_bounds__(kRowThreads) embed_kernel(Embed a) {
  const int64_t row = blockIdx.x;
  int64_t token = a.tokens[row];
  if (token < 0) token = a.drawn[-1 - token];
  const int64_t local = token - a.vocab_begin;
  const bool mine = local >= 0 && local < a.vocab_local;
  const T* from = static_cast<const T*>(a.table) + (mine ? local * a.hidden : 0);
  float* out = a.out + row * a.hidden;
  for_runs(takes_runs(a.hidden, a.table, a.out), a.hidden, threadIdx.x, blockDim.x,
           [&](auto run, int64_t i) {
             float values[run.kLength] = {};
             if (mine) load(from + i, values);
             store(out + i, values);
           });
}

// ---- addition and RMSNorm -----------------------------------------------------------------------

/// A block per row; every thread meets its own values of x again, so that they need no barrier.
template <class T>
__global__ void __launch_bounds__(kRowThreads) add_rms_norm_kernel(AddRmsNorm a) {
  const int64_t row = a.row_index == nullptr ? blockIdx.x : a.row_index[blockIdx.x];
  const int64_t n = a.hidden;
  float* x = a.x + row * n;
  const bool adds = a.num_partials > 0 || a.bias != nullptr;
  const bool whole = takes_runs(n, a.x, a.partials, a.bias, a.weight, a.out);

  float squares = 0;
  for_runs(whole, n, threadIdx.x, blockDim.x, [&](auto run, int64_t i) {
    constexpr int kLength = decltype(run)::kLength;
    float sum[kLength], more[kLength];
    load(x + i, sum);
    for (int64_t p = 0; p < a.num_partials; ++p) {
      load(a.partials + (p * a.partial_rows + row) * n + i, more);
      for (int j = 0; j < kLength; ++j) sum[j] += more[j];
    }
    if (a.bias != nullptr) {
      load(a.bias + i, more);
      for (int j = 0; j < kLength; ++j) sum[j] += more[j];
    }
    if (adds) store(x + i, sum);
    for (int j = 0; j < kLength; ++j) squares += sum[j] * sum[j];
  });
  if (a.weight == nullptr) return;

  const float scale = 1.0f / sqrtf(block_sum(squares) / static_cast<float>(n) + a.eps);
  T* out = static_cast<T*>(a.out) + static_cast<int64_t>(blockIdx.x) * n;
  for_runs(whole, n, threadIdx.x, blockDim.x, [&](auto run, int64_t i) {
    constexpr int kLength = decltype(run)::kLength;
    float values[kLength], weight[kLength];
    load(x + i, values);
    load(a.weight + i, weight);
    for (int j = 0; j < kLength; ++j) values[j] = values[j] * scale * weight[j];
    store(out + i, values);
  });
}

// ---- SiLU ---------------------------------------------------------------------------------------

constexpr int kSiluThreads = 256;

/// Row blockIdx.y; blocks of a row share its columns.
template <class T>
__global__ void __launch_bounds__(kSiluThreads) silu_mul_kernel(SiluMul a) {
  const int64_t row = blockIdx.y, n = a.columns;
  const T* gate = static_cast<const T*>(a.gate_up) + row * 2 * n;
  const T* bias = static_cast<const T*>(a.bias);
  T* out = static_cast<T*>(a.out) + row * n;
  for_runs(takes_runs(n, a.gate_up, a.bias, a.out), n,
           static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x,
           static_cast<int64_t>(gridDim.x) * blockDim.x, [&](auto run, int64_t i) {
             constexpr int kLength = decltype(run)::kLength;
             float g[kLength], u[kLength];
             load(gate + i, g);
             load(gate + n + i, u);
             if (bias != nullptr) {
               float more[kLength];
               load(bias + i, more);
               for (int j = 0; j < kLength; ++j) g[j] += more[j];
               load(bias + n + i, more);
               for (int j = 0; j < kLength; ++j) u[j] += more[j];
             }
             for (int j = 0; j < kLength; ++j) g[j] = g[j] / (1.0f + expf(-g[j])) * u[j];
             store(out + i, g);
           });
}

// ---- logits of many ranks -----------------------------------------------------------------------

constexpr int kJoinThreads = 256;

/// Row blockIdx.y; blocks of a row share its columns.
__global__ void __launch_bounds__(kJoinThreads) join_shards_kernel(JoinShards a) {
  const int64_t row = blockIdx.y;
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  int64_t rank = 0;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < a.columns;
       i += step) {
    while (i >= a.begins[rank + 1]) ++rank;
    a.out[row * a.columns + i] = a.shards[(rank * a.rows + row) * a.stride + i - a.begins[rank]];
  }
}

}  // namespace

Result<void> embed(Stream stream, const Embed& a) {
  if (a.rows == 0) return {};
  return with_type(a.type, [&](auto zero) {
    return launch("embed", embed_kernel<decltype(zero)>, grid_of(a.rows),
                  threads_for(ceil_div(a.hidden, kRun), kRowThreads), 0, stream, a);
  });
}

Result<void> add_rms_norm(Stream stream, const AddRmsNorm& a) {
  if (a.rows == 0) return {};
  return with_type(a.type, [&](auto zero) {
    return launch("add_rms_norm", add_rms_norm_kernel<decltype(zero)>, grid_of(a.rows),
                  threads_for(ceil_div(a.hidden, kRun), kRowThreads), 0, stream, a);
  });
}

Result<void> silu_mul(Stream stream, const SiluMul& a) {
  if (a.rows == 0) return {};
  return with_type(a.type, [&](auto zero) {
    return launch("silu_mul", silu_mul_kernel<decltype(zero)>,
                  grid_of(ceil_div(a.columns, kSiluThreads * kRun), a.rows),
                  threads_for(ceil_div(a.columns, kRun), kSiluThreads), 0, stream, a);
  });
}

Result<void> join_shards(Stream stream, const JoinShards& a) {
  if (a.rows == 0) return {};
  return launch("join_shards", join_shards_kernel,
                grid_of(ceil_div(a.columns, kJoinThreads * 4), a.rows),
                threads_for(a.columns, kJoinThreads), 0, stream, a);
}

}  // namespace tailor::parallel::gpu
