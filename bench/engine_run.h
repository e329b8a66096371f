// A fixed batch on the engine alone: no scheduler, no text, no sockets. The same shape as
// llama-batched-bench: `batch` sequences are prefilled with distinct prompts, then decoded together
// step by step; the next token of each is its largest logit. Owner: the calling thread.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>

#include "bench/peer_report.h"
#include "parallel/engine.h"

namespace tailor::bench {

struct FixedBatchShape {
  int prompt_tokens = 64;  ///< of each sequence
  int decode_tokens = 32;  ///< steps after the prompts
  int batch = 1;           ///< sequences
  int prompt_rows = 512;   ///< rows of one prompt step (llama.cpp's -ub); prompts may be cut
};

/// KV blocks that `shape` needs.
int32_t blocks_needed(const FixedBatchShape& shape, int32_t block_tokens);

/// Runs `shape` once and times both phases. `threads` is only noted. Errors: InvalidArgument (a
/// number below 1), OutOfBlocks (the pool is smaller than blocks_needed), and the engine's.
Result<FixedBatch> run_fixed_batch(parallel::Engine& engine, const FixedBatchShape& shape,
                                   int32_t block_tokens, int threads);

/// Adds `engine-run`, which `tailor bench vs-llama` starts for each round, to `bench`; returns what
/// runs it.
std::function<Result<void>()> add_engine_run(CLI::App& bench);

}  // namespace tailor::bench
