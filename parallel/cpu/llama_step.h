// One step of a Llama on the CPU: the fused loop over the layers. Per layer five phases of tasks
// for the thread team: norm and QKV; RoPE and KV append; paged attention, the queries of a group
// sharing its K and V; output product and residual; norm, gate, up, SiLU, and down with residual.
// Tasks split rows or outputs, never K, so that no thread count changes a bit; row-parallel
// products are partials per reduction unit, summed in the fixed tree (parallel/reduction.h), also
// at tp 1. Owner: the rank's main thread.
#pragma once

#include <atomic>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "kv/block_layout.h"
#include "parallel/cpu/arena.h"
#include "parallel/cpu/kernels_cpu.h"
#include "parallel/cpu/packed_model.h"
#include "parallel/cpu/thread_team.h"
#include "parallel/engine.h"
#include "parallel/sharding.h"

namespace tailor::parallel::cpu {

/// One layer's weights. Biases are empty where the model has none.
struct LayerWeights {
  const PackedMatrix *q, *k, *v, *out, *gate, *up, *down;
  std::vector<float> attention_norm, mlp_norm;
  std::vector<float> q_bias, k_bias, v_bias, out_bias, gate_bias, up_bias, down_bias;
};

struct ModelWeights {
  std::vector<LayerWeights> layers;
  const PackedMatrix *embedding, *head;
  std::vector<float> final_norm;
  std::vector<float> inverse_frequencies;
};

struct StepParts {
  weights::ModelConfig config;
  TpContext tp;
  Sharding sharding;
  ModelWeights weights;
  const CpuKernels* kernels = nullptr;
  kv::BlockLayout layout;
  std::byte* pool = nullptr;  ///< the device tier
  int64_t max_rows = 0;
  int threads = 1;
  int first_core = -1;  ///< ThreadTeamOptions
};

class LlamaStep {
 public:
  explicit LlamaStep(StepParts parts);

  /// As SynchronousEngine::compute; raises `progress` once per layer.
  Result<void> run(const StepInput& input, std::span<float> logits, const HiddenTaps& taps,
                   std::atomic<uint64_t>& progress);

 private:
  /// A run of tiles of one matrix whose outputs [rows) this rank wants.
  struct Strip {
    int matrix;  ///< 0, 1, 2 of the phase
    int64_t tile, num_tiles;
  };
  /// A token of this step: where its K and V go.
  struct Row {
    TokenId token;
    int64_t position;
    int32_t block, slot;
  };
  struct AttentionTask {
    int32_t chunk, group;
    int32_t first_row, num_rows;  ///< inside the chunk
    int64_t cost;
  };
  /// A column-parallel product's own outputs and where they go: out[row * stride + output -
  /// rows.begin].
  struct Target {
    const PackedMatrix* matrix;
    Range rows;
    const std::vector<float>* bias;
    float* out;
    int64_t stride;
  };

  void lay_out(const StepInput& input);
  void embed();
  void normalize(const std::vector<float>& weight, const float* x, int64_t rows);
  void columns(std::span<const Target> targets, const std::vector<Strip>& strips);
  void rotate_and_append(int64_t layer);
  void attend(const StepInput& input, int64_t layer);
  void gate_and_up(const LayerWeights& layer);
  Result<void> add_row_parallel(const PackedMatrix& matrix, const PanelSet& panels,
                                const std::vector<Range>& units, const ReductionPlan& plan,
                                const std::vector<float>& bias);
  void copy_hidden(const HiddenTaps& taps, size_t layer) const;
  Result<void> head(const StepInput& input, std::span<float> logits);
  Result<void> gathered(std::span<const std::byte> mine, std::span<std::byte> all, bool to_all);

  std::vector<Strip> strips(std::span<const Range> rows, int64_t tiles) const;
  /// Tile run [tile, tile + num_tiles) of `target`, clipped to its rows.
  void strip_product(const Target& target, const Strip& strip, const PanelSet& panels,
                     int64_t panel, float* scratch) const;
  std::byte* plane(int32_t block, int64_t group, int64_t layer, int64_t kv) const;

  const StepParts p_;
  const weights::ModelConfig& c_;
  const RankShard shard_;
  const CpuKernels& k_;
  const std::vector<Range> attention_units_, mlp_units_;  ///< this rank's, as columns
  const ReductionPlan attention_plan_, mlp_plan_;
  const int64_t qkv_cols_;
  std::vector<Strip> qkv_strips_, head_strips_;
  ThreadTeam team_;
  Arena arena_;
  PanelSet hidden_panels_, attention_panels_, mlp_panels_;

  // The step's memory, [max_rows] rows each.
  float *x_, *qkv_, *attended_, *cos_, *sin_, *sent_ = nullptr, *gathered_ = nullptr;
  float *logit_rows_, *local_logits_ = nullptr, *all_logits_ = nullptr;
  std::vector<float*> scratch_;  ///< per thread
  int64_t scratch_floats_ = 0;

  // The step at hand.
  int64_t rows_ = 0;
  std::vector<Row> row_;
  std::vector<AttentionTask> attention_tasks_;
  Duration in_collectives_{};
};

}  // namespace tailor::parallel::cpu
