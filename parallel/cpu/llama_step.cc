#include "parallel/cpu/llama_step.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/clock.h"

namespace tailor::parallel::cpu {
namespace {

/// Rows of a task that works on whole rows (norm, RoPE): few rows are not worth waking anybody.
constexpr int64_t kRowsPerTask = 8;
/// Query rows of a prompt chunk in one attention task.
constexpr int32_t kAttentionRows = 8;
/// Tiles of a task: column-parallel, row-parallel, head.
constexpr int64_t kColumnTiles = 4, kRowTiles = 2, kHeadTiles = 16;
/// Columns of the MLP that one task computes: a quantization block.
constexpr int64_t kGateColumns = kBlock;

int64_t tasks_of(int64_t count, int64_t per_task) { return (count + per_task - 1) / per_task; }

/// Which forms the inputs of these matrices need.
bool any_plain(const ModelWeights& weights,
               std::initializer_list<const PackedMatrix * LayerWeights::*> which, bool plain,
               const PackedMatrix* also = nullptr) {
  for (const LayerWeights& layer : weights.layers)
    for (const auto member : which)
      if (is_plain((layer.*member)->kind) == plain) return true;
  return also && is_plain(also->kind) == plain;
}

uint64_t arena_bytes(const StepParts& p, const RankShard& shard, int64_t scratch_floats) {
  const weights::ModelConfig& c = p.config;
  const auto rows = static_cast<uint64_t>(p.max_rows);
  const int64_t attention = shard.heads.size() * c.head_dim;
  uint64_t floats = static_cast<uint64_t>(c.hidden_size) +
                    static_cast<uint64_t>(attention + 2 * shard.groups.size() * c.head_dim) +
                    static_cast<uint64_t>(attention + c.head_dim + c.hidden_size);
  if (p.tp.size > 1) {
    // Pieces a rank sends: at most its units.
    const auto pieces = static_cast<uint64_t>(
        std::max(p.sharding.units.attention.size(), p.sharding.units.mlp.size()));
    floats += static_cast<uint64_t>(c.hidden_size) * pieces * static_cast<uint64_t>(1 + p.tp.size);
    floats += static_cast<uint64_t>(c.vocab_size) * 3;
  }
  return rows * floats * 4 + PanelSet::bytes(p.max_rows, c.hidden_size) +
         PanelSet::bytes(p.max_rows, attention) +
         PanelSet::bytes(p.max_rows, shard.columns.size() + kGateColumns) +
         static_cast<uint64_t>(p.threads) * static_cast<uint64_t>(scratch_floats) * 4 + (1 << 20);
}

}  // namespace

LlamaStep::LlamaStep(StepParts parts)
    : p_(std::move(parts)),
      c_(p_.config),
      shard_(p_.sharding.ranks[static_cast<size_t>(p_.tp.rank)]),
      k_(*p_.kernels),
      attention_units_(unit_columns(p_.sharding.units.attention, shard_.attention_units,
                                    c_.heads_per_group() * c_.head_dim)),
      mlp_units_(unit_columns(p_.sharding.units.mlp, shard_.mlp_units, 1)),
      attention_plan_(make_reduction_plan(p_.sharding.attention_runs(), p_.tp.rank)),
      mlp_plan_(make_reduction_plan(p_.sharding.mlp_runs(), p_.tp.rank)),
      qkv_cols_((shard_.heads.size() + 2 * shard_.groups.size()) * c_.head_dim),
      team_({.threads = p_.threads, .first_core = p_.first_core}),
      arena_(arena_bytes(p_, shard_, 1 << 16)),
      hidden_panels_(arena_, p_.max_rows, 0, c_.hidden_size,
                     any_plain(p_.weights,
                               {&LayerWeights::q, &LayerWeights::k, &LayerWeights::v,
                                &LayerWeights::gate, &LayerWeights::up},
                               true, p_.weights.head),
                     any_plain(p_.weights,
                               {&LayerWeights::q, &LayerWeights::k, &LayerWeights::v,
                                &LayerWeights::gate, &LayerWeights::up},
                               false, p_.weights.head)),
      attention_panels_(arena_, p_.max_rows, shard_.heads.begin * c_.head_dim,
                        shard_.heads.size() * c_.head_dim,
                        any_plain(p_.weights, {&LayerWeights::out}, true),
                        any_plain(p_.weights, {&LayerWeights::out}, false)),
      mlp_panels_(arena_, p_.max_rows, shard_.columns.begin, shard_.columns.size(),
                  any_plain(p_.weights, {&LayerWeights::down}, true),
                  any_plain(p_.weights, {&LayerWeights::down}, false)) {
  const int64_t dim = c_.head_dim;
  const Range q{shard_.heads.begin * dim, shard_.heads.end * dim};
  const Range kv{shard_.groups.begin * dim, shard_.groups.end * dim};
  const Range qkv[] = {q, kv, kv};
  qkv_strips_ = strips(qkv, kColumnTiles);
  head_strips_ = strips(std::span(&shard_.vocab, 1), kHeadTiles);

  x_ = arena_.take<float>(p_.max_rows * c_.hidden_size);
  qkv_ = arena_.take<float>(p_.max_rows * qkv_cols_);
  attended_ = arena_.take<float>(p_.max_rows * shard_.heads.size() * dim);
  cos_ = arena_.take<float>(p_.max_rows * dim / 2);
  sin_ = arena_.take<float>(p_.max_rows * dim / 2);
  logit_rows_ = arena_.take<float>(p_.max_rows * c_.hidden_size);
  if (p_.tp.size > 1) {
    const int64_t pieces = std::max(attention_plan_.pieces_max, mlp_plan_.pieces_max);
    sent_ = arena_.take<float>(pieces * p_.max_rows * c_.hidden_size);
    gathered_ = arena_.take<float>(p_.tp.size * pieces * p_.max_rows * c_.hidden_size);
    int64_t widest = 0;
    for (const RankShard& rank : p_.sharding.ranks) widest = std::max(widest, rank.vocab.size());
    local_logits_ = arena_.take<float>(p_.max_rows * widest);
    if (p_.tp.rank == 0) all_logits_ = arena_.take<float>(p_.tp.size * p_.max_rows * widest);
  }
  const int64_t units = static_cast<int64_t>(std::max(attention_units_.size(), mlp_units_.size()));
  scratch_floats_ = std::max({units * kPanelRows * kRowTiles * kTileOutputs,
                              kPanelRows * kHeadTiles * kTileOutputs, c_.hidden_size});
  for (int t = 0; t < p_.threads; ++t) scratch_.push_back(arena_.take<float>(scratch_floats_));
  row_.reserve(static_cast<size_t>(p_.max_rows));
  attention_tasks_.reserve(static_cast<size_t>(p_.max_rows * shard_.groups.size()));
}

Result<void> LlamaStep::run(const StepInput& input, std::span<float> logits, const HiddenTaps& taps,
                            std::atomic<uint64_t>& progress) {
  team_.begin_step();
  in_collectives_ = Duration{};
  lay_out(input);
  embed();
  size_t tapped = 0;
  for (int64_t l = 0; l < c_.num_layers; ++l) {
    const LayerWeights& layer = p_.weights.layers[static_cast<size_t>(l)];
    const int64_t dim = c_.head_dim, heads = shard_.heads.size(), groups = shard_.groups.size();
    normalize(layer.attention_norm, x_, rows_);
    const Range q{shard_.heads.begin * dim, shard_.heads.end * dim};
    const Range kv{shard_.groups.begin * dim, shard_.groups.end * dim};
    const Target targets[] = {
        {layer.q, q, &layer.q_bias, qkv_, qkv_cols_},
        {layer.k, kv, &layer.k_bias, qkv_ + heads * dim, qkv_cols_},
        {layer.v, kv, &layer.v_bias, qkv_ + (heads + groups) * dim, qkv_cols_}};
    columns(targets, qkv_strips_);
    rotate_and_append(l);
    attend(input, l);
    TAILOR_TRY(add_row_parallel(*layer.out, attention_panels_, attention_units_, attention_plan_,
                                layer.out_bias));
    normalize(layer.mlp_norm, x_, rows_);
    gate_and_up(layer);
    TAILOR_TRY(add_row_parallel(*layer.down, mlp_panels_, mlp_units_, mlp_plan_, layer.down_bias));
    if (tapped < taps.layers.size() && taps.layers[tapped] == l + 1) copy_hidden(taps, tapped++);
    progress.fetch_add(1, std::memory_order_relaxed);
  }
  if (input.num_logits() > 0) TAILOR_TRY(head(input, logits));
  team_.end_step(in_collectives_);
  return {};
}

// ---- the step's shape ----

void LlamaStep::lay_out(const StepInput& input) {
  rows_ = input.num_rows();
  row_.clear();
  attention_tasks_.clear();
  for (size_t index = 0; index < input.chunks.size(); ++index) {
    const Chunk& chunk = input.chunks[index];
    for (int32_t r = 0; r < chunk.num_rows; ++r) {
      const int64_t position = chunk.first_position + r;
      row_.push_back(
          {input.token_ids[static_cast<size_t>(chunk.first_row + r)], position,
           input.block_ids[static_cast<size_t>(chunk.first_block + position / kBlockSlots)],
           static_cast<int32_t>(position % kBlockSlots)});
    }
    for (int32_t first = 0; first < chunk.num_rows; first += kAttentionRows) {
      const int32_t count = std::min(kAttentionRows, chunk.num_rows - first);
      const int64_t cost = int64_t{count} * (chunk.first_position + first + count);
      for (int32_t group = 0; group < shard_.groups.size(); ++group)
        attention_tasks_.push_back({static_cast<int32_t>(index), group, first, count, cost});
    }
  }
  // The longest first: none is left for the end alone.
  std::sort(attention_tasks_.begin(), attention_tasks_.end(),
            [](const AttentionTask& a, const AttentionTask& b) { return a.cost > b.cost; });
  hidden_panels_.set_rows(rows_);
  attention_panels_.set_rows(rows_);
  mlp_panels_.set_rows(rows_);
}

void LlamaStep::embed() {
  const int64_t half = c_.head_dim / 2;
  team_.run(static_cast<int32_t>(tasks_of(rows_, kRowsPerTask)), [&](int32_t task, int) {
    const int64_t end = std::min(rows_, (task + 1) * kRowsPerTask);
    for (int64_t r = task * kRowsPerTask; r < end; ++r) {
      p_.weights.embedding->read_row(
          row_[static_cast<size_t>(r)].token,
          {x_ + r * c_.hidden_size, static_cast<size_t>(c_.hidden_size)});
      // Angles in F32, as the model was trained; their sines by way of double, so that no C
      // library's last bit reaches the result.
      const auto position = static_cast<float>(row_[static_cast<size_t>(r)].position);
      for (int64_t i = 0; i < half; ++i) {
        const double angle = position * p_.weights.inverse_frequencies[static_cast<size_t>(i)];
        cos_[r * half + i] = static_cast<float>(std::cos(angle));
        sin_[r * half + i] = static_cast<float>(std::sin(angle));
      }
    }
  });
}

void LlamaStep::normalize(const std::vector<float>& weight, const float* x, int64_t rows) {
  team_.run(static_cast<int32_t>(tasks_of(rows, kRowsPerTask)), [&](int32_t task, int thread) {
    float* out = scratch_[static_cast<size_t>(thread)];
    const int64_t end = std::min(rows, (task + 1) * kRowsPerTask);
    for (int64_t r = task * kRowsPerTask; r < end; ++r) {
      k_.rms_norm(x + r * c_.hidden_size, weight.data(), c_.rms_norm_eps, c_.hidden_size, out);
      hidden_panels_.fill(k_, out, 0, c_.hidden_size, r);
    }
  });
}

// ---- column-parallel products ----

std::vector<LlamaStep::Strip> LlamaStep::strips(std::span<const Range> rows, int64_t tiles) const {
  std::vector<Strip> out;
  for (size_t matrix = 0; matrix < rows.size(); ++matrix) {
    const int64_t end = tasks_of(rows[matrix].end, kTileOutputs);
    for (int64_t tile = rows[matrix].begin / kTileOutputs; tile < end; tile += tiles)
      out.push_back({static_cast<int>(matrix), tile, std::min(tiles, end - tile)});
  }
  return out;
}

void LlamaStep::strip_product(const Target& target, const Strip& strip, const PanelSet& panels,
                              int64_t panel_index, float* scratch) const {
  const Panel panel = panels.panel(panel_index);
  const Range outputs{strip.tile * kTileOutputs, (strip.tile + strip.num_tiles) * kTileOutputs};
  const Range kept{std::max(outputs.begin, target.rows.begin),
                   std::min(outputs.end, target.rows.end)};
  const int64_t first_k = panel.first_col, end_k = first_k + panels.cols();
  float* out =
      target.out + panel_index * kPanelRows * target.stride + kept.begin - target.rows.begin;
  if (kept == outputs) {
    k_.product(*target.matrix, strip.tile, strip.num_tiles, first_k, end_k, panel, out,
               target.stride);
  } else {
    const int64_t width = outputs.size();
    k_.product(*target.matrix, strip.tile, strip.num_tiles, first_k, end_k, panel, scratch, width);
    for (int32_t r = 0; r < panel.rows; ++r)
      std::memcpy(out + r * target.stride, scratch + r * width + kept.begin - outputs.begin,
                  static_cast<size_t>(kept.size()) * sizeof(float));
  }
  if (target.bias->empty()) return;
  for (int32_t r = 0; r < panel.rows; ++r)
    k_.add(out + r * target.stride, target.bias->data() + kept.begin, kept.size());
}

void LlamaStep::columns(std::span<const Target> targets, const std::vector<Strip>& strips) {
  team_.run(static_cast<int32_t>(strips.size()), [&](int32_t task, int thread) {
    const Strip& strip = strips[static_cast<size_t>(task)];
    for (int64_t panel = 0; panel < hidden_panels_.num_panels(); ++panel)
      strip_product(targets[strip.matrix], strip, hidden_panels_, panel,
                    scratch_[static_cast<size_t>(thread)]);
  });
}

void LlamaStep::gate_and_up(const LayerWeights& layer) {
  const int64_t tasks = tasks_of(shard_.columns.size(), kGateColumns);
  team_.run(static_cast<int32_t>(tasks), [&](int32_t task, int thread) {
    const int64_t begin = shard_.columns.begin + task * kGateColumns;
    const Range own{begin, std::min(begin + kGateColumns, shard_.columns.end)};
    const Strip strip{0, own.begin / kTileOutputs,
                      tasks_of(own.end, kTileOutputs) - own.begin / kTileOutputs};
    const int64_t width = strip.num_tiles * kTileOutputs;
    const int64_t lead = own.begin - strip.tile * kTileOutputs;
    float* gate = scratch_[static_cast<size_t>(thread)];
    float* up = gate + kPanelRows * width;
    for (int64_t index = 0; index < hidden_panels_.num_panels(); ++index) {
      const Panel panel = hidden_panels_.panel(index);
      k_.product(*layer.gate, strip.tile, strip.num_tiles, 0, c_.hidden_size, panel, gate, width);
      k_.product(*layer.up, strip.tile, strip.num_tiles, 0, c_.hidden_size, panel, up, width);
      for (int32_t r = 0; r < panel.rows; ++r) {
        float* row = gate + r * width + lead;
        float* other = up + r * width + lead;
        if (!layer.gate_bias.empty()) {
          k_.add(row, layer.gate_bias.data() + own.begin, own.size());
          k_.add(other, layer.up_bias.data() + own.begin, own.size());
        }
        k_.gated(row, other, own.size());
        mlp_panels_.fill(k_, row, own.begin - shard_.columns.begin, own.size(),
                         index * kPanelRows + r);
      }
    }
  });
}

// ---- attention ----

std::byte* LlamaStep::plane(int32_t block, int64_t group, int64_t layer, int64_t kv) const {
  const kv::BlockLayout& layout = p_.layout;
  return p_.pool + (block * layout.block_values() + layout.plane_offset(group, layer, kv)) *
                       layout.value_bytes();
}

void LlamaStep::rotate_and_append(int64_t layer) {
  const int64_t dim = c_.head_dim, heads = shard_.heads.size(), groups = shard_.groups.size();
  const float scale = 1.0f / std::sqrt(static_cast<float>(dim));
  const bool halves = p_.layout.value_bytes() == 2;
  team_.run(static_cast<int32_t>(tasks_of(rows_, kRowsPerTask)), [&](int32_t task, int) {
    const int64_t end = std::min(rows_, (task + 1) * kRowsPerTask);
    for (int64_t r = task * kRowsPerTask; r < end; ++r) {
      float* q = qkv_ + r * qkv_cols_;
      float* k = q + heads * dim;
      float* v = k + groups * dim;
      const float *cos = cos_ + r * dim / 2, *sin = sin_ + r * dim / 2;
      k_.rope(q, heads, dim, cos, sin, scale);
      k_.rope(k, groups, dim, cos, sin, 1.0f);
      const Row& row = row_[static_cast<size_t>(r)];
      for (int64_t g = 0; g < groups; ++g)
        (halves ? k_.append_f16 : k_.append_f32)(
            k + g * dim, v + g * dim, static_cast<int32_t>(dim), row.slot,
            plane(row.block, g, layer, 0), plane(row.block, g, layer, 1));
    }
  });
}

void LlamaStep::attend(const StepInput& input, int64_t layer) {
  const kv::BlockLayout& layout = p_.layout;
  const int64_t dim = c_.head_dim, per_group = c_.heads_per_group();
  const int64_t width = shard_.heads.size() * dim;
  const auto kernel = layout.value_bytes() == 2 ? k_.attend_f16 : k_.attend_f32;
  team_.run(static_cast<int32_t>(attention_tasks_.size()), [&](int32_t index, int) {
    const AttentionTask& task = attention_tasks_[static_cast<size_t>(index)];
    const Chunk& chunk = input.chunks[static_cast<size_t>(task.chunk)];
    AttentionRow row;
    row.pool = plane(0, task.group, layer, 0);
    row.block_stride = layout.block_bytes();
    row.value_plane = layout.plane_values() * layout.value_bytes();
    row.blocks = input.block_ids.data() + chunk.first_block;
    row.heads = static_cast<int32_t>(per_group);
    row.head_dim = static_cast<int32_t>(dim);
    for (int32_t r = task.first_row; r < task.first_row + task.num_rows; ++r) {
      const int64_t at = chunk.first_row + r;
      row.num_keys = chunk.first_position + r + 1;
      row.queries = qkv_ + at * qkv_cols_ + task.group * per_group * dim;
      row.out = attended_ + at * width + task.group * per_group * dim;
      kernel(row);
    }
  });
  team_.run(static_cast<int32_t>(tasks_of(rows_, kRowsPerTask)), [&](int32_t task, int) {
    const int64_t end = std::min(rows_, (task + 1) * kRowsPerTask);
    for (int64_t r = task * kRowsPerTask; r < end; ++r)
      attention_panels_.fill(k_, attended_ + r * width, 0, width, r);
  });
}

// ---- row-parallel products ----

Result<void> LlamaStep::gathered(std::span<const std::byte> mine, std::span<std::byte> all,
                                 bool to_all) {
  const Time begin = now();
  TAILOR_TRY(to_all ? p_.tp.collective->all_gather(mine, all)
                    : p_.tp.collective->gather(mine, all, 0));
  in_collectives_ += now() - begin;
  return {};
}

/// x += sum of the units' partials, and the bias.
Result<void> LlamaStep::add_row_parallel(const PackedMatrix& matrix, const PanelSet& panels,
                                         const std::vector<Range>& units, const ReductionPlan& plan,
                                         const std::vector<float>& bias) {
  const int64_t hidden = c_.hidden_size, tiles = matrix.num_tiles();
  const bool alone = p_.tp.size == 1;
  const auto add_to_x = [&](int64_t row, int64_t column, float* sum, int64_t count) {
    if (!bias.empty()) k_.add(sum, bias.data() + column, count);
    k_.add(x_ + row * hidden + column, sum, count);
  };
  team_.run(static_cast<int32_t>(tasks_of(tiles, kRowTiles)), [&](int32_t task, int thread) {
    const int64_t tile = task * kRowTiles, count = std::min(kRowTiles, tiles - tile);
    const int64_t width = count * kTileOutputs, column = tile * kTileOutputs;
    const int64_t kept = std::min(width, hidden - column);
    float* partials = scratch_[static_cast<size_t>(thread)];
    for (int64_t index = 0; index < panels.num_panels(); ++index) {
      const Panel panel = panels.panel(index);
      const int64_t size = panel.rows * width;
      for (int64_t t = 0; t < count; ++t)  // a tile at a time: memory in order
        for (size_t u = 0; u < units.size(); ++u)
          k_.product(matrix, tile + t, 1, units[u].begin, units[u].end, panel,
                     partials + static_cast<int64_t>(u) * size + t * kTileOutputs, width);
      for (size_t piece = 0; piece < plan.mine.size(); ++piece) {
        for (const AddStep& add : plan.mine[piece].steps)
          k_.add(partials + add.into * size, partials + add.from * size, size);
        float* sum = partials + plan.mine[piece].slot * size;
        for (int32_t r = 0; r < panel.rows; ++r) {
          const int64_t row = index * kPanelRows + r;
          if (alone)
            add_to_x(row, column, sum + r * width, kept);
          else
            std::memcpy(sent_ + (static_cast<int64_t>(piece) * rows_ + row) * hidden + column,
                        sum + r * width, static_cast<size_t>(kept) * sizeof(float));
        }
      }
    }
  });
  if (alone) return {};
  const int64_t piece = rows_ * hidden;
  const auto bytes = static_cast<size_t>(plan.pieces_max * piece) * sizeof(float);
  TAILOR_TRY(gathered(
      {reinterpret_cast<const std::byte*>(sent_), bytes},
      {reinterpret_cast<std::byte*>(gathered_), bytes * static_cast<size_t>(p_.tp.size)}, true));
  const auto slot = [&](int32_t index) {
    return gathered_ + plan.gathered_slots[static_cast<size_t>(index)] * piece;
  };
  team_.run(static_cast<int32_t>(tasks_of(rows_, kRowsPerTask)), [&](int32_t task, int) {
    const int64_t end = std::min(rows_, (task + 1) * kRowsPerTask);
    for (int64_t r = task * kRowsPerTask; r < end; ++r) {
      for (const AddStep& add : plan.combine)
        k_.add(slot(add.into) + r * hidden, slot(add.from) + r * hidden, hidden);
      add_to_x(r, 0, slot(0) + r * hidden, hidden);
    }
  });
  return {};
}

void LlamaStep::copy_hidden(const HiddenTaps& taps, size_t layer) const {
  const auto hidden = static_cast<size_t>(c_.hidden_size);
  for (size_t i = 0; i < taps.rows.size(); ++i)
    std::memcpy(taps.out.data() + (i * taps.layers.size() + layer) * hidden,
                x_ + taps.rows[i] * c_.hidden_size, hidden * sizeof(float));
}

// ---- logits ----

Result<void> LlamaStep::head(const StepInput& input, std::span<float> logits) {
  int64_t count = 0;
  for (const Chunk& chunk : input.chunks) {
    if (chunk.wants_logits == 0) continue;
    const int64_t row = chunk.first_row + chunk.num_rows - 1;
    std::memcpy(logit_rows_ + count * c_.hidden_size, x_ + row * c_.hidden_size,
                static_cast<size_t>(c_.hidden_size) * sizeof(float));
    ++count;
  }
  hidden_panels_.set_rows(count);
  normalize(p_.weights.final_norm, logit_rows_, count);
  const bool alone = p_.tp.size == 1;
  int64_t widest = 0;
  for (const RankShard& rank : p_.sharding.ranks) widest = std::max(widest, rank.vocab.size());
  const std::vector<float> none;
  const Target target{p_.weights.head, shard_.vocab, &none, alone ? logits.data() : local_logits_,
                      alone ? c_.vocab_size : widest};
  columns(std::span(&target, 1), head_strips_);
  if (alone) return {};
  const auto bytes = static_cast<size_t>(count * widest) * sizeof(float);
  std::span<std::byte> all;
  if (p_.tp.rank == 0)
    all = {reinterpret_cast<std::byte*>(all_logits_), bytes * static_cast<size_t>(p_.tp.size)};
  TAILOR_TRY(gathered({reinterpret_cast<const std::byte*>(local_logits_), bytes}, all, false));
  if (p_.tp.rank != 0) return {};
  for (int64_t rank = 0; rank < p_.tp.size; ++rank) {
    const Range vocab = p_.sharding.ranks[static_cast<size_t>(rank)].vocab;
    for (int64_t row = 0; row < count; ++row)
      std::memcpy(logits.data() + row * c_.vocab_size + vocab.begin,
                  all_logits_ + (rank * count + row) * widest,
                  static_cast<size_t>(vocab.size()) * sizeof(float));
  }
  return {};
}

}  // namespace tailor::parallel::cpu
