// Who owns what when a model is split over tensor-parallel ranks, and the reduction units of its
// row-parallel products. The units follow from (config, weight format) alone, never from the tp
// size, so that the order of additions is the same for every tp (parallel/reduction.h). Attention
// units are the smallest runs of whole KV groups, MLP units shares of the intermediate columns as
// even as whole quantization blocks allow. Pure.
#pragma once

#include <cstdint>
#include <vector>

#include "base/result.h"
#include "parallel/reduction.h"
#include "weights/model_config.h"

namespace tailor::weights {
class WeightFiles;
}

namespace tailor::parallel {

/// Most units of either kind: few enough that their partials cost little, enough for the tp sizes
/// of one host.
inline constexpr int64_t kMaxUnits = 12;
/// Fewest MLP units where the intermediate size allows it.
inline constexpr int64_t kMinMlpUnits = 6;
/// Columns of the coarsest quantization block of the simple formats (Q4_0 ... Q8_0); K-quants have
/// 256.
inline constexpr int64_t kBlockColumns = 32;

/// `parts` runs of [0, total), sizes differing by at most one, larger ones first.
std::vector<Range> split_evenly(int64_t total, int64_t parts);

struct ReductionUnits {
  std::vector<Range> attention;  ///< runs of KV groups
  std::vector<Range> mlp;        ///< runs of intermediate columns
};

/// The default model (3 groups, 1536 columns): 3 attention units of 1 group, 6 MLP units of 256
/// columns. 8 groups: 8 and 8. 32 groups: 8 runs of 4, and 8.
ReductionUnits reduction_units(const weights::ModelConfig& config,
                               int64_t block_columns = kBlockColumns);

/// Units [run) as columns of the row-parallel matrix; `scale` columns per unit item.
std::vector<Range> unit_columns(const std::vector<Range>& units, Range run, int64_t scale);

/// What one rank holds. Runs are contiguous and tile the model over the ranks.
struct RankShard {
  Range attention_units, mlp_units;
  Range groups;   ///< KV groups
  Range heads;    ///< query heads
  Range columns;  ///< of the intermediate size
  Range vocab;    ///< rows of embedding and head
};

struct Sharding {
  ReductionUnits units;
  std::vector<RankShard> ranks;

  std::vector<Range> attention_runs() const;  ///< each rank's attention units
  std::vector<Range> mlp_runs() const;
};

/// Errors: InvalidArgument when tp_size is below 1 or above the number of units (names the
/// numbers).
Result<Sharding> make_sharding(const weights::ModelConfig& config, int tp_size,
                               int64_t block_columns = kBlockColumns);

/// Values a rank holds in matrices (what dtype decides the size of), before anything is read.
uint64_t shard_values(const weights::ModelConfig& config, const RankShard& shard, bool tied);

/// True when head and embedding are one tensor in these files.
bool has_tied_head(const weights::WeightFiles& files);

}  // namespace tailor::parallel
