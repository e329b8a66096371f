// Every message between coordinator and workers, as plain values: what the two pure cores are told
// and what they say. comm/ carries them over the wire (proto/control.proto); the simulator hands
// them over directly. Nothing is ever asked of a worker: what the scheduler core needs rides on the
// report the tokens need anyway.
#pragma once

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "base/ids.h"
#include "base/length_law.h"
#include "base/request.h"
#include "base/result.h"
#include "base/time.h"

namespace tailor {

inline constexpr uint32_t kProtocolVersion = 1;

// -----------------------------------------------------------------------------------------
// Coordinator to the leader of a replica.

/// The answer to Hello.
struct Welcome {
  ReplicaId replica;
  Epoch epoch;
};

/// Run this request. `generated[s]` are the tokens sample s has already produced (an earlier
/// attempt on a replica that was lost, or recompute after a pause): the worker continues behind
/// them and never reports them again.
struct Dispatch {
  Attempt attempt;
  Request request;
  std::vector<std::vector<TokenId>> generated;  ///< [n], each possibly empty
};

/// Stop the request and free what it holds; answered by nothing (the coordinator has already
/// forgotten it).
struct CancelRequest {
  RequestId request;
  Attempt attempt;
};

/// Take nothing new, finish what runs, then say Drained.
struct Drain {};
/// Leave now: this replica was lost or refused, or the whole cluster stops.
struct Shutdown {
  bool cluster_stops = false;  ///< nobody stays behind: the ranks of a shared mpirun may finalize
};

using WorkerCommand = std::variant<Welcome, Dispatch, CancelRequest, Drain, Shutdown>;

// -----------------------------------------------------------------------------------------
// Leader to coordinator.

/// What a replica is and can hold.
struct ReplicaInfo {
  uint32_t protocol_version = kProtocolVersion;
  std::string model_fingerprint;  ///< hash of config and weights' identity: replicas of one cluster
                                  ///< must agree
  std::string arithmetic_version;  ///< "torch-f32-1": same tokens are promised only within one
  std::string engine;
  uint32_t tp_size = 1;
  uint32_t slots = 0;  ///< sequences that can run at once
  uint32_t block_tokens = 0;
  uint32_t num_blocks = 0;
  uint32_t max_context = 0;
  uint32_t vocab_size = 0;
  std::string host;
  int32_t pid = 0;
};

/// First message of a leader. `configured_replica` is the number the launcher gave it.
struct Hello {
  ReplicaId configured_replica;
  ReplicaInfo info;
};

struct TokenLogprob {
  TokenId token = 0;
  float logprob = 0;
};
struct LogprobEntry {
  TokenLogprob chosen;
  std::vector<TokenLogprob> top;  ///< best first
};

/// What one sequence produced since the last report: tokens, the text they complete, and possibly
/// its end.
struct SequenceProgress {
  SequenceId sequence;
  Attempt attempt;
  uint32_t first_index = 0;  ///< index of token_ids[0] in the answer
  std::vector<TokenId> token_ids;
  uint64_t text_offset = 0;            ///< in bytes of the answer's text
  std::string text;                    ///< whole UTF-8 characters only
  std::vector<LogprobEntry> logprobs;  ///< empty, or one per token
  FinishReason finish = FinishReason::kNone;
  std::string stop_match;  ///< the stop string or token that ended it, for people
  Error error;             ///< when finish == kFailed
};

/// Typed facts about single requests beside their tokens.
struct PrefillDone {
  RequestId request;
  Attempt attempt;
  uint32_t cached_tokens = 0;
};
struct SequencePreempted {
  SequenceId sequence;
  Attempt attempt;
  uint32_t tokens_lost = 0;  ///< tokens whose KV must be computed again
};
/// What the probe on the served model says of a sequence: the law of the whole answer's length when
/// nothing is generated yet (the end of prefill), else of the tokens that remain behind
/// `generated`.
struct LawProbed {
  RequestId request;
  Attempt attempt;
  uint32_t sample = 0;
  uint32_t generated = 0;
  LengthLaw law;
};
using WorkerEvent = std::variant<PrefillDone, SequencePreempted, LawProbed>;

/// Once per step that did something.
struct StepReport {
  uint64_t step = 0;
  uint64_t applied_seq = 0;  ///< sequence number of the last command taken into account
  Duration step_time{};
  Duration forward_time{};  ///< of which the engine's forward pass
  Duration sample_time{};   ///< of which the sampler
  uint32_t prefill_tokens = 0;
  uint32_t decode_tokens = 0;
  uint32_t running_sequences = 0;
  uint32_t waiting_sequences = 0;
  uint32_t free_blocks = 0;
  std::vector<SequenceProgress> progress;
  std::vector<WorkerEvent> events;
};

struct Drained {};

/// From the io thread of every rank, each 100 ms: the main thread's progress counter as it stands.
struct Heartbeat {
  ReplicaId configured_replica;
  uint32_t rank = 0;
  uint64_t progress = 0;  ///< grows with every layer of every step, and with every idle wake-up
  bool busy = false;      ///< at work, not waiting
  Epoch epoch;            ///< of the last Welcome; 0 = none since the last Hello
};

using WorkerReport = std::variant<Hello, StepReport, Drained, Heartbeat>;

// -----------------------------------------------------------------------------------------
// Between the coordinator and the predictor. Advice only: no request waits for it.

/// First message of a predictor, and its sign of life: said again each second.
struct PredictorHello {
  std::string name;      ///< "prompt head for SmolLM2-135M-Instruct": for people
  std::string encoder;   ///< "minilm+lexical"
  std::string head;      ///< the head's file or how it was given
  LengthLaw population;  ///< of the prompts it was trained on
  std::string version;   ///< of the program
  int32_t pid = 0;
};

/// How long will this answer be? Coordinator to predictor.
struct Predict {
  RequestId request;
  std::string prompt;  ///< the client's words; the middle of a very long one is left out
  uint32_t max_tokens = 0;
};

/// The answer to Predict; kind none = no idea.
struct Predicted {
  RequestId request;
  LengthLaw law;
};

using PredictorReport = std::variant<PredictorHello, Predicted>;

}  // namespace tailor
