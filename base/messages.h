// Every message between coordinator, workers and predictor, as plain values: the one language of
// Tailor. The two pure cores (coordinator::SchedulerCore, worker::ReplicaCore) are told these very
// messages and say them; comm/ carries them over the wire (proto/control.proto), the event log
// stores them, the simulator hands them over. Nothing is ever asked of a worker: what the scheduler
// core needs rides on the report the tokens need anyway.
//
// Dispatch and StepReport have two parts. The message itself is numbers, which the cores, the log
// and the simulator make and read; its payload (prompt, ids, text, log-probabilities) is what the
// drivers add and take. base/fields.h lists the fields of each: one list for wire, log and tests.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "base/ids.h"
#include "base/length_law.h"
#include "base/request.h"
#include "base/result.h"
#include "base/time.h"

namespace tailor {

/// Of the control link; that of the public API is api::kProtocolVersion.
inline constexpr uint32_t kControlProtocolVersion = 2;

/// On every command and report: whom it concerns, in which of its lives, and the how-manieth it is.
struct Envelope {
  ReplicaId replica;  ///< of a report: as the launcher configured it
  Epoch epoch;        ///< 0: before the first Welcome
  /// within the epoch, from 1; 0 = outside the count (said again, farewell)
  uint64_t sequence = 0;

  friend bool operator==(const Envelope&, const Envelope&) = default;
};

// ---- coordinator to the leader of a replica ----

/// The answer to Hello: the envelope's epoch is the replica's from now on.
struct Welcome {};

/// Run this request. Its payload follows it wherever somebody computes tokens.
struct Dispatch {
  RequestId request;
  Attempt attempt;
  uint32_t samples = 1;
  uint32_t prompt_tokens = 0;
  uint32_t max_tokens = 0;
};

/// What a Dispatch is about. `generated[s]` are the tokens that sample s has already (of an attempt
/// on a replica that was lost, or recompute after a pause): the worker continues behind them and
/// never reports them again.
struct DispatchPayload {
  std::shared_ptr<const Request> request;       ///< never null beside a Dispatch
  std::vector<std::vector<TokenId>> generated;  ///< [samples], or empty: nothing yet
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

/// A command and where it goes.
struct ToReplica {
  Envelope envelope;
  WorkerCommand command;
};

// ---- leader to coordinator ----

/// What a replica is and can hold.
struct ReplicaInfo {
  uint32_t protocol_version = kControlProtocolVersion;
  /// Hash of config and weights: the replicas of one cluster must agree.
  std::string model_fingerprint;
  std::string arithmetic_version;  ///< "cpu-1-stored-kv16": same tokens only within one
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

/// First message of a leader.
struct Hello {
  ReplicaInfo info;
};

/// What one sequence has produced since the last report: so many tokens, and possibly its end.
struct SequenceProgress {
  RequestId request;
  uint32_t sample = 0;
  Attempt attempt;
  uint32_t first_index = 0;  ///< of the first token, in the answer
  uint32_t num_tokens = 0;
  FinishReason finish = FinishReason::kNone;

  SequenceId sequence() const { return {request, sample}; }
};

/// The end of a request's prefill on this attempt: with the first token of any of its samples.
struct PrefillDone {
  RequestId request;
  Attempt attempt;
  uint32_t cached_tokens = 0;  ///< of the prompt, found in the prefix cache
};
/// A sequence gave back its blocks.
struct SequencePreempted {
  RequestId request;
  uint32_t sample = 0;
  Attempt attempt;
  uint32_t tokens_lost = 0;  ///< whose KV must be computed again
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

/// Once per step that did something; and where no step is to come, once for the commands taken into
/// account and what they changed.
struct StepReport {
  uint64_t step = 0;
  uint64_t applied_seq = 0;  ///< sequence number of the last command taken into account
  Duration step_time{};
  Duration forward_time{};  ///< of which the engine's forward pass
  Duration sample_time{};   ///< of which the sampler
  uint32_t prefill_tokens = 0;
  uint32_t decode_tokens = 0;
  uint32_t running_sequences = 0;
  uint32_t free_blocks = 0;
  std::vector<SequenceProgress> progress;
  std::vector<PrefillDone> prefills;
  std::vector<SequencePreempted> preempted;
  std::vector<LawProbed> laws;
};

struct TokenLogprob {
  TokenId token = 0;
  float logprob = 0;
};
struct LogprobEntry {
  TokenLogprob chosen;
  std::vector<TokenLogprob> top;  ///< best first
};

/// The text that an entry of StepReport::progress completes.
struct ProgressText {
  uint64_t offset = 0;        ///< in bytes of the answer's text
  uint32_t bytes = 0;         ///< whole UTF-8 characters only
  uint32_t num_logprobs = 0;  ///< 0, or one per token
};
/// What an ending entry says beside its reason.
struct SequenceEnd {
  uint32_t entry = 0;      ///< of StepReport::progress
  std::string stop_match;  ///< the stop string or token that ended it, for people
  Error error{ErrorCode::kOk, {}};
};
/// What StepReport::progress is about, all entries one behind the other.
struct StepPayload {
  std::vector<TokenId> token_ids;
  std::vector<ProgressText> texts;  ///< one per entry
  std::string text;
  std::vector<LogprobEntry> logprobs;
  std::vector<SequenceEnd> ends;  ///< by entry
};

struct Drained {};

/// From the io thread of every rank, each 100 ms: the main thread's progress counter as it stands.
struct Heartbeat {
  uint32_t rank = 0;
  uint64_t progress = 0;  ///< grows with every layer of every step, and with every idle wake-up
  bool busy = false;      ///< at work, not waiting
};

using WorkerReport = std::variant<Hello, StepReport, Drained, Heartbeat>;

/// A report and whose it is.
struct FromReplica {
  Envelope envelope;
  WorkerReport report;
};

// ---- between the coordinator and the predictor ----
// Advice only: no request waits for it.

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
