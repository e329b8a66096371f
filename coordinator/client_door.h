// ClientDoor: what clients ask. A Submit goes through checks and the tokenizer threads and arrives
// at the core as numbers (Arrived); a Cancel becomes Abandoned; Resume and Credit are the
// sessions'; whose request it is decides who may ask. Whatever is refused is refused here, in words
// that say what to change. Owner: the coordinator's main thread.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/api.h"
#include "comm/coordinator_io.h"
#include "coordinator/client_sessions.h"
#include "coordinator/core_messages.h"
#include "coordinator/request_store.h"
#include "coordinator/tokenizer_pool.h"

namespace tailor::coordinator {

struct ClientDoorOptions {
  uint32_t tokenizer_threads = 2;
  TokenizerLimits tokenizing;  ///< submitted requests whose prompt is not tokenized yet
  /// held by live requests' prompts and answers: above it no further request is accepted
  size_t max_live_bytes = 512u << 20;
  /// that one request's answer may come to hold (most_answer_bytes): above it it is refused
  size_t max_answer_bytes = 256u << 20;
  /// on their way to the io thread: above it the clients' messages wait
  size_t max_outbound_bytes = 64u << 20;
  uint32_t max_context = 0;  ///< of the model: prompt and answer together
  /// Request ids begin above it. A worker may outlive a coordinator with reports still in its
  /// hands, so neither ids nor epochs (core.epoch_base) of two coordinators may be the same;
  /// launch/ takes both from the wall clock.
  uint64_t first_request_id = 0;
  uint64_t seed_entropy = 0;  ///< seeds of requests without one are drawn from it; from launch/
  /// A secret of 128 random bits, in hex: who may cancel and resume a request. Required; from
  /// launch/.
  std::function<std::string()> new_token;
};

class ClientDoor {
 public:
  /// The rest of the coordinator. What is told is handled, and its commands are carried out, when
  /// `tell` returns.
  struct Outside {
    std::function<void(const CoreEvent&)> tell;
    std::function<api::StatusReport()> status;
  };
  /// `io`, `store` and `sessions` outlive the door.
  ClientDoor(const ClientDoorOptions& options, PromptText text, comm::CoordinatorIo& io,
             RequestStore& store, ClientSessions& sessions, Outside outside);

  // ---- what happens ----
  void on(comm::FromClient& input, Time now);
  void on(comm::ClientGone& input) { sessions_.unreachable(input.client); }
  /// Prompts that have been tokenized arrive at the core.
  void take_tokenized();
  int tokenized_fd() const { return pool_.results_fd(); }  ///< readable when there are some
  /// Forgets the clients that were silent for too long (all that they said before `heard_until` has
  /// been heard), and answers for prompts whose deadline has passed.
  void keep_house(Time heard_until, Time now);
  void stop();
  /// Prompt and answer together, from now on: what the replicas can hold.
  void set_max_context(uint32_t tokens) { pool_.set_max_context(tokens); }

  // ---- what the core says of the request that has just arrived ----
  /// What is to be predicted about it: its words, none where it came as token ids.
  struct Taken {
    StoredRequest& request;
    std::string words;
  };
  Taken take(const Accept& command, Time now);
  void refuse(const Reject& command);

  // ---- to the clients ----
  /// At most one message for each; none while too much is on its way.
  void send();
  bool has_room() const { return io_.outbound_bytes() < options_.max_outbound_bytes; }

  size_t tokenizing() const { return tokenizing_.size(); }

 private:
  /// Submitted, its prompt not tokenized yet.
  struct Tokenizing {
    ClientId client;
    Time deadline;
    bool over = false;  // answered: what comes back is dropped
  };
  using TokenizingEntry = std::unordered_map<std::string, Tokenizing>::iterator;
  struct Arriving {
    RequestId id;
    api::Submit submit;
    ClientId client;
    PreparedPrompt prompt;
    Time arrival;
  };

  void on_submit(ClientId client, api::Submit&& submit, Time now);
  void on_cancel(ClientId client, const api::Cancel& cancel);
  void on_resume(ClientId client, const api::Resume& resume);
  void on_tokenized(TokenizeResult&& result);
  TokenizingEntry end_tokenizing(TokenizingEntry job, ErrorCode code, const std::string& message);
  void reject(ClientId client, std::string request_id, ErrorCode code, std::string message,
              Duration retry_after = {});
  uint64_t draw_seed();

  const ClientDoorOptions options_;
  const int64_t vocab_size_;
  const SamplingDefaults sampling_defaults_;
  const Outside outside_;
  comm::CoordinatorIo& io_;
  RequestStore& store_;
  ClientSessions& sessions_;
  TokenizerPool pool_;
  RequestId last_id_;
  uint64_t seeds_drawn_ = 0;
  std::unordered_map<std::string, Tokenizing> tokenizing_;  // by the client's name for it
  std::optional<Arriving> arriving_;                        // while the core is told of it
};

}  // namespace tailor::coordinator
