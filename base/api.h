// The public request API as plain values: what a client can say and what it is told. comm/ carries
// them as protobuf over ZeroMQ (proto/api.proto mirrors this file field by field; docs/api.md
// explains it to users).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "base/counters.h"
#include "base/ids.h"
#include "base/messages.h"
#include "base/request.h"
#include "base/result.h"
#include "base/time.h"

namespace tailor::api {

/// Of the public request API; that of the control link is kControlProtocolVersion.
inline constexpr uint32_t kProtocolVersion = 1;

struct ChatMessage {
  std::string role;
  std::string content;
};

// ---- client to coordinator ----

/// How the answer's tokens are drawn. What is absent has the served model's default.
struct Sampling : AnswerParams {
  std::optional<float> temperature;
  std::optional<int32_t> top_k;
  std::optional<float> top_p;
  std::optional<float> min_p;
  std::optional<float> repetition_penalty;

  Sampling() = default;
  /// All of them given, whatever the model advises: for what must be reproduced.
  explicit Sampling(const SamplingParams& all);
  SamplingParams resolved(const SamplingDefaults& defaults) const;
};

struct Submit {
  /// chosen by the client, 1..128 bytes, unique in the cluster (a UUID will do)
  std::string request_id;
  /// Exactly one of these: text, chat messages (rendered by the model's chat template), token ids.
  std::variant<std::string, std::vector<ChatMessage>, std::vector<TokenId>> prompt;
  /// for text: put the model's begin token in front where the model has one
  bool add_special_tokens = true;
  /// Special tokens written in the text, or in the messages' roles and contents, are recognised;
  /// else they are words. Without it: recognised in text, words in messages (whose template adds
  /// its own).
  std::optional<bool> parse_special_tokens;
  Sampling sampling;
  bool has_seed = false;  ///< without one the coordinator fixes a seed at acceptance
  PriorityClass priority = PriorityClass::kStandard;
  std::string tenant;
  std::optional<Duration> deadline;  ///< after arrival
  bool detach = false;               ///< keep the request when its client goes silent
};

/// `token` is that of the request's Accepted; not needed on the connection that reads it.
struct Cancel {
  std::string request_id;
  std::string token;
};

/// How many more messages the client will take. Also its lease: any message renews it; silent for
/// 10 s = gone.
struct Credit {
  uint32_t messages = 0;
};

/// Sends a request's stream (again, or to another connection) from these token indices on, one per
/// sample. `token` as in Cancel.
struct Resume {
  std::string request_id;
  std::vector<uint32_t> from_token;  ///< empty = from 0
  std::string token;
};

struct StatusQuery {};

using ClientMessage = std::variant<Submit, Cancel, Credit, Resume, StatusQuery>;

// ---- coordinator to client ----

struct Accepted {
  std::string request_id;
  std::vector<TokenId> prompt_token_ids;
  uint64_t seed = 0;
  uint32_t max_tokens = 0;  ///< as granted: cut to what the context leaves
  std::string token;        ///< proves whose request it is: a secret of 128 random bits, in hex
};

struct TokenChunk {
  std::string request_id;
  uint32_t sample = 0;
  uint32_t first_index = 0;  ///< index of token_ids[0]: clients drop repeats by it
  std::vector<TokenId> token_ids;
  uint64_t text_offset = 0;  ///< in bytes
  std::string text;
  std::vector<LogprobEntry> logprobs;  ///< empty, or one per token
};

struct SampleResult {
  FinishReason reason = FinishReason::kNone;
  std::string stop_match;
  uint32_t completion_tokens = 0;
};

/// All durations count from arrival at the coordinator, on its monotonic clock.
struct Timings {
  Duration tokenized{};
  Duration dispatched{};  ///< end of the queue wait
  Duration first_token{};
  Duration finished{};
  uint32_t preemptions = 0;
  uint32_t attempts = 1;
  uint32_t replica = 0;
};

/// Exactly once per accepted request.
struct Finished {
  std::string request_id;
  std::vector<SampleResult> samples;
  uint32_t prompt_tokens = 0;
  Timings timings;
  Error error;                 ///< code kOk unless a sample's reason is kFailed or kCancelled
  uint32_t cached_tokens = 0;  ///< of the prompt's, found in a prefix cache when first computed
};

/// The request was not accepted (or a Resume / Cancel named one that is not known).
struct Rejected {
  std::string request_id;
  Error error;
  Duration retry_after{};  ///< 0 = sending it again cannot help
};

/// This client was silent for its lease (or let too much pile up): the server has forgotten its
/// credit and what it read. What was not detached has been cancelled.
struct Forgotten {};

struct ReplicaStatus {
  ReplicaId replica;
  Epoch epoch;
  bool ready = false;
  bool draining = false;
  ReplicaInfo info;
  uint32_t running_sequences = 0;
  uint32_t dispatched_requests = 0;
  uint32_t free_blocks = 0;
  uint64_t commands_in_flight = 0;  ///< said to it, and not yet taken into account by a report
  uint64_t steps = 0;
  uint64_t tokens = 0;
  double busy_s = 0;     ///< sum of step times since Hello,
  double forward_s = 0;  ///< of which the engine's forward pass,
  double sample_s = 0;   ///< and of which the sampler: the rest is the host's share
  double step_ms = 0;    ///< moving mean
  double forward_ms = 0;
  double tokens_per_s = 0;  ///< moving mean while busy
};

/// A replica's life that ended by draining.
struct DrainedReplica {
  ReplicaId replica;
  Epoch epoch;
};

/// A token that ends an answer, and how it is written.
struct EndToken {
  TokenId token = 0;
  std::string text;
};

struct StatusReport {
  bool ready = false;  ///< every configured replica has said Hello
  std::string version;
  uint32_t protocol_version = kProtocolVersion;
  std::string model;
  std::string policy;
  uint32_t waiting_requests = 0;
  uint32_t active_requests = 0;
  uint32_t queue_limit = 0;
  uint32_t expected_replicas = 0;
  double uptime_s = 0;
  std::vector<ReplicaStatus> replicas;
  std::vector<DrainedReplica> drained;  ///< of each replica the last life that drained, if one did
  CounterSnapshot counters;
  std::vector<EndToken> end_tokens;
  std::string predictor;  ///< "ready", "lost" or "none", and what it is: one line for people
};

using ServerEvent = std::variant<Accepted, TokenChunk, Finished, Rejected, StatusReport, Forgotten>;

}  // namespace tailor::api
