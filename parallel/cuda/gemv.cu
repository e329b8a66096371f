// Products for few rows: what is read is the weights, once.
#include "parallel/cuda/gpu.h"
#include "parallel/cuda/kernels.h"

namespace tailor::parallel::gpu {
namespace {

constexpr int kGemvThreads = 256;
/// Outputs of a warp: a run of x serves both.
constexpr int kWarpOutputs = 2;

/// A warp takes kWarpOutputs rows of the weights, its lanes share the inputs.
template <class T, class Out, int kRows>
__global__ void __launch_bounds__(kGemvThreads) gemv_kernel(Gemv a) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t warp = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) / kWarp;
  const int64_t first = warp * kWarpOutputs, n = a.inputs;
  if (first >= a.outputs) return;  // the whole warp
  const T* x = static_cast<const T*>(a.x);
  const T* weights[kWarpOutputs];
  for (int o = 0; o < kWarpOutputs; ++o)
    weights[o] = static_cast<const T*>(a.weights) + least(first + o, a.outputs - 1) * n;

  float sums[kWarpOutputs][kRows] = {};
  for_runs(takes_runs(n, a.x, a.weights), n, lane, kWarp, [&](auto run, int64_t i) {
    constexpr int kLength = decltype(run)::kLength;
    float w[kWarpOutputs][kLength];
    for (int o = 0; o < kWarpOutputs; ++o) load(weights[o] + i, w[o]);
    for (int r = 0; r < kRows; ++r) {
      float values[kLength];
      load(x + r * n + i, values);
      for (int o = 0; o < kWarpOutputs; ++o)
        for (int j = 0; j < kLength; ++j) sums[o][r] += w[o][j] * values[j];
    }
  });
  for (int o = 0; o < kWarpOutputs; ++o) {
    for (int r = 0; r < kRows; ++r) {
      const float sum = warp_sum(sums[o][r]);
      if (lane == 0 && first + o < a.outputs)
        static_cast<Out*>(a.out)[r * a.outputs + first + o] = rounded<Out>(sum);
    }
  }
}

template <class T, class Out>
Result<void> launch_rows(Stream stream, const Gemv& a) {
  const auto start = [&](auto kernel) {
    constexpr int64_t kBlockOutputs = kGemvThreads / kWarp * kWarpOutputs;
    return launch("gemv", kernel, grid_of(ceil_div(a.outputs, kBlockOutputs)),
                  threads_for(ceil_div(a.outputs, kWarpOutputs) * kWarp, kGemvThreads), 0, stream,
                  a);
  };
  switch (a.rows) {
    case 1:
      return start(gemv_kernel<T, Out, 1>);
    case 2:
      return start(gemv_kernel<T, Out, 2>);
    case 3:
      return start(gemv_kernel<T, Out, 3>);
    default:
      return start(gemv_kernel<T, Out, 4>);
  }
}

}  // namespace

Result<void> gemv(Stream stream, const Gemv& a) {
  if (a.rows == 0 || a.outputs == 0) return {};
  return with_type(a.type, [&](auto in) {
    return with_type(a.out_type,
                     [&](auto out) { return launch_rows<decltype(in), decltype(out)>(stream, a); });
  });
}

}  // namespace tailor::parallel::gpu
