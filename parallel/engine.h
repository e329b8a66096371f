// Engine: the model's forward pass over one rank's shard. Speaks raw spans, no tensor type, so that
// faster engines need not load torch. `--engine torch` (parallel/engine_torch.h) is the readable
// reference and stays the oracle. Every rank of a replica calls forward() with the same StepInput
// in the same order; owner: the rank's main thread.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "base/result.h"
#include "comm/collective.h"
#include "kv/block_pool.h"
#include "parallel/step_input.h"
#include "parallel/weights/weight_files.h"

namespace tailor::parallel {

/// Where this rank stands. Passed, never global.
struct TpContext {
  int rank = 0;
  int size = 1;
  comm::Collective* collective = nullptr;  ///< of the engine's device; never null when size > 1
};

struct EngineOptions {
  std::string device = "cpu";  ///< "cpu" or "cuda" (one process per GPU, device = local rank)
  /// "f32", "bf16", "auto" (cpu engine: as stored; torch: f32 on CPU if it fits, bf16 on GPU)
  std::string dtype = "auto";
  std::string kv_dtype = "auto";         ///< cpu engine: "f16" (auto) or "f32"; torch: as `dtype`
  std::string instruction_set = "auto";  ///< cpu engine: "avx512", "avx2", "scalar"
  std::string packed_folder;             ///< cpu engine: of shared packed weights; empty = private
  int threads = 1;                       ///< math threads of this rank
  int first_core = -1;  ///< cpu engine: pins them from this usable core on; negative = not
  int32_t block_tokens = 16;
  uint64_t kv_bytes = 0;    ///< KV pool of this rank; 0 = chosen from free memory and printed
  int32_t max_context = 0;  ///< 0 = the model's
  int32_t max_rows = 2048;  ///< rows of one step
  int32_t ranks_on_host =
      0;  ///< processes that share this host's memory; 0 = all ranks of the replica
  std::function<void(double)> on_load_progress;  ///< 0..1
};

struct EngineInfo {
  std::string name;                ///< "torch"
  std::string arithmetic_version;  ///< "torch-f32-1"
  int64_t vocab_size = 0;
  int64_t num_layers = 0, hidden_size = 0;
  int32_t max_context = 0;
  int32_t num_blocks = 0;  ///< of this rank's pool; the replica's is the minimum over ranks
  uint64_t weight_bytes = 0, kv_bytes = 0;
  std::string summary;  ///< device, type, sizes and why they were chosen, for people
};

/// What a rank's KV pool may take.
struct PoolSpace {
  int64_t num_groups_local = 0;
  int64_t value_bytes = 4;
  uint64_t available_bytes = 0;  ///< after the weights
  bool whole_device = false;     ///< nobody else needs that memory
};
/// Chooses the size of this rank's pool and fills `layout`. Errors: InvalidArgument (options),
/// LimitExceeded (one sequence does not fit).
Result<kv::PoolSize> size_pool(const weights::ModelConfig& config, const EngineOptions& options,
                               const PoolSpace& space, kv::BlockLayout& layout);

/// Logs `info.summary`. (Here because torch's headers carry another fmt than the log's.)
void log_ready(const EngineInfo& info);

/// Hidden states wanted beside the logits, for what learns from them (tie/length_head.h): the
/// residual stream of some rows after some layers. Rank 0's own affair: every rank holds the whole
/// stream, so the followers need not know.
struct HiddenTaps {
  std::span<const int32_t> rows;    ///< of the step's input
  std::span<const int32_t> layers;  ///< ascending, 1..num_layers; l = after l layers
  std::span<float> out;             ///< [rows, layers, hidden_size]
};
/// Errors: InvalidArgument.
Result<void> check(const HiddenTaps& taps, const StepInput& input, int64_t num_layers,
                   int64_t hidden_size);

class Engine {
 public:
  virtual ~Engine() = default;
  virtual const EngineInfo& info() const = 0;

  /// Appends K and V of every row to the pool, attends, and on rank 0 writes the wanted logits to
  /// `logits` [input.num_logits(), vocab_size] in chunk order (other ranks pass an empty span).
  /// Also fills `taps`. `progress` is raised once per layer. Errors: DeviceFailure, Timeout: the
  /// rank must then leave.
  virtual Result<void> forward(const StepInput& input, std::span<float> logits,
                               const HiddenTaps& taps, std::atomic<uint64_t>& progress) = 0;
  Result<void> forward(const StepInput& input, std::span<float> logits,
                       std::atomic<uint64_t>& progress) {
    return forward(input, logits, HiddenTaps{}, progress);
  }
};

}  // namespace tailor::parallel
