// Engine: the model's forward pass over one rank's shard, and the tokens drawn from it. Speaks raw
// spans, no tensor type, so that faster engines need not load torch. `--engine torch`
// (parallel/engine_torch.h) is the readable reference and stays the oracle. Every rank of a replica
// submits the same StepInputs in the same order and collects each; owner: the rank's main thread.
//
// Rank 0 draws: it opens a slot for each sequence that runs, and names the slot of each row whose
// token it wants. What a token depends on beside the logits (request, sample, tokens drawn so far)
// the engine keeps in the slot, where it appends every token it draws. Logits stay where they were
// computed unless a submission brings room for them.
//
// Launch-ahead. depth() says how many submissions may be uncollected: 1 where a step is one
// blocking call, 2 where the next step can be laid out while one computes. The rules:
//   - Submissions are collected in their order. open_slot and close_slot take effect in the order
//     of the calls too: closing a slot whose rows are not collected yet waits for them, and what is
//     opened there next does not meet them.
//   - Where depth() is 2 a row may stand for "the token of wanted row r of the previous submission"
//     (drawn_in_row), because that id is not known when the step is planned. Only of the very
//     previous one, and only of a row that draws. The followers are submitted the same; rank 0's
//     ids reach them through the engine's own collective.
//   - A sequence may turn out to have ended (its last token, a stop string, a cancel) when a later
//     row of it is in flight already. That row is computed, its token is drawn, and the caller
//     discards it. A row whose draw failed counts as token 0 for the row that names it.
//   - The blocks of a sequence that has ended stay held until every submission that names them is
//     collected; only then may another sequence be given them.
//   - An error of submit other than InvalidArgument, and any of collect, ends the rank: it leaves
//     with what is in flight. InvalidArgument of submit: nothing was begun.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/messages.h"
#include "base/request.h"
#include "base/result.h"
#include "base/time.h"
#include "comm/collective.h"
#include "kv/block_layout.h"
#include "kv/block_pool.h"
#include "kv/block_store.h"
#include "parallel/step_input.h"
#include "weights/weight_files.h"

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
  std::string kv_dtype = "auto";         ///< cpu engine: "f16" (auto) or "f32"; others: as `dtype`
  std::string instruction_set = "auto";  ///< cpu engine: "avx512", "avx2", "scalar"
  std::string packed_folder;             ///< cpu engine: of shared packed weights; empty = private
  int threads = 1;                       ///< math threads of this rank
  int first_core = -1;  ///< cpu engine: pins them from this usable core on; negative = not
  int32_t block_tokens = kv::kBlockTokens;
  uint64_t kv_bytes = 0;    ///< KV pool of this rank; 0 = chosen from free memory and printed
  int32_t max_context = 0;  ///< 0 = the model's
  int32_t max_rows = 2048;  ///< rows of one step
  int32_t slots = 32;       ///< sequences that draw at once
  std::vector<TokenId> end_tokens;  ///< impossible before a request's min_tokens
  /// processes that share this host's memory; 0 = all ranks of the replica
  int32_t ranks_on_host = 0;
  /// Asked once, when the engine knows what it needs; who moves blocks keeps the store too. Null: a
  /// device tier alone, of the engine's device.
  kv::MakeBlockStore make_store;
  Duration device_deadline = seconds(60);        ///< cuda engine: of every wait for the device
  std::function<void(double)> on_load_progress;  ///< 0..1
  std::atomic<uint64_t>* progress = nullptr;     ///< raised once per layer
};

struct EngineInfo {
  std::string name;                ///< "torch"
  std::string arithmetic_version;  ///< "torch-f32-1"
  int64_t vocab_size = 0;
  int64_t num_layers = 0, hidden_size = 0;
  int32_t max_context = 0;
  int32_t num_blocks = 0;  ///< of this rank's pool; the replica's is the minimum over ranks
  int32_t block_tokens = kv::kBlockTokens;  ///< whoever plans for it plans for these (checked)
  uint64_t weight_bytes = 0, kv_bytes = 0;
  std::string summary;  ///< device, type, sizes and why they were chosen, for people
};

/// What a rank's KV pool may take.
struct PoolSpace {
  int64_t num_groups_local = 0;
  kv::ValueType value_type = kv::ValueType::kF32;
  kv::KeyPlane key_plane = kv::KeyPlane::kBySlot;
  uint64_t available_bytes = 0;  ///< after the weights
  bool whole_device = false;     ///< nobody else needs that memory
};
/// Chooses the size of this rank's pool and fills `layout`. Errors: InvalidArgument (options),
/// LimitExceeded (one sequence does not fit).
Result<kv::PoolSize> size_pool(const weights::ModelConfig& config, const EngineOptions& options,
                               const PoolSpace& space, kv::BlockLayout& layout);

/// Logs `info.summary`. (Here because torch's headers carry another fmt than the log's.)
void log_ready(const EngineInfo& info);

/// A running sequence's place in the engine, dense in [0, EngineOptions::slots).
using SlotId = int32_t;

/// A sequence begins, or goes on behind what it has `emitted` (copied). The request stays alive.
struct OpenSlot {
  SlotId slot = 0;
  std::shared_ptr<const Request> request;
  uint32_t sample = 0;
  std::span<const TokenId> emitted;
};

/// Hidden states wanted of a step, for what learns from them (predict/length_head.h): the residual
/// stream of some rows after some layers. Rank 0's own affair: every rank holds the whole stream,
/// so the followers need not know.
struct HiddenTaps {
  std::span<const int32_t> rows;    ///< of the step's input
  std::span<const int32_t> layers;  ///< ascending, 1..num_layers; l = after l layers
  std::span<float> out;             ///< [rows, layers, hidden_size]
};

/// What rank 0 wants of a step's wanted rows (StepInput::num_logits), in chunk order; the other
/// ranks pass an empty one. `slots` and the taps' rows and layers are read before submit returns;
/// `logits` and the taps' `out` are written until the step is collected.
struct RowSampling {
  std::span<const SlotId> slots;  ///< [wanted]: each draws its next token. Empty: nothing is drawn
  std::span<float> logits;        ///< [wanted, vocab_size], or empty: not wanted on the host
  HiddenTaps taps;
};
/// `wanted` = what the step wants of this rank. Errors: InvalidArgument.
Result<void> check(const RowSampling& rows, const StepInput& input, const EngineInfo& info,
                   int32_t wanted);

/// What a step drew, on rank 0. The spans are the engine's, valid until the next submit or collect.
struct StepOutcome {
  /// [slots of the submission]. Errors of one: DeviceFailure (a logit is not a finite number),
  /// InvalidArgument (no token may be drawn); nothing was appended to its slot then.
  std::span<const Result<TokenId>> tokens;
  /// [the same], filled where a request wants them; the caller may move them out.
  std::span<LogprobEntry> logprobs;
  Duration forward_time{};  ///< of the forward pass
  Duration sample_time{};   ///< of drawing
};

class Engine {
 public:
  virtual ~Engine() = default;
  virtual const EngineInfo& info() const = 0;
  /// Submissions that may be uncollected at once. A constant.
  virtual int depth() const = 0;

  /// Rank 0. A slot is opened when it is closed, and closed when it is open (checked).
  virtual void open_slot(const OpenSlot& open) = 0;
  virtual void close_slot(SlotId slot) = 0;

  /// Begins a step: K and V of every row are appended to the pool, every row attends, wanted rows
  /// become logits and, on rank 0, tokens. At most depth() are uncollected (checked). Nothing is
  /// allocated in steady state (beside asked-for log-probabilities). Errors: InvalidArgument
  /// (nothing was begun); DeviceFailure, Timeout: the rank must leave.
  virtual Result<void> submit(const StepInput& input, const RowSampling& rows) = 0;
  /// Waits for the oldest uncollected step (checked: there is one). Errors: DeviceFailure, Timeout:
  /// the rank must leave.
  virtual Result<StepOutcome> collect() = 0;
};

/// One step for those who draw nothing: its logits (rank 0 brings room for all of them, other ranks
/// none) and hidden states. With nothing uncollected. Errors: those of submit and collect.
Result<void> forward(Engine& engine, const StepInput& input, std::span<float> logits,
                     const HiddenTaps& taps = {});

}  // namespace tailor::parallel
