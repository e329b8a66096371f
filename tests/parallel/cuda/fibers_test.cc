// The runner of blocks and threads that stands in for a GPU (parallel/cuda/fake/fibers.h): that it
// finds what it is for. Kernels with a fault planted in them are written beside their sound twins.
#include "parallel/cuda/fake/fibers.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "parallel/cuda/gpu.h"

namespace tailor::parallel::gpu {
namespace {

constexpr int kThreads = 128;

/// Runs `thread` as a kernel of `blocks` blocks.
void run(unsigned blocks, uint64_t seed, std::function<void()> thread, size_t shared_bytes = 0,
         unsigned threads = kThreads) {
  fake::run({"test", grid_of(blocks), grid_of(threads), shared_bytes, std::move(thread)}, seed);
}

// ---- a missing barrier --------------------------------------------------------------------------

/// out[i] = in[i] + in[i + 1], by way of shared memory.
__global__ void add_neighbour(const float* in, float* out) {
  TAILOR_SHARED(float, values, kThreads);
  const unsigned i = threadIdx.x;
  values[i] = in[i];
  __syncthreads();
  out[i] = values[i] + values[(i + 1) % kThreads];
}
__global__ void add_neighbour_without_barrier(const float* in, float* out) {
  TAILOR_SHARED(float, values, kThreads);
  const unsigned i = threadIdx.x;
  values[i] = in[i];
  out[i] = values[i] + values[(i + 1) % kThreads];
}

/// The sum of `rounds` runs of values; the second barrier keeps a slow reader from the next run.
__global__ void add_rounds(const float* in, int rounds, float* out) {
  TAILOR_SHARED(float, values, kThreads);
  float sum = 0;
  for (int round = 0; round < rounds; ++round) {
    values[threadIdx.x] = in[round * kThreads + threadIdx.x];
    __syncthreads();
    sum += values[(threadIdx.x + 1) % kThreads];
    __syncthreads();
  }
  out[threadIdx.x] = sum;
}
__global__ void add_rounds_without_second_barrier(const float* in, int rounds, float* out) {
  TAILOR_SHARED(float, values, kThreads);
  float sum = 0;
  for (int round = 0; round < rounds; ++round) {
    values[threadIdx.x] = in[round * kThreads + threadIdx.x];
    __syncthreads();
    sum += values[(threadIdx.x + 1) % kThreads];
  }
  out[threadIdx.x] = sum;
}

/// A warp hands values on through shared memory; in step on old cards, not in step on ours.
__global__ void hand_on(const float* in, float* out) {
  TAILOR_SHARED(float, values, kThreads);
  values[threadIdx.x] = in[threadIdx.x];
  __syncwarp();
  out[threadIdx.x] = values[threadIdx.x ^ 1];
}
__global__ void hand_on_without_barrier(const float* in, float* out) {
  TAILOR_SHARED(float, values, kThreads);
  values[threadIdx.x] = in[threadIdx.x];
  out[threadIdx.x] = values[threadIdx.x ^ 1];
}

/// Sums of a block, one after the other, in memory that they share: what block_combine's first
/// barrier is for. A warp must fall behind by a whole sum for it to matter.
__device__ float sum_over_block(float value, bool with_barrier) {
  TAILOR_SHARED(float, warps, kThreads / kWarp);
  value = warp_sum(value);
  if (with_barrier) __syncthreads();
  if (threadIdx.x % kWarp == 0) warps[threadIdx.x / kWarp] = value;
  __syncthreads();
  float sum = 0;
  for (int i = 0; i < kThreads / kWarp; ++i) sum += warps[i];
  return sum;
}
__global__ void add_sums(const float* in, float* out, bool with_barrier) {
  const float first = sum_over_block(in[threadIdx.x], with_barrier);
  out[threadIdx.x] = first + sum_over_block(2 * in[threadIdx.x], with_barrier);
}

struct Found {
  int wrong = 0, of = 0;
};
/// For how many seeds `kernel` gives something else than `expected`.
template <class Kernel>
Found wrong_seeds(const std::vector<float>& expected, const Kernel& kernel) {
  Found found;
  for (uint64_t seed = 1; seed <= 50; ++seed, ++found.of) {
    std::vector<float> out(kThreads, 0.0f);
    run(1, seed, [&] { kernel(out.data()); });
    found.wrong += out != expected;
  }
  return found;
}

std::vector<float> ramp(int n) {
  std::vector<float> values(static_cast<size_t>(n));
  std::iota(values.begin(), values.end(), 1.0f);
  return values;
}

TEST(Fibers, FindAMissingBarrier) {
  const std::vector<float> in = ramp(kThreads);
  std::vector<float> expected(kThreads);
  for (int i = 0; i < kThreads; ++i) expected[i] = in[i] + in[(i + 1) % kThreads];
  EXPECT_EQ(wrong_seeds(expected, [&](float* out) { add_neighbour(in.data(), out); }).wrong, 0);
  const Found found =
      wrong_seeds(expected, [&](float* out) { add_neighbour_without_barrier(in.data(), out); });
  EXPECT_EQ(found.wrong, found.of);
}

TEST(Fibers, FindAMissingBarrierBehindAReader) {
  constexpr int kRounds = 3;
  const std::vector<float> in = ramp(kRounds * kThreads);
  std::vector<float> expected(kThreads);
  for (int i = 0; i < kThreads; ++i)
    for (int round = 0; round < kRounds; ++round)
      expected[i] += in[round * kThreads + (i + 1) % kThreads];
  EXPECT_EQ(wrong_seeds(expected, [&](float* out) { add_rounds(in.data(), kRounds, out); }).wrong,
            0);
  const Found found = wrong_seeds(
      expected, [&](float* out) { add_rounds_without_second_barrier(in.data(), kRounds, out); });
  EXPECT_EQ(found.wrong, found.of);
}

TEST(Fibers, FindAMissingBarrierOfAWarp) {
  const std::vector<float> in = ramp(kThreads);
  std::vector<float> expected(kThreads);
  for (int i = 0; i < kThreads; ++i) expected[i] = in[i ^ 1];
  EXPECT_EQ(wrong_seeds(expected, [&](float* out) { hand_on(in.data(), out); }).wrong, 0);
  const Found found =
      wrong_seeds(expected, [&](float* out) { hand_on_without_barrier(in.data(), out); });
  EXPECT_EQ(found.wrong, found.of);
}

TEST(Fibers, FindAMissingBarrierThatNeedsAWarpToFallFarBehind) {
  const std::vector<float> in(kThreads, 1.0f), expected(kThreads, 3.0f * kThreads);
  EXPECT_EQ(wrong_seeds(expected, [&](float* out) { add_sums(in.data(), out, true); }).wrong, 0);
  const Found found = wrong_seeds(expected, [&](float* out) { add_sums(in.data(), out, false); });
  EXPECT_GT(found.wrong, found.of / 3);  // those whose warps have an order
}

// ---- an index beyond the end --------------------------------------------------------------------

__global__ void write_one_beyond(int count) {
  TAILOR_DYNAMIC_SHARED(float, values);
  if (threadIdx.x == 0) values[count] = 1;
}
__global__ void read_one_beyond(float* out) {
  TAILOR_SHARED(float, values, kThreads);
  values[threadIdx.x] = 1;
  __syncthreads();
  if (threadIdx.x == kThreads - 1) *out = values[threadIdx.x + 1];
}
__global__ void copy_one_too_many(const float* in, float* out, int64_t n) {
  for (int64_t i = threadIdx.x; i <= n; i += blockDim.x) out[i] = in[i];
}

TEST(FibersDeathTest, UnderASanAnIndexBeyondTheEndIsFound) {
#if !defined(__SANITIZE_ADDRESS__)
  GTEST_SKIP() << "needs AddressSanitizer: tests/run asan";
#endif
  std::vector<float> in(100, 1.0f), out(100);
  float value = 0;
  EXPECT_DEATH(run(
                   1, 1, [] { write_one_beyond(64); }, 64 * sizeof(float)),
               "heap-buffer-overflow");
  EXPECT_DEATH(run(1, 1, [&] { read_one_beyond(&value); }), "heap-buffer-overflow");
  EXPECT_DEATH(run(1, 1, [&] { copy_one_too_many(in.data(), out.data(), 100); }),
               "heap-buffer-overflow");
  run(
      1, 1, [] { write_one_beyond(63); }, 64 * sizeof(float));
}

// ---- the rest -----------------------------------------------------------------------------------

TEST(Fibers, EveryThreadOfEveryBlockRunsOnceInAnOrderThatFollowsFromTheSeed) {
  const auto order_of_run = [](uint64_t seed) {
    std::vector<unsigned> order;
    fake::run(
        {"test", fake::Dim3{3, 2, 1}, fake::Dim3{32, 2, 1}, 0,
         [&] {
           order.push_back(((blockIdx.y * gridDim.x + blockIdx.x) * blockDim.y + threadIdx.y) *
                               blockDim.x +
                           threadIdx.x);
         }},
        seed);
    return order;
  };
  const std::vector<unsigned> once = order_of_run(7);
  EXPECT_EQ(order_of_run(7), once);
  EXPECT_NE(order_of_run(8), once);
  std::vector<unsigned> sorted = once;
  std::sort(sorted.begin(), sorted.end());
  std::vector<unsigned> all(3 * 2 * 32 * 2);
  std::iota(all.begin(), all.end(), 0u);
  EXPECT_EQ(sorted, all);
  EXPECT_NE(once, all);
}

TEST(Fibers, SharedMemoryIsFreshInEveryBlock) {
  int fresh = 0;
  run(
      5, 1,
      [&] {
        TAILOR_SHARED(float, own, 2);
        TAILOR_DYNAMIC_SHARED(float, asked);
        if (threadIdx.x == 3) fresh += std::isnan(own[1]) && std::isnan(asked[1]);
        __syncthreads();
        own[1] = asked[1] = 0;
      },
      2 * sizeof(float));
  EXPECT_EQ(fresh, 5);
}

TEST(Fibers, SumsAndExchangesAgreeOnAllThreads) {
  for (const unsigned threads : {32u, 96u, 1024u}) {
    std::vector<int> sums(threads), lows(threads), others(threads), lower(threads);
    std::vector<uint32_t> odd(threads);
    run(
        2, threads,
        [&] {
          const auto i = static_cast<int>(threadIdx.x);
          sums[i] = block_sum(i);
          sums[i] += block_sum(1);  // twice: the first call's values have been read
          lows[i] = block_max(-i, -5000);
          others[i] = shuffle_xor(i, 5);
          lower[i] = shuffle_up(i, 3);
          odd[i] = ballot(i % 2 == 1);
        },
        0, threads);
    const int n = static_cast<int>(threads);
    for (int i = 0; i < n; ++i) {
      ASSERT_EQ(sums[i], n * (n - 1) / 2 + n);
      ASSERT_EQ(lows[i], 0);
      ASSERT_EQ(others[i], i ^ 5);
      ASSERT_EQ(lower[i], i % 32 < 3 ? i : i - 3);
      ASSERT_EQ(odd[i], 0xAAAAAAAAu);
    }
  }
}

TEST(FibersDeathTest, WhoWaitsForEverIsNamed) {
  EXPECT_DEATH(run(1, 1,
                   [] {
                     if (threadIdx.x < 64) __syncthreads();
                   }),
               "thread 0 waits at __syncthreads, thread 64 has ended");
  EXPECT_DEATH(run(1, 1,
                   [] {
                     if (threadIdx.x % 32 < 7) shuffle_xor(1, 1);
                   }),
               "thread 0 waits in an exchange of its warp, thread 7 has ended");
  EXPECT_DEATH(run(1, 1,
                   [] {
                     if (threadIdx.x % 32 < 7)
                       shuffle_xor(1, 1);
                     else
                       ballot(true);
                   }),
               "different exchanges");
  EXPECT_DEATH(run(
                   1, 1, [] {}, 0, 40),
               "whole warps");
}

TEST(Bf16, RoundsToNearestEven) {
  EXPECT_EQ(bf16_bits(1.0f), 0x3F80);
  EXPECT_EQ(bf16_bits(1.0f + 0x1p-8f), 0x3F80);  // a tie: to even
  EXPECT_EQ(bf16_bits(1.0f + 0x1p-8f + 0x1p-20f), 0x3F81);
  EXPECT_EQ(bf16_bits(1.0f + 3 * 0x1p-8f), 0x3F82);
  EXPECT_EQ(bf16_bits(-3.4e38f), 0xFF80);  // overflows
  EXPECT_TRUE(std::isnan(to_float(Bf16{bf16_bits(std::nanf(""))})));
}

}  // namespace
}  // namespace tailor::parallel::gpu
