// One rank's shard of a Llama on its GPU: matrices in BF16 or F32 as the files lay them out, [out,
// in] row-major, which is what parallel/cuda/gemm.h multiplies by; q, k and v are one matrix, gate
// and up another. One allocation. Read straight from the files' mapping through two pinned buffers
// of a few MiB, one filled while the other is on its way: stored values of the wanted type are
// moved as they are, others (F16, quantized, random) become floats, a buffer at a time, on the way.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "base/result.h"
#include "base/time.h"
#include "kv/block_layout.h"
#include "parallel/cuda/device.h"
#include "parallel/sharding.h"
#include "weights/weight_files.h"

namespace tailor::parallel::gpu {

/// Device pointers. T = the matrices' type; biases are null where the model has none.
struct LayerWeights {
  const float* attention_norm = nullptr;      ///< [hidden]
  const float* mlp_norm = nullptr;            ///< [hidden]
  const void* qkv = nullptr;                  ///< T [(heads + 2 groups) * head_dim, hidden], local
  const void* qkv_bias = nullptr;             ///< T [the same rows]
  const void* attention_out = nullptr;        ///< T [hidden, heads * head_dim]
  const float* attention_out_bias = nullptr;  ///< [hidden]; whole on every rank
  /// T [2 * columns, hidden]: all gate rows, then all up rows
  const void* gate_up = nullptr;
  const void* gate_up_bias = nullptr;  ///< T [2 * columns]
  const void* down = nullptr;          ///< T [hidden, columns]
  const float* down_bias = nullptr;    ///< [hidden]; whole on every rank
};

struct ShardWeights {
  Memory memory;  ///< what all of it lies in
  kv::ValueType type = kv::ValueType::kBF16;
  const void* embedding = nullptr;  ///< T [table_rows, hidden]; the same as `head` when tied
  const void* head = nullptr;       ///< T [table_rows, hidden]
  const float* final_norm = nullptr;
  std::vector<LayerWeights> layers;
};

struct LoadOptions {
  kv::ValueType type = kv::ValueType::kBF16;  ///< F32 or BF16
  /// Rows of embedding and head, at least the shard's: those behind them are zeros, so that all
  /// ranks' logits are equally many.
  int64_t table_rows = 0;
  int threads = 1;                               ///< that make floats of other values
  Duration deadline = seconds(60);               ///< of every wait for the device
  std::function<void(double)> on_progress = {};  ///< 0..1
};

/// Bytes of device memory that load_shard takes.
uint64_t shard_bytes(const weights::WeightFiles& files, const RankShard& shard,
                     const LoadOptions& options);

/// Returns when all of it is on the device. Errors: LimitExceeded (memory), those of
/// WeightFiles::read, DeviceFailure, Timeout. Cost: one pass over the shard's bytes.
Result<ShardWeights> load_shard(Device& device, const weights::WeightFiles& files,
                                const RankShard& shard, const LoadOptions& options);

}  // namespace tailor::parallel::gpu
