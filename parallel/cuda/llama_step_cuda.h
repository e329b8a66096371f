// The forward pass of one rank on its GPU, as work in the device's stream: embedding, layers, head.
// The residual stream is F32 [rows, hidden]; T (F32 or BF16) are weights, KV and what goes from
// kernel to kernel. A row-parallel product is one GEMM over the rank's columns with F32 output; the
// ranks gather each other's and add them in the order of ranks, so that no transport decides a sum.
// Embedding and head are split by vocabulary: a rank writes zeros for foreign tokens, and rank 0
// joins the shards' logits.
//
// Knows rows, not sequences: what a step is made of lies on the device already. Owner: the rank's
// main thread. Allocates nothing after make().
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "base/result.h"
#include "kv/block_layout.h"
#include "parallel/cuda/device.h"
#include "parallel/cuda/gemm.h"
#include "parallel/cuda/kernels.h"
#include "parallel/cuda/weights_cuda.h"
#include "parallel/engine.h"
#include "parallel/sharding.h"
#include "weights/model_config.h"

namespace tailor::parallel::gpu {

struct LlamaStepParts {
  weights::ModelConfig config;
  TpContext tp;  ///< its collective works in the device's stream
  Sharding sharding;
  ShardWeights weights;
  int64_t max_rows = 0;
  int64_t logit_rows = 0;  ///< most rows that become logits at once
};

/// A step's rows, on the device.
struct StepRows {
  int64_t rows = 0;
  const int32_t* tokens = nullptr;       ///< [rows]; negative: drawn_in_row
  const int32_t* positions = nullptr;    ///< [rows]
  const int32_t* slots = nullptr;        ///< [rows]: where its key and value go
  const int32_t* first_block = nullptr;  ///< [rows], into block_ids
  const int32_t* block_ids = nullptr;
  const int32_t* drawn = nullptr;  ///< what negative tokens name
};

class LlamaStep {
 public:
  /// Errors: InvalidArgument (sizes that the kernels do not take), LimitExceeded (memory),
  /// DeviceFailure.
  static Result<std::unique_ptr<LlamaStep>> make(Device& device, LlamaStepParts parts);

  /// Rows of embedding and head on every rank.
  static int64_t table_rows(const Sharding& sharding);
  /// Device memory that make() takes.
  static uint64_t bytes(const LlamaStepParts& parts, kv::ValueType type);

  /// Called when the kernels are in the stream behind which x() is the residual stream after
  /// `layer` layers.
  using AfterLayer = std::function<Result<void>(int64_t layer)>;
  /// All layers. `last`: the stream after the last one is wanted, for all rows, and after_layer is
  /// called for it.
  Result<void> layers(const StepRows& step, const kv::BlockLayout& layout, void* pool, bool last,
                      const AfterLayer& after_layer);
  /// Logits of rows [count] that `rows` (on the device) names, at most once each, of the last
  /// layers(); on rank 0 at logits(), which the next call overwrites.
  Result<void> head(const int32_t* rows, int64_t count);

  const float* x() const { return x_; }            ///< device [rows, hidden]
  const float* logits() const { return logits_; }  ///< device [logit_rows, vocab_size]; rank 0

 private:
  /// What a row-parallel product has left to be added to the stream.
  struct Pending {
    int64_t partials = 0;
    const float* bias = nullptr;
  };
  struct Shapes {
    int qkv = 0, attention_out = 0, gate_up = 0, down = 0, head = 0;
  };

  LlamaStep(Device& device, LlamaStepParts parts);
  Result<void> reserve();
  Result<void> prepare();
  Result<void> attend(const LayerWeights& layer, int64_t index, const StepRows& step,
                      const kv::BlockLayout& layout, void* pool);
  Result<void> feed_forward(const LayerWeights& layer, int64_t rows);
  Result<void> add_and_norm(const float* weight, const int32_t* row_index, int64_t rows);
  Result<void> product(int shape, const void* x, const void* w, void* y, int64_t rows);
  Result<void> gather_partials(int64_t rows, const float* bias);

  Device& device_;
  const LlamaStepParts parts_;
  const RankShard shard_;
  const kv::ValueType type_;
  const Stream stream_;
  std::unique_ptr<Gemm> gemm_;
  Shapes shapes_;
  std::vector<GemmShape> sizes_;  // [shape]
  Memory memory_;                 // all below lie in it
  float* x_ = nullptr;
  float* mine_ = nullptr;      // F32 [rows, hidden]: this rank's partial; tp 1: the only one
  float* partials_ = nullptr;  // F32 [tp, rows, hidden]
  float* angles_ = nullptr;    // F32 [rows, 2, head_dim / 2]
  float* frequencies_ = nullptr;
  void* h_ = nullptr;              // T [rows, hidden]: normalized
  void* qkv_ = nullptr;            // T [rows, (heads + 2 groups) * head_dim]
  void* q_ = nullptr;              // T [rows, heads * head_dim]
  void* attended_ = nullptr;       // T [the same]
  void* gate_up_ = nullptr;        // T [rows, 2 * columns]
  void* activated_ = nullptr;      // T [rows, columns]
  float* shard_logits_ = nullptr;  // F32 [logit_rows, table_rows]
  float* all_logits_ = nullptr;    // F32 [tp, logit_rows, table_rows]; rank 0
  float* logits_ = nullptr;
  int64_t* vocab_begins_ = nullptr;  // [tp + 1]
  Pending pending_;
  int64_t rows_ = 0;  // of the last step
};

}  // namespace tailor::parallel::gpu
