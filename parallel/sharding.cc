#include "parallel/sharding.h"

#include <algorithm>
#include <string>

#include "base/check.h"
#include "weights/weight_files.h"

namespace tailor::parallel {
namespace {

/// Groups per unit are equal where a divisor allows at least 3 units; a prime number of groups gets
/// uneven runs.
int64_t attention_unit_count(int64_t groups) {
  if (groups <= kMaxUnits) return groups;
  for (int64_t units = kMaxUnits; units >= 3; --units) {
    if (groups % units == 0) return units;
  }
  return kMaxUnits;
}

/// A multiple of the attention units, so that both kinds split alike over the ranks.
int64_t mlp_unit_count(int64_t attention_units, int64_t blocks) {
  int64_t units = attention_units;
  while (units < kMinMlpUnits) units += attention_units;
  return std::min(units, blocks);
}

Range cover(const std::vector<Range>& units, Range run) {
  return {units[static_cast<size_t>(run.begin)].begin, units[static_cast<size_t>(run.end - 1)].end};
}

}  // namespace

std::vector<Range> split_evenly(int64_t total, int64_t parts) {
  TAILOR_CHECK(parts > 0, "a split into no parts");
  std::vector<Range> out;
  int64_t begin = 0;
  for (int64_t i = 0; i < parts; ++i) {
    const int64_t end = begin + total / parts + (i < total % parts ? 1 : 0);
    out.push_back({begin, end});
    begin = end;
  }
  return out;
}

ReductionUnits reduction_units(const weights::ModelConfig& config, int64_t block_columns) {
  ReductionUnits units;
  units.attention = split_evenly(config.num_kv_heads, attention_unit_count(config.num_kv_heads));
  const int64_t blocks = (config.intermediate_size + block_columns - 1) / block_columns;
  units.mlp =
      split_evenly(blocks, mlp_unit_count(static_cast<int64_t>(units.attention.size()), blocks));
  for (Range& unit : units.mlp) {
    unit.begin *= block_columns;
    unit.end = std::min(unit.end * block_columns, config.intermediate_size);
  }
  return units;
}

std::vector<Range> unit_columns(const std::vector<Range>& units, Range run, int64_t scale) {
  std::vector<Range> columns;
  for (int64_t u = run.begin; u < run.end; ++u) {
    const Range unit = units[static_cast<size_t>(u)];
    columns.push_back({unit.begin * scale, unit.end * scale});
  }
  return columns;
}

std::vector<Range> Sharding::attention_runs() const {
  std::vector<Range> runs;
  for (const RankShard& rank : ranks) runs.push_back(rank.attention_units);
  return runs;
}

std::vector<Range> Sharding::mlp_runs() const {
  std::vector<Range> runs;
  for (const RankShard& rank : ranks) runs.push_back(rank.mlp_units);
  return runs;
}

Result<Sharding> make_sharding(const weights::ModelConfig& config, int tp_size,
                               int64_t block_columns) {
  Sharding sharding;
  sharding.units = reduction_units(config, block_columns);
  const auto attention = static_cast<int64_t>(sharding.units.attention.size());
  const auto mlp = static_cast<int64_t>(sharding.units.mlp.size());
  const int64_t limit = std::min({attention, mlp, config.vocab_size});
  if (tp_size < 1 || tp_size > limit) {
    return fail(ErrorCode::kInvalidArgument,
                "tp " + std::to_string(tp_size) + " is outside 1.." + std::to_string(limit) + ": " +
                    (config.name.empty() ? "the model" : config.name) + " with " +
                    std::to_string(config.num_kv_heads) + " KV heads and intermediate size " +
                    std::to_string(config.intermediate_size) + " splits into " +
                    std::to_string(attention) + " attention units and " + std::to_string(mlp) +
                    " MLP units, and every rank needs one of each");
  }
  const auto attention_runs = split_evenly(attention, tp_size);
  const auto mlp_runs = split_evenly(mlp, tp_size);
  const auto vocab_runs = split_evenly(config.vocab_size, tp_size);
  for (size_t r = 0; r < static_cast<size_t>(tp_size); ++r) {
    RankShard shard;
    shard.attention_units = attention_runs[r];
    shard.mlp_units = mlp_runs[r];
    shard.groups = cover(sharding.units.attention, attention_runs[r]);
    shard.heads = {shard.groups.begin * config.heads_per_group(),
                   shard.groups.end * config.heads_per_group()};
    shard.columns = cover(sharding.units.mlp, mlp_runs[r]);
    shard.vocab = vocab_runs[r];
    sharding.ranks.push_back(shard);
  }
  return sharding;
}

uint64_t shard_values(const weights::ModelConfig& config, const RankShard& shard, bool tied) {
  const int64_t attention = (2 * shard.heads.size() + 2 * shard.groups.size()) * config.head_dim;
  const int64_t per_layer = config.hidden_size * (attention + 3 * shard.columns.size());
  const int64_t tables = config.hidden_size * shard.vocab.size() * (tied ? 1 : 2);
  return static_cast<uint64_t>(per_layer * config.num_layers + tables);
}

bool has_tied_head(const weights::WeightFiles& files) {
  return files.config().tie_embeddings || files.find("lm_head.weight") == nullptr;
}

}  // namespace tailor::parallel
