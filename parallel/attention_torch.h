// Paged attention, the reference: one function over a list of query rows; a decode step is a chunk
// of one row. K and V of every row are written to the pool first and read from the pool only. Rows
// are cut into tiles: decode rows with contexts of similar length share one (their tables padded to
// the longest and masked), prompt chunks are cut into runs of rows of one sequence. A tile is a
// batch of equally many rows; the arithmetic of a row is the same in either kind.
#pragma once

#include <ATen/ATen.h>

#include <vector>

#include "kv/block_pool.h"
#include "parallel/step_input.h"

namespace tailor::parallel {

/// The pool's memory on the engine's device, and its view per (layer, K or V).
class PagedPool {
 public:
  /// `memory`: [num_blocks * layout.block_values()] of the pool's type.
  PagedPool(at::Tensor memory, const kv::BlockLayout& layout, int64_t num_blocks);

  const kv::BlockLayout& layout() const { return layout_; }
  int64_t num_blocks() const { return num_blocks_; }
  /// [num_blocks, block_tokens, groups, head_dim]: where rows are written.
  const at::Tensor& slots(int64_t layer, int kv) const { return slots_[at(layer, kv)]; }
  /// [num_blocks, block_tokens * head_dim] of one group: what is gathered.
  const at::Tensor& planes(int64_t layer, int kv, int64_t group) const {
    return planes_[at(layer, kv) * static_cast<size_t>(layout_.num_groups_local) +
                   static_cast<size_t>(group)];
  }

 private:
  static size_t at(int64_t layer, int kv) { return static_cast<size_t>(layer * 2 + kv); }

  const kv::BlockLayout layout_;
  const int64_t num_blocks_;
  std::vector<at::Tensor> slots_, planes_;
};

/// `batch` sequences with `rows` query rows each, rows of one sequence adjacent.
struct AttentionTile {
  int64_t first_row = 0, batch = 0, rows = 0;
  int64_t kv_tokens = 0;  ///< padded to whole blocks of the longest
  int64_t open = 0;       ///< keys that every row sees; the mask covers those after
  at::Tensor blocks;      ///< [batch * kv_tokens / block_tokens] int64
  /// [batch, rows, 1, kv_tokens - open] F32, 0 or -inf: keys up to the row's own position
  at::Tensor mask;
};

/// A step as the layers see it: rows reordered so that the rows of a tile are adjacent.
struct StepLayout {
  at::Tensor tokens;                   ///< [rows] int64
  at::Tensor positions;                ///< [rows] F32
  at::Tensor write_block, write_slot;  ///< [rows] int64
  at::Tensor logit_rows;               ///< [num_logits] int64, in chunk order
  std::vector<AttentionTile> tiles;
};

/// The step must have been checked against the pool. Cost: O(rows + block table entries + mask).
StepLayout make_step_layout(const StepInput& input, int64_t block_tokens, at::Device device);

/// Writes k and v [rows, groups, head_dim] to the pool.
void write_kv(const PagedPool& pool, const StepLayout& step, int64_t layer, const at::Tensor& k,
              const at::Tensor& v);

/// q [rows, heads, head_dim], scaled already; out of the same shape.
void paged_attention(const PagedPool& pool, const StepLayout& step, int64_t layer,
                     const at::Tensor& q, at::Tensor& out);

}  // namespace tailor::parallel
