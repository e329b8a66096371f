#include "parallel/attention_torch.h"

#include <algorithm>
#include <limits>
#include <numeric>

namespace tailor::parallel {
namespace {

/// Query rows of one prompt chunk that a tile takes: bounds the scores and saves the masked half.
constexpr int64_t kTileRowsMin = 16, kTileRowsMax = 128, kTileScores = int64_t{1} << 22;
/// Padded key positions of one decode tile: its gathered K and V of a group stay in the cache.
constexpr int64_t kTilePositions = 4096;

at::Tensor to_device(std::vector<int64_t>& values, at::Device device) {
  return at::from_blob(values.data(), {static_cast<int64_t>(values.size())}, at::kLong)
      .clone()
      .to(device);
}

/// Blocks that hold positions 0..last.
int64_t blocks_used(const Chunk& chunk, int64_t block_tokens) {
  return (static_cast<int64_t>(chunk.first_position) + chunk.num_rows + block_tokens - 1) /
         block_tokens;
}

/// A piece of one chunk: what one batch entry of a tile holds.
struct Piece {
  const Chunk* chunk;
  int64_t first;  ///< row inside the chunk
  int64_t rows;
};

class LayoutBuilder {
 public:
  LayoutBuilder(const StepInput& input, int64_t block_tokens, at::Device device)
      : input_(input), block_tokens_(block_tokens), device_(device) {}

  StepLayout build() {
    const std::vector<size_t> order = chunk_order();
    std::vector<int64_t> last_row(input_.chunks.size());
    std::vector<Piece> decode;
    for (size_t index : order) {
      const Chunk& chunk = input_.chunks[index];
      last_row[index] = next_row_ + chunk.num_rows - 1;
      next_row_ += chunk.num_rows;
      for (int64_t r = 0; r < chunk.num_rows; ++r) add_row(chunk, r);
      if (chunk.num_rows > 1) {
        flush(decode);
        const int64_t keys = static_cast<int64_t>(chunk.first_position) + chunk.num_rows;
        const int64_t tile_rows = std::clamp(kTileScores / keys, kTileRowsMin, kTileRowsMax);
        for (int64_t at = 0; at < chunk.num_rows; at += tile_rows) {
          add_tile({Piece{&chunk, at, std::min(tile_rows, chunk.num_rows - at)}});
        }
      } else {
        if (!decode.empty() && !shares_tile(*decode.front().chunk, chunk, decode.size()))
          flush(decode);
        decode.push_back({&chunk, 0, 1});
      }
    }
    flush(decode);

    std::vector<int64_t> logit_rows;
    for (size_t i = 0; i < input_.chunks.size(); ++i) {
      if (input_.chunks[i].wants_logits != 0) logit_rows.push_back(last_row[i]);
    }
    out_.logit_rows = to_device(logit_rows, device_);
    out_.tokens = to_device(tokens_, device_);
    out_.positions = to_device(positions_, device_).to(at::kFloat);
    out_.write_block = to_device(write_block_, device_);
    out_.write_slot = to_device(write_slot_, device_);
    return std::move(out_);
  }

 private:
  /// Decode rows first, longest context first, so that neighbours are alike; then prompt chunks.
  std::vector<size_t> chunk_order() const {
    std::vector<size_t> order(input_.chunks.size());
    std::iota(order.begin(), order.end(), size_t{0});
    std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
      const Chunk &x = input_.chunks[a], &y = input_.chunks[b];
      if ((x.num_rows == 1) != (y.num_rows == 1)) return x.num_rows == 1;
      return x.num_rows == 1 && x.first_position > y.first_position;
    });
    return order;
  }

  bool shares_tile(const Chunk& longest, const Chunk& next, size_t batch) const {
    const int64_t most = blocks_used(longest, block_tokens_),
                  own = blocks_used(next, block_tokens_);
    return most - own <= std::max<int64_t>(2, most / 4) &&
           static_cast<int64_t>(batch + 1) * most * block_tokens_ <= kTilePositions;
  }

  void add_row(const Chunk& chunk, int64_t row) {
    const int64_t position = chunk.first_position + row;
    tokens_.push_back(input_.token_ids[static_cast<size_t>(chunk.first_row + row)]);
    positions_.push_back(position);
    write_block_.push_back(block(chunk, position / block_tokens_));
    write_slot_.push_back(position % block_tokens_);
  }

  int64_t block(const Chunk& chunk, int64_t index) const {
    return input_.block_ids[static_cast<size_t>(chunk.first_block + index)];
  }

  void flush(std::vector<Piece>& decode) {
    if (!decode.empty()) add_tile(decode);
    decode.clear();
  }

  void add_tile(const std::vector<Piece>& pieces) {
    AttentionTile tile;
    tile.first_row = tile_row_;
    tile.batch = static_cast<int64_t>(pieces.size());
    tile.rows = pieces.front().rows;
    tile_row_ += tile.batch * tile.rows;
    int64_t num_blocks = 0;
    for (const Piece& piece : pieces) {
      const int64_t end = piece.chunk->first_position + piece.first + piece.rows;
      num_blocks = std::max(num_blocks, (end + block_tokens_ - 1) / block_tokens_);
    }
    tile.kv_tokens = num_blocks * block_tokens_;
    tile.open = tile.kv_tokens;
    for (const Piece& piece : pieces)
      tile.open = std::min(tile.open, piece.chunk->first_position + piece.first + 1);

    std::vector<int64_t> blocks;
    at::Tensor mask = at::zeros({tile.batch, tile.rows, 1, tile.kv_tokens - tile.open}, at::kFloat);
    float* row_mask = mask.data_ptr<float>();
    for (const Piece& piece : pieces) {
      const int64_t first = piece.chunk->first_position + piece.first;
      const int64_t own = (first + piece.rows + block_tokens_ - 1) / block_tokens_;
      // A masked key still meets a value, so padding repeats a block of the sequence's own.
      for (int64_t i = 0; i < num_blocks; ++i)
        blocks.push_back(block(*piece.chunk, i < own ? i : 0));
      for (int64_t r = 0; r < piece.rows; ++r, row_mask += tile.kv_tokens - tile.open) {
        std::fill(row_mask + (first + r + 1 - tile.open), row_mask + (tile.kv_tokens - tile.open),
                  -std::numeric_limits<float>::infinity());
      }
    }
    tile.blocks = to_device(blocks, device_);
    tile.mask = mask.to(device_);
    out_.tiles.push_back(std::move(tile));
  }

  const StepInput& input_;
  const int64_t block_tokens_;
  const at::Device device_;
  StepLayout out_;
  std::vector<int64_t> tokens_, positions_, write_block_, write_slot_;
  int64_t next_row_ = 0, tile_row_ = 0;
};

}  // namespace

PagedPool::PagedPool(at::Tensor memory, const kv::BlockLayout& layout, int64_t num_blocks)
    : layout_(layout), num_blocks_(num_blocks) {
  const int64_t tokens = layout.block_tokens, dim = layout.head_dim,
                groups = layout.num_groups_local;
  for (int64_t layer = 0; layer < layout.num_layers; ++layer) {
    for (int kv = 0; kv < 2; ++kv) {
      slots_.push_back(memory.as_strided({num_blocks, tokens, groups, dim},
                                         {layout.block_values(), dim, layout.slab_values(), 1},
                                         layout.plane_offset(0, layer, kv)));
      for (int64_t group = 0; group < groups; ++group) {
        planes_.push_back(memory.as_strided({num_blocks, tokens * dim}, {layout.block_values(), 1},
                                            layout.plane_offset(group, layer, kv)));
      }
    }
  }
}

StepLayout make_step_layout(const StepInput& input, int64_t block_tokens, at::Device device) {
  return LayoutBuilder(input, block_tokens, device).build();
}

void write_kv(const PagedPool& pool, const StepLayout& step, int64_t layer, const at::Tensor& k,
              const at::Tensor& v) {
  const c10::List<std::optional<at::Tensor>> where({step.write_block, step.write_slot});
  at::Tensor k_slots = pool.slots(layer, 0), v_slots = pool.slots(layer, 1);
  k_slots.index_put_(where, k);
  v_slots.index_put_(where, v);
}

void paged_attention(const PagedPool& pool, const StepLayout& step, int64_t layer,
                     const at::Tensor& q, at::Tensor& out) {
  const int64_t groups = pool.layout().num_groups_local, dim = pool.layout().head_dim;
  const int64_t per_group = q.size(1) / groups;
  for (const AttentionTile& tile : step.tiles) {
    const int64_t b = tile.batch, n = tile.rows, t = tile.kv_tokens;
    const auto rows_of = [&](const at::Tensor& x) {
      return x.narrow(0, tile.first_row, b * n).view({b, n, groups, per_group, dim});
    };
    const at::Tensor queries = rows_of(q);
    at::Tensor results = rows_of(out);
    for (int64_t group = 0; group < groups; ++group) {
      const at::Tensor k =
          pool.planes(layer, 0, group).index_select(0, tile.blocks).view({b, t, dim});
      const at::Tensor v =
          pool.planes(layer, 1, group).index_select(0, tile.blocks).view({b, t, dim});
      const at::Tensor query = queries.select(2, group).reshape({b, n * per_group, dim});
      at::Tensor scores =
          at::bmm(query, k.transpose(1, 2)).to(at::kFloat).view({b, n, per_group, t});
      scores.narrow(3, tile.open, t - tile.open).add_(tile.mask);
      const at::Tensor weights = scores.softmax(-1).to(v.scalar_type());
      results.select(2, group).copy_(
          at::bmm(weights.view({b, n * per_group, t}), v).view({b, n, per_group, dim}));
    }
  }
}

}  // namespace tailor::parallel
