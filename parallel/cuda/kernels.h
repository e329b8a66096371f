// The GPU kernels, one launcher each, in plain C++: what the engine and the tests call. Two modules
// offer these functions. `gpu_kernels` is compiled by nvcc; `gpu_kernels_fake` is the same sources
// compiled by g++, whose threads are fibers (parallel/cuda/fake/fibers.h), so that every kernel
// runs, and is tested, without a card. A program links one of them.
//
// Every launcher puts its work on `stream` and returns at once. It allocates nothing, and checks
// nothing: rows, ids, blocks and sizes are what the engine has checked, and pointers are of device
// memory. Zero rows are no launch. Errors: DeviceFailure (what the runtime said, with the kernel's
// name). All work is deterministic, and what a row gets does not depend on the other rows.
//
// T stands for the element type that `type` names: F32 or BF16. Arrays are dense, row by row; those
// of T may begin anywhere (16-byte aligned ones with even rows are read fastest). Sums are taken in
// F32. Costs are bytes moved; n stands for values of an array.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/result.h"
#include "kv/block_layout.h"
#include "parallel/cuda/stream.h"

namespace tailor::parallel::gpu {

using kv::ValueType;

// ---- rows of the model --------------------------------------------------------------------------

/// out[r] = the embedding of tokens[r], in F32; zeros where another rank holds it. A negative id is
/// drawn_in_row (parallel/step_input.h): drawn[-1 - id]. Cost: one read and one write of a row.
struct Embed {
  ValueType type = ValueType::kF32;
  const void* table = nullptr;      ///< T [vocab_local, hidden]
  const int32_t* tokens = nullptr;  ///< [rows]
  const int32_t* drawn = nullptr;   ///< of the previous step; unused where no id is negative
  int64_t vocab_begin = 0;          ///< the id of the table's first row
  int64_t vocab_local = 0;
  int64_t rows = 0, hidden = 0;
  float* out = nullptr;  ///< [rows, hidden]
};
Result<void> embed(Stream stream, const Embed& args);

/// x[i] += partials[0] + .. + partials[n - 1] in this order, + bias; then out = x * rsqrt(mean(x^2)
/// + eps) * weight. For the rows that `row_index` names (x and partials are indexed by it, out is
/// dense), or for all. Cost: n + 2 rows of F32 and one of T.
struct AddRmsNorm {
  ValueType type = ValueType::kF32;  ///< of out
  float* x = nullptr;                ///< [.., hidden], the residual stream
  const float* partials = nullptr;   ///< [num_partials, partial_rows, hidden]
  int64_t num_partials = 0;          ///< 0: x stays as it is (but for the bias)
  int64_t partial_rows = 0;          ///< rows of one partial
  const float* bias = nullptr;       ///< [hidden] or null
  const float* weight = nullptr;     ///< [hidden]; null: x is all that is wanted
  float eps = 0;
  const int32_t* row_index = nullptr;  ///< [rows], each at most once; null: 0 .. rows - 1
  int64_t rows = 0, hidden = 0;
  void* out = nullptr;  ///< T [rows, hidden]
};
Result<void> add_rms_norm(Stream stream, const AddRmsNorm& args);

/// Cosine and sine of position * inverse frequency, the product rounded to F32 (as the model was
/// trained). Once a step; all layers use it.
struct RopeAngles {
  const int32_t* positions = nullptr;          ///< [rows]
  const float* inverse_frequencies = nullptr;  ///< [half]: weights::rope_inverse_frequencies
  int64_t rows = 0, half = 0;                  ///< half = head_dim / 2
  float* out = nullptr;                        ///< [rows, 2, half]: cosines, then sines
};
Result<void> rope_angles(Stream stream, const RopeAngles& args);

/// Rotate-half RoPE in F32 of each row's queries and keys, after the bias; queries go to `q`, times
/// `scale`; keys and values to the row's slot of the pool, all rounded to T once. A row with a
/// negative slot writes no key or value. Cost: one read of qkv, one write of q, k and v.
struct RopeAppend {
  ValueType type = ValueType::kF32;  ///< also the pool's
  const void* qkv = nullptr;         ///< T [rows, (heads + 2 groups) * head_dim]: q, k, v
  const void* bias = nullptr;        ///< T [(heads + 2 groups) * head_dim] or null
  const float* angles = nullptr;     ///< [rows, 2, head_dim / 2]: rope_angles
  const int32_t* slots = nullptr;    ///< [rows]: block * block_tokens + place in the block
  int64_t rows = 0, heads = 0;
  int64_t layer = 0;
  kv::BlockLayout layout;  ///< keys by slot; groups and head_dim are its own
  void* pool = nullptr;    ///< T [blocks, layout.block_values()]
  float scale = 1;         ///< of the queries: 1 / sqrt(head_dim)
  void* q = nullptr;       ///< T [rows, heads * head_dim]
};
Result<void> rope_append(Stream stream, const RopeAppend& args);

/// Each row's queries over keys and values 0 .. position of its sequence, read from the pool. All
/// heads of a group share a key and a value. Scores, softmax and sums are F32; a row visits its
/// keys in order, in runs of kAttentionTile. A row of position -1 attends to nothing and gets
/// zeros. Any head_dim up to kMaxHeadDim. The simple kernel: oracle and fall-back. Cost: a row
/// reads its keys and values once for each group, in one block: few rows with long contexts leave
/// most of a card idle.
struct PagedAttention {
  ValueType type = ValueType::kF32;
  const void* q = nullptr;     ///< T [rows, heads * head_dim], scaled
  const void* pool = nullptr;  ///< T [blocks, layout.block_values()]
  kv::BlockLayout layout;      ///< keys by slot
  int64_t layer = 0;
  const int32_t* first_block = nullptr;  ///< [rows]: where the row's table begins in block_ids
  const int32_t* positions = nullptr;    ///< [rows]
  const int32_t* block_ids = nullptr;
  int64_t rows = 0, heads = 0;
  void* out = nullptr;  ///< T [rows, heads * head_dim]
};
inline constexpr int64_t kAttentionTile = 32;
inline constexpr int64_t kMaxHeadDim = 512;
/// heads / groups, at most.
inline constexpr int64_t kMaxHeadsPerGroup = 32;
Result<void> paged_attention(Stream stream, const PagedAttention& args);

/// out = silu(gate + bias) * (up + bias), in F32, rounded once. Cost: one read, one write.
struct SiluMul {
  ValueType type = ValueType::kF32;
  const void* gate_up = nullptr;  ///< T [rows, 2 * columns]: gate, then up
  const void* bias = nullptr;     ///< T [2 * columns] or null
  int64_t rows = 0, columns = 0;
  void* out = nullptr;  ///< T [rows, columns]
};
Result<void> silu_mul(Stream stream, const SiluMul& args);

/// out = x W^T for few rows: the weights are read once, as fast as memory gives them. Sums of a row
/// do not depend on the number of rows.
struct Gemv {
  ValueType type = ValueType::kF32;
  const void* weights = nullptr;  ///< T [outputs, inputs]
  const void* x = nullptr;        ///< T [rows, inputs]
  int64_t rows = 0;               ///< at most kGemvRows
  int64_t inputs = 0, outputs = 0;
  ValueType out_type = ValueType::kF32;
  void* out = nullptr;  ///< [rows, outputs]
};
inline constexpr int64_t kGemvRows = 4;
Result<void> gemv(Stream stream, const Gemv& args);

/// Rows of all ranks' vocabulary shards become whole rows: what an all-gather of logits leaves.
struct JoinShards {
  const float* shards = nullptr;    ///< [ranks, rows, stride]
  const int64_t* begins = nullptr;  ///< [ranks + 1]: columns of rank r are begins[r] ..
  int64_t ranks = 0, rows = 0, stride = 0;
  int64_t columns = 0;   ///< begins[ranks]
  float* out = nullptr;  ///< [rows, columns]
};
Result<void> join_shards(Stream stream, const JoinShards& args);

// ---- sampling -----------------------------------------------------------------------------------
// The steps are those of parallel/sampler.h, and so are the tokens, but where the rounding of a sum
// decides: weights are the same bits, sums are taken in another order.

/// A request's own, and how far it is. Made by slot_state() (parallel/cuda/slot_state.h), copied to
/// the device when a slot is opened; `draw` counts on.
struct SlotState {
  uint64_t seed = 0;
  uint32_t sample = 0;
  int32_t position = 0;  ///< tokens of prompt and answer so far
  int32_t emitted = 0;   ///< of the answer
  int32_t min_tokens = 0;
  int32_t top_k = 0;
  int32_t logprobs = -1;
  float temperature = 1, top_p = 1, min_p = 0;
  float repetition_penalty = 1, presence_penalty = 0, frequency_penalty = 0;
  int32_t num_biases = 0, num_stops = 0;
  int32_t ignore_eos = 0;
  int32_t reserved = 0;

  /// Some penalty looks at the tokens so far: `counts` of the slot must be kept.
  constexpr bool counts_tokens() const {
    return repetition_penalty != 1 || presence_penalty != 0 || frequency_penalty != 0;
  }
  /// The next token's logits are not drawn from as they came.
  constexpr bool changes_logits() const {
    return counts_tokens() || num_biases > 0 || emitted < min_tokens;
  }
};

/// Most entries of logit_bias and stop_token_ids (base/request.h).
inline constexpr int32_t kMaxBiases = 1024, kMaxStops = 64, kMaxLogprobs = 20;
/// Set in a slot's count of a token that its prompt holds; the rest counts it in the answer.
inline constexpr uint32_t kInPrompt = 0x80000000;

/// Device memory of all slots.
struct SamplerState {
  SlotState* slots = nullptr;           ///< [slots]
  uint32_t* counts = nullptr;           ///< [slots, vocab]
  const int32_t* bias_ids = nullptr;    ///< [slots, kMaxBiases]
  const float* bias_values = nullptr;   ///< [slots, kMaxBiases]
  const int32_t* stop_ids = nullptr;    ///< [slots, kMaxStops]
  const int32_t* end_tokens = nullptr;  ///< [num_end_tokens], each within the vocabulary
  int32_t num_end_tokens = 0;
  int64_t vocab = 0;
};

/// Counts a slot's tokens afresh: for slots that count_tokens(), when they are opened.
struct CountTokens {
  SamplerState state;
  int32_t slot = 0;
  const int32_t* tokens = nullptr;  ///< [prompt_tokens + answer_tokens]
  int32_t prompt_tokens = 0, answer_tokens = 0;
};
Result<void> count_tokens(Stream stream, const CountTokens& args);

/// Where each wanted row's sampling lies. The same for the three launchers below, in this order.
struct Sampling {
  SamplerState state;
  const float* logits = nullptr;   ///< [rows, vocab]
  const int32_t* slots = nullptr;  ///< [rows], each once
  int64_t rows = 0;
  float* adjusted = nullptr;  ///< [rows, vocab], written and read for rows that change their logits
  float* scratch = nullptr;   ///< [rows, sampling_scratch(vocab)]
  int32_t* drawn = nullptr;   ///< [rows]: the tokens; 0 where none could be drawn
  int32_t* status = nullptr;  ///< [rows]: a DrawStatus
  // Of log_probabilities, for rows whose slot wants them:
  float* chosen_logprob = nullptr;  ///< [rows]
  int32_t* top_ids = nullptr;       ///< [rows, kMaxLogprobs], the best first
  float* top_logprobs = nullptr;    ///< [rows, kMaxLogprobs]
};
/// F32 values of scratch for one row; even.
constexpr int64_t sampling_scratch(int64_t vocab) { return (vocab + 63) / 64 * 4; }

enum DrawStatus : int32_t {
  kDrawn = 0,
  kLogitNotFinite = 1,   ///< the model's own; DeviceFailure
  kPenaltyOverflow = 2,  ///< DeviceFailure
  kNoTokenPossible = 3,  ///< InvalidArgument
};

/// Steps 1 to 4 of parallel/sampler.h: logits to `adjusted`, where the slot changes any.
Result<void> penalize(Stream stream, const Sampling& args);
/// Steps 5 to 9, and what a drawn token changes: its slot's count, `emitted` and `position`. A row
/// that draws none changes nothing in its slot. Cost: some 3 to 6 reads of a row's logits, and of a
/// head of them up to 40 times for top-k and top-p.
Result<void> draw(Stream stream, const Sampling& args);
/// Log-probabilities of the drawn token and the best ones, of the logits as they came.
Result<void> log_probabilities(Stream stream, const Sampling& args);

// ---- blocks -------------------------------------------------------------------------------------

/// Copies `count` runs of `bytes` bytes. Sources and targets do not overlap. Pinned host memory
/// may be either.
struct CopySlabs {
  const std::byte* from = nullptr;
  std::byte* to = nullptr;
  int64_t bytes = 0;
  const int64_t* from_offsets = nullptr;  ///< [count], bytes: kv::BlockLayout::slab_offset
  const int64_t* to_offsets = nullptr;    ///< [count]
  int64_t count = 0;
};
Result<void> copy_slabs(Stream stream, const CopySlabs& args);

/// out[i] = kv::slab_checksum of each slab: XXH64, seeded by kv::slab_seed of its layout. Cost: a
/// slab is one chain of multiplications, a step for every 32 bytes; many slabs go side by side.
struct ChecksumSlabs {
  const std::byte* pool = nullptr;
  int64_t slab_bytes = 0;
  const int64_t* offsets = nullptr;  ///< [count]
  int64_t count = 0;
  uint64_t seed = 0;
  uint64_t* out = nullptr;  ///< [count]
};
Result<void> checksum_slabs(Stream stream, const ChecksumSlabs& args);

}  // namespace tailor::parallel::gpu
