// Penalties and the draw of the next token: parallel/sampler.h on the device. A block takes a row;
// half a warp takes a run of 64 logits (a chunk), whose largest value is kept: passes that look for
// large logits skip chunks that have none. Nothing sorts the vocabulary: who is among the best k,
// or in the best share of top-p, is decided by halving the range of possible logits until one value
// is left (ties: the lower ids), each time adding up what lies above.
#include "parallel/cuda/gpu.h"
#include "parallel/cuda/kernels.h"
#include "parallel/philox.h"

namespace tailor::parallel::gpu {
namespace {

constexpr int kChunk = 64, kHalfWarp = 16, kPerLane = kChunk / kHalfWarp;
constexpr int kDrawThreads = 1024;
constexpr int32_t kNone = 0x7FFFFFFF;

// ---- numbers ------------------------------------------------------------------------------------

/// e^x as the CPU's kernels have it (parallel/cpu/kernels_cpu.inc), to the bit; 0 below -87.
__device__ float exp_nonpositive(float x) {
  if (!(x >= -87.0f)) return 0.0f;
  const float shifted = fmaf(x, 1.44269504f, 12582912.0f);
  const float n = shifted - 12582912.0f;
  float r = fmaf(n, -0.693359375f, x);
  r = fmaf(n, 2.12194440e-4f, r);
  float p = 1.9875691e-4f;
  p = fmaf(p, r, 1.3981999e-3f);
  p = fmaf(p, r, 8.3334519e-3f);
  p = fmaf(p, r, 4.1665796e-2f);
  p = fmaf(p, r, 1.6666665e-1f);
  p = fmaf(p, r, 5.0000001e-1f);
  p = fmaf(p, rounded_product(r, r), r + 1.0f);
  const int32_t exponent = std::bit_cast<int32_t>(shifted) + (127 - 0x4B400000);
  return rounded_product(p, std::bit_cast<float>(static_cast<uint32_t>(exponent) << 23));
}

/// Orders as floats do.
__device__ uint32_t order_of(float x) {
  const auto bits = std::bit_cast<uint32_t>(x + 0.0f);  // -0 is 0
  return bits & 0x80000000 ? ~bits : bits | 0x80000000;
}
__device__ float of_order(uint32_t order) {
  return std::bit_cast<float>(order & 0x80000000 ? order & 0x7FFFFFFF : ~order);
}
__device__ bool is_finite(float x) {
  return (std::bit_cast<uint32_t>(x) & 0x7FFFFFFF) < 0x7F800000;
}

// ---- what a token's count changes ---------------------------------------------------------------

constexpr int kCountThreads = 1024, kPenalizeThreads = 256;
constexpr int64_t kPenalizeIds = 8 * kPenalizeThreads;

/// One block.
__global__ void __launch_bounds__(kCountThreads) count_tokens_kernel(CountTokens a) {
  uint32_t* counts = a.state.counts + a.slot * a.state.vocab;
  for (int64_t i = threadIdx.x; i < a.state.vocab; i += blockDim.x) counts[i] = 0;
  __syncthreads();
  for (int64_t i = threadIdx.x; i < a.prompt_tokens + a.answer_tokens; i += blockDim.x) {
    if (i < a.prompt_tokens)
      atomicOr(&counts[a.tokens[i]], kInPrompt);
    else
      atomicAdd(&counts[a.tokens[i]], 1u);
  }
}

__device__ float penalized(const SlotState& slot, float logit, uint32_t count) {
  if (slot.repetition_penalty != 1.0f && count != 0)
    logit = logit > 0 ? logit / slot.repetition_penalty
                      : rounded_product(logit, slot.repetition_penalty);
  const uint32_t answered = count & ~kInPrompt;
  if (answered != 0)
    logit -= slot.presence_penalty +
             rounded_product(slot.frequency_penalty, static_cast<float>(answered));
  return logit;
}

/// Row blockIdx.y, kPenalizeIds of its ids.
__global__ void __launch_bounds__(kPenalizeThreads) penalize_kernel(Sampling a) {
  const int64_t row = blockIdx.y, vocab = a.state.vocab;
  const int64_t slot_id = a.slots[row];
  const SlotState slot = a.state.slots[slot_id];
  if (!slot.changes_logits()) return;  // the whole block
  const int64_t begin = blockIdx.x * kPenalizeIds, end = least(begin + kPenalizeIds, vocab);
  const float* logits = a.logits + row * vocab;
  float* out = a.adjusted + row * vocab;
  const uint32_t* counts = a.state.counts + slot_id * vocab;
  const bool counted = slot.counts_tokens();
  const auto adjusted = [&](int64_t id, float logit) {
    return counted ? penalized(slot, logit, counts[id]) : logit;
  };
  for (int64_t id = begin + threadIdx.x; id < end; id += blockDim.x)
    out[id] = adjusted(id, logits[id]);

  __syncthreads();
  const int32_t* bias_ids = a.state.bias_ids + slot_id * kMaxBiases;
  const float* bias_values = a.state.bias_values + slot_id * kMaxBiases;
  const auto first = static_cast<int32_t>(threadIdx.x), stride = static_cast<int32_t>(blockDim.x);
  for (int32_t i = first; i < slot.num_biases; i += stride) {
    const int64_t id = bias_ids[i];
    if (id >= begin && id < end) out[id] = adjusted(id, logits[id] + bias_values[i]);
  }

  __syncthreads();
  if (slot.emitted >= slot.min_tokens) return;
  const auto forbid = [&](const int32_t* ids, int32_t count) {
    for (int32_t i = first; i < count; i += stride)
      if (ids[i] >= begin && ids[i] < end) out[ids[i]] = -INFINITY;
  };
  if (slot.ignore_eos == 0) forbid(a.state.end_tokens, a.state.num_end_tokens);
  forbid(a.state.stop_ids + slot_id * kMaxStops, slot.num_stops);
}

// ---- a row and its chunks -----------------------------------------------------------------------

/// A row as its block sees it. The scratch memory is [chunks] of F64, then [chunks] of F32.
struct Row {
  const float* logits;
  int64_t vocab, chunks;
  double* masses;  ///< of a chunk: what may be drawn of it
  float* maxima;   ///< of a chunk: its largest logit

  __device__ Row(const float* logits, int64_t vocab, float* scratch)
      : logits(logits), vocab(vocab), chunks(ceil_div(vocab, kChunk)) {
    masses = reinterpret_cast<double*>(scratch);
    maxima = scratch + 2 * chunks;
  }
};

/// What a lane holds of a chunk: ids first, first + 16, .., and -infinity where the vocabulary has
/// ended.
struct Piece {
  int64_t first;
  float logits[kPerLane];
};
__device__ int64_t id_of(const Piece& piece, int i) { return piece.first + i * kHalfWarp; }

/// Calls f(chunk, piece) for all chunks: two at a time for each warp, one for each half. A chunk
/// behind the last holds nothing. Those whose maximum is below `least_order` may be skipped.
template <class F>
__device__ void for_chunks(const Row& row, uint32_t least_order, const F& f) {
  const int64_t warp = threadIdx.x / kWarp, warps = blockDim.x / kWarp;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  for (int64_t pair = warp * 2; pair < row.chunks; pair += warps * 2) {
    if (least_order > 0 && order_of(row.maxima[pair]) < least_order &&
        (pair + 1 == row.chunks || order_of(row.maxima[pair + 1]) < least_order))
      continue;  // the whole warp
    const int64_t chunk = pair + lane / kHalfWarp;
    Piece piece;
    piece.first = chunk * kChunk + lane % kHalfWarp;
    for (int i = 0; i < kPerLane; ++i)
      piece.logits[i] = id_of(piece, i) < row.vocab ? row.logits[id_of(piece, i)] : -INFINITY;
    f(chunk, piece);
  }
}

/// Over half a warp, in the order of the CPU's kernels; the same on its lanes.
__device__ float half_sum(float value) {
  for (int mask = kHalfWarp / 2; mask > 0; mask /= 2) value += shuffle_xor(value, mask);
  return value;
}
__device__ double half_sum(double value) {
  for (int mask = kHalfWarp / 2; mask > 0; mask /= 2) value += shuffle_xor(value, mask);
  return value;
}
__device__ bool leads_half() { return threadIdx.x % kHalfWarp == 0; }

/// Fills the maxima; the largest of all, and whether every logit is a finite number.
struct Maxima {
  float top;
  bool finite;
};
__device__ Maxima find_maxima(const Row& row) {
  float top = -INFINITY;
  int wrong = 0;
  for_chunks(row, 0, [&](int64_t chunk, const Piece& piece) {
    float high = -INFINITY;
    for (int i = 0; i < kPerLane; ++i) {
      high = piece.logits[i] > high ? piece.logits[i] : high;
      wrong |= id_of(piece, i) < row.vocab && !is_finite(piece.logits[i]);
    }
    for (int mask = kHalfWarp / 2; mask > 0; mask /= 2) {
      const float other = shuffle_xor(high, mask);
      high = other > high ? other : high;
    }
    if (leads_half() && chunk < row.chunks) row.maxima[chunk] = high;
    top = high > top ? high : top;
  });
  return {block_max(top, -INFINITY), block_max(wrong, 0) == 0};
}

__device__ bool all_finite(const float* logits, int64_t vocab) {
  int wrong = 0;
  for (int64_t i = threadIdx.x; i < vocab; i += blockDim.x) wrong |= !is_finite(logits[i]);
  return block_max(wrong, 0) == 0;
}

__device__ int32_t block_min(int32_t value) {
  return block_combine(value, kNone, [](int32_t a, int32_t b) { return b < a ? b : a; });
}

/// The lowest id above `after` whose logit is `top`, of maxima that are known.
__device__ int32_t first_of(const Row& row, float top, int32_t after) {
  int32_t chunk = kNone;
  for (int64_t c = threadIdx.x; c < row.chunks && chunk == kNone; c += blockDim.x)
    if (row.maxima[c] == top) chunk = static_cast<int32_t>(c);
  const int64_t first = static_cast<int64_t>(block_min(chunk)) * kChunk;
  int32_t id = kNone;
  for (int64_t i = first + threadIdx.x; i < least(first + kChunk, row.vocab); i += blockDim.x)
    if (row.logits[i] == top && i > after && id == kNone) id = static_cast<int32_t>(i);
  return block_min(id);
}

// ---- who may be drawn ---------------------------------------------------------------------------

/// A head of the tokens in order of (higher logit, lower id): those above `order`, and of those
/// equal to it the ids up to `last_id`.
struct Head {
  uint32_t order = 0;
  int32_t last_id = kNone;
  __device__ bool holds(float logit, int64_t id) const {
    const uint32_t own = order_of(logit);
    return own > order || (own == order && id <= last_id);
  }
};

/// The sum of amount(logit) over the tokens in `head` with an order of at least `least_order`.
template <class Amount>
__device__ double amount_above(const Row& row, uint32_t least_order, const Head& head,
                               const Amount& amount) {
  double sum = 0;
  for_chunks(row, least_order, [&](int64_t, const Piece& piece) {
    for (int i = 0; i < kPerLane; ++i) {
      const float logit = piece.logits[i];
      if (id_of(piece, i) < row.vocab && order_of(logit) >= least_order &&
          head.holds(logit, id_of(piece, i)))
        sum += amount(logit);
    }
  });
  return block_sum(sum);
}

/// Tokens of `head` whose logit has this order and whose id is at most `last_id`.
__device__ int32_t count_equal(const Row& row, uint32_t order, const Head& head, int32_t last_id) {
  int32_t count = 0;
  for_chunks(row, order, [&](int64_t, const Piece& piece) {
    for (int i = 0; i < kPerLane; ++i) {
      const int64_t id = id_of(piece, i);
      count += id < row.vocab && id <= last_id && order_of(piece.logits[i]) == order &&
               head.holds(piece.logits[i], id);
    }
  });
  return block_sum(count);
}

/// The shortest head within `head` whose amounts reach `wanted` (above 0); `head` where they never
/// do. `top` is the largest logit. Cost: up to 33 passes over the chunks that matter.
template <class Amount>
__device__ Head shortest_head(const Row& row, float top, const Head& head, double wanted,
                              const Amount& amount) {
  uint32_t enough = head.order > 0 ? head.order : order_of(-INFINITY);
  if (amount_above(row, enough, head, amount) < wanted) return head;
  uint32_t little = order_of(top) + 1;
  double above = 0;  // amounts of orders from `little` on
  while (little - enough > 1) {
    const uint32_t middle = enough + (little - enough) / 2;
    const double sum = amount_above(row, middle, head, amount);
    if (sum >= wanted) {
      enough = middle;
    } else {
      little = middle;
      above = sum;
    }
  }

  // Of those with the logit that decides, as many as it takes, from the lowest id on.
  Head found{enough, enough == head.order ? head.last_id : kNone};
  const double each = amount(of_order(enough));
  const double takes = ceil((wanted - above) / each);
  const int32_t equals = count_equal(row, enough, head, kNone);
  if (!(takes < equals)) return found;
  int32_t few = -1, many = static_cast<int32_t>(row.vocab) - 1;
  while (many - few > 1) {
    const int32_t middle = few + (many - few) / 2;
    if (count_equal(row, enough, head, middle) >= takes)
      many = middle;
    else
      few = middle;
  }
  found.last_id = many;
  return found;
}

// ---- the draw -----------------------------------------------------------------------------------

/// The first id, in order of ids, at which the running sum of weights exceeds u of their total; on
/// thread 0.
/// `weight(logit, id)` is 0 for what may not be drawn; `masses` holds its sums by chunk.
template <class Weight>
__device__ int32_t draw_by_weight(const Row& row, double u, const Weight& weight) {
  TAILOR_SHARED(double, ends, kWarp);
  TAILOR_SHARED(double, before, 1);
  // A thread adds up a run of chunks, the block what lies before each thread's run.
  const int thread = static_cast<int>(threadIdx.x), lane = thread % kWarp, warp = thread / kWarp;
  const int64_t per_thread = ceil_div(row.chunks, blockDim.x);
  const int64_t begin = least(thread * per_thread, row.chunks);
  const int64_t end = least(begin + per_thread, row.chunks);
  double own = 0;
  int32_t last = -1;  // the last chunk that holds anything, should rounding pass it
  for (int64_t c = begin; c < end; ++c) {
    own += row.masses[c];
    if (row.masses[c] > 0) last = static_cast<int32_t>(c);
  }
  double sum = own;
  for (int delta = 1; delta < kWarp; delta *= 2) {
    const double lower = shuffle_up(sum, delta);
    if (lane >= delta) sum += lower;
  }
  if (lane == kWarp - 1) ends[warp] = sum;
  __syncthreads();
  double total = 0, base = 0;
  for (int w = 0; w < static_cast<int>(blockDim.x) / kWarp; ++w) {
    if (w == warp) base = total;
    total += ends[w];
  }
  const double target = u * total;
  double running = base + sum - own;
  int32_t found = kNone;
  for (int64_t c = begin; c < end && found == kNone; ++c) {
    if (running + row.masses[c] > target && row.masses[c] > 0)
      found = static_cast<int32_t>(c);
    else
      running += row.masses[c];
  }
  const int32_t holds_target = block_min(found);
  last = block_max(last, -1);
  const int32_t chunk = holds_target != kNone ? holds_target : last;
  if (found == chunk) *before = running;
  if (thread == 0 && holds_target == kNone) *before = -INFINITY;  // all of the last: its last token
  __syncthreads();
  int32_t drawn = 0;
  if (thread == 0) {
    running = *before;
    const int64_t first = static_cast<int64_t>(chunk) * kChunk;
    for (int64_t id = first; id < least(first + kChunk, row.vocab); ++id) {
      const float w = weight(row.logits[id], id);
      if (w == 0) continue;
      running += w;
      drawn = static_cast<int32_t>(id);
      if (running > target) break;
    }
  }
  return drawn;
}

/// On thread 0.
__device__ int32_t draw_token(const Row& row, const SlotState& slot, float top) {
  if (slot.temperature == 0) return first_of(row, top, -1);
  // 1 / temperature; one so small that this would overflow is as good as greedy.
  const float inverse = 1.0f / slot.temperature, factor = inverse < 1e30f ? inverse : 1e30f;
  const auto weight = [&](float logit) {
    return exp_nonpositive(rounded_product(logit - top, factor));
  };
  const double u = uniform(slot.seed, slot.sample, static_cast<uint64_t>(slot.position));

  const bool by_rank = slot.top_k > 0 && slot.top_k < row.vocab;
  Head head;
  double total = 0;
  if (by_rank) {
    head = shortest_head(row, top, head, slot.top_k, [](float) { return 1.0; });
    total = amount_above(row, head.order, head, weight);
  } else {
    // Sums of chunks in F32, as on the CPU.
    for_chunks(row, 0, [&](int64_t chunk, const Piece& piece) {
      float sum = weight(piece.logits[0]);
      for (int i = 1; i < kPerLane; ++i) sum += weight(piece.logits[i]);
      sum = half_sum(sum);
      if (!leads_half() || chunk >= row.chunks) return;
      row.masses[chunk] = sum;
      total += sum;
    });
    total = block_sum(total);
    if (slot.top_p >= 1 && slot.min_p <= 0)
      return draw_by_weight(row, u, [&](float logit, int64_t) { return weight(logit); });
  }
  if (slot.top_p < 1)
    head = shortest_head(row, top, head, static_cast<double>(slot.top_p) * total, weight);

  const auto kept = [&](float logit, int64_t id) {
    const float w = weight(logit);
    return head.holds(logit, id) && w >= slot.min_p ? w : 0.0f;
  };
  for_chunks(row, 0, [&](int64_t chunk, const Piece& piece) {
    double sum = 0;
    for (int i = 0; i < kPerLane; ++i) sum += kept(piece.logits[i], id_of(piece, i));
    sum = half_sum(sum);
    if (leads_half() && chunk < row.chunks) row.masses[chunk] = sum;
  });
  __syncthreads();
  return draw_by_weight(row, u, kept);
}

/// A block per row.
__global__ void __launch_bounds__(kDrawThreads) draw_kernel(Sampling a) {
  const int64_t index = blockIdx.x, vocab = a.state.vocab;
  const int64_t slot_id = a.slots[index];
  const SlotState slot = a.state.slots[slot_id];
  const bool changed = slot.changes_logits();
  const Row row((changed ? a.adjusted : a.logits) + index * vocab, vocab,
                a.scratch + index * sampling_scratch(vocab));

  const Maxima maxima = find_maxima(row);
  const float top = maxima.top;
  const bool finite = changed ? all_finite(a.logits + index * vocab, vocab) : maxima.finite;
  const DrawStatus status = !finite            ? kLogitNotFinite
                            : top == -INFINITY ? kNoTokenPossible
                            : !is_finite(top)  ? kPenaltyOverflow
                                               : kDrawn;
  const int32_t token = status == kDrawn ? draw_token(row, slot, top) : 0;
  if (threadIdx.x != 0) return;
  a.drawn[index] = token;
  a.status[index] = status;
  if (status != kDrawn) return;
  SlotState& state = a.state.slots[slot_id];
  state.position = slot.position + 1;
  state.emitted = slot.emitted + 1;
  if (slot.counts_tokens()) ++a.state.counts[slot_id * vocab + token];
}

// ---- log-probabilities --------------------------------------------------------------------------

/// A block per row. The best are taken one by one: the chunk with the largest maximum gives its
/// best that is not taken, and the maximum of what is left of it.
__global__ void __launch_bounds__(kDrawThreads) log_probabilities_kernel(Sampling a) {
  const int64_t index = blockIdx.x, vocab = a.state.vocab;
  const int32_t count = a.state.slots[a.slots[index]].logprobs;
  if (count < 0 || a.status[index] != kDrawn) return;  // the whole block
  const Row row(a.logits + index * vocab, vocab, a.scratch + index * sampling_scratch(vocab));
  const float top = find_maxima(row).top;
  double total = 0;
  for_chunks(row, 0, [&](int64_t, const Piece& piece) {
    float sum = exp_nonpositive(piece.logits[0] - top);
    for (int i = 1; i < kPerLane; ++i) sum += exp_nonpositive(piece.logits[i] - top);
    sum = half_sum(sum);
    if (leads_half()) total += sum;
  });
  const double log_total = log(block_sum(total)) + top;
  const auto logprob = [&](float logit) { return static_cast<float>(logit - log_total); };
  if (threadIdx.x == 0) a.chosen_logprob[index] = logprob(row.logits[a.drawn[index]]);

  const auto wanted = static_cast<int32_t>(least(least(count, kMaxLogprobs), vocab));
  int32_t id = -1;
  float before = INFINITY;  // the logit of `id`
  for (int32_t i = 0; i < wanted; ++i) {
    float high = -INFINITY;
    for (int64_t c = threadIdx.x; c < row.chunks; c += blockDim.x)
      high = row.maxima[c] > high ? row.maxima[c] : high;
    high = block_max(high, -INFINITY);
    id = first_of(row, high, high == before ? id : -1);
    before = high;

    const int64_t chunk = id / kChunk, first = chunk * kChunk;
    float left = -INFINITY;
    for (int64_t j = first + threadIdx.x; j < least(first + kChunk, vocab); j += blockDim.x) {
      const float logit = row.logits[j];
      if ((logit < high || (logit == high && j > id)) && logit > left) left = logit;
    }
    left = block_max(left, -INFINITY);
    if (threadIdx.x == 0) {
      a.top_ids[index * kMaxLogprobs + i] = id;
      a.top_logprobs[index * kMaxLogprobs + i] = logprob(high);
      row.maxima[chunk] = left;
    }
    __syncthreads();
  }
}

/// Half a warp for each chunk, as far as a block goes.
Dim3 row_threads(int64_t vocab) {
  return threads_for(ceil_div(vocab, kChunk) * kHalfWarp, kDrawThreads);
}

}  // namespace

Result<void> count_tokens(Stream stream, const CountTokens& a) {
  return launch("count_tokens", count_tokens_kernel, grid_of(1),
                threads_for(a.state.vocab, kCountThreads), 0, stream, a);
}

Result<void> penalize(Stream stream, const Sampling& a) {
  if (a.rows == 0) return {};
  return launch("penalize", penalize_kernel, grid_of(ceil_div(a.state.vocab, kPenalizeIds), a.rows),
                threads_for(a.state.vocab, kPenalizeThreads), 0, stream, a);
}

Result<void> draw(Stream stream, const Sampling& a) {
  if (a.rows == 0) return {};
  return launch("draw", draw_kernel, grid_of(a.rows), row_threads(a.state.vocab), 0, stream, a);
}

Result<void> log_probabilities(Stream stream, const Sampling& a) {
  if (a.rows == 0) return {};
  return launch("log_probabilities", log_probabilities_kernel, grid_of(a.rows),
                row_threads(a.state.vocab), 0, stream, a);
}

}  // namespace tailor::parallel::gpu
