// One rank's shard of a Llama, as tensors. Projections are stored transposed, [in, out], which
// libtorch's CPU GEMM likes best at few rows; q, k and v are one matrix, gate and up another;
// row-parallel matrices are one contiguous piece per reduction unit, so that each partial is one
// product.
#pragma once

#include <ATen/ATen.h>

#include <functional>
#include <vector>

#include "base/result.h"
#include "parallel/sharding.h"
#include "weights/weight_files.h"

namespace tailor::parallel {

/// Biases are undefined tensors where the model has none. Norms and biases are F32.
struct LayerWeights {
  at::Tensor attention_norm, mlp_norm;  ///< [hidden]
  at::Tensor qkv;                       ///< [hidden, (heads + 2 groups) * head_dim], local
  at::Tensor qkv_bias;
  std::vector<at::Tensor> attention_out;  ///< per unit [unit columns, hidden]
  at::Tensor attention_out_bias;          ///< added once, after the reduction
  at::Tensor gate_up;  ///< [hidden, 2 * columns]: all gate columns, then all up columns
  at::Tensor gate_up_bias;
  std::vector<at::Tensor> down;  ///< per unit [unit columns, hidden]
  at::Tensor down_bias;
};

struct ShardWeights {
  at::Tensor embedding;  ///< [hidden, vocab_local]; the same tensor as `head` when tied
  at::Tensor head;       ///< [hidden, vocab_local]
  at::Tensor final_norm;
  std::vector<LayerWeights> layers;
};

/// Errors: those of WeightFiles::read. Cost: one pass over the shard's bytes.
Result<ShardWeights> load_shard(const weights::WeightFiles& files, const Sharding& sharding,
                                int rank, at::ScalarType dtype, at::Device device,
                                const std::function<void(double)>& on_progress);

}  // namespace tailor::parallel
