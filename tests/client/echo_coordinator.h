// A coordinator without a model, over the real io thread: it answers a prompt with its own bytes,
// one token and one character each, keeps to every client's credit, and can resume. What clients
// are tested against.
//   text "slow"    gives one chunk a message instead of as many as fit
//   text "forever" never ends: for Cancel
// Another client than the one that submitted a request needs its token, "token of ID".
#pragma once

#include <algorithm>
#include <deque>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "comm/coordinator_io.h"

namespace tailor::client::test {

class EchoCoordinator {
 public:
  explicit EchoCoordinator(comm::CoordinatorIo& io) : io_(io) {}

  /// Handles what arrives within `wait`.
  void turn(Duration wait) {
    for (auto& input : io_.inbox().drain_wait(wait)) {
      if (auto* from = std::get_if<comm::FromClient>(&input)) {
        Client& client = clients_[from->client];
        client.id = from->client;
        ++messages_;
        std::visit([&](const auto& message) { take(client, message); }, from->message);
      } else if (auto* gone = std::get_if<comm::ClientGone>(&input)) {
        clients_.erase(gone->client);
      }
    }
    for (auto& [id, client] : clients_) flush(client);
  }

  uint64_t credit_stalls() const { return credit_stalls_; }

 private:
  struct Client {
    ClientId id;
    uint32_t credit = 4;
    std::deque<api::ServerEvent> events;
  };

  void take(Client& client, const api::Submit& in) {
    if (auto ok = validate(in.sampling.resolved({}), 1 << 20); !ok) {
      client.events.push_back(api::Rejected{in.request_id, ok.error(), {}});
      return;
    }
    std::string answer = "tokens";
    if (const auto* text = std::get_if<std::string>(&in.prompt)) answer = *text;
    if (const auto* chat = std::get_if<std::vector<api::ChatMessage>>(&in.prompt))
      answer = chat->empty() ? "" : chat->back().role + ": " + chat->back().content;
    if (const auto* ids = std::get_if<std::vector<TokenId>>(&in.prompt)) {
      answer.clear();
      for (TokenId id : *ids) answer += static_cast<char>('a' + id % 26);
    }
    const bool cut = answer.size() > static_cast<size_t>(in.sampling.max_tokens);
    if (cut) answer.resize(static_cast<size_t>(in.sampling.max_tokens));
    api::Accepted accepted{in.request_id,
                           {},
                           in.has_seed ? in.sampling.seed : 4711,
                           static_cast<uint32_t>(in.sampling.max_tokens),
                           "token of " + in.request_id};
    for (char c : answer) accepted.prompt_token_ids.push_back(static_cast<unsigned char>(c));
    client.events.push_back(std::move(accepted));
    answers_[in.request_id] = {answer, client.id, cut, in.sampling.logprobs >= 0};
    send_from(client, in.request_id, 0);
  }
  template <class Message>
  bool refused(Client& client, const Message& in) {
    const auto it = answers_.find(in.request_id);
    if (it == answers_.end() || it->second.owner == client.id ||
        in.token == "token of " + in.request_id)
      return false;
    client.events.push_back(api::Rejected{
        in.request_id, Error{ErrorCode::kUnauthenticated, "another client's request"}, {}});
    return true;
  }
  void take(Client& client, const api::Resume& in) {
    if (refused(client, in)) return;
    if (!answers_.count(in.request_id)) {
      client.events.push_back(api::Rejected{
          in.request_id, Error{ErrorCode::kNotFound, "no request " + in.request_id}, {}});
      return;
    }
    send_from(client, in.request_id, in.from_token.empty() ? 0 : in.from_token[0]);
  }
  void take(Client& client, const api::Cancel& in) {
    if (refused(client, in)) return;
    if (answers_.erase(in.request_id) == 0)
      client.events.push_back(api::Rejected{
          in.request_id, Error{ErrorCode::kNotFound, "no request " + in.request_id}, {}});
    else
      client.events.push_back(
          api::Finished{in.request_id,
                        {{FinishReason::kCancelled, "", 0}},
                        0,
                        {},
                        Error{ErrorCode::kCancelled, "its client cancelled it"}});
  }
  void take(Client& client, const api::Credit& in) { client.credit += in.messages; }
  void take(Client& client, const api::StatusQuery&) {
    api::StatusReport status;
    status.ready = true;
    status.version = "echo";
    status.counters = {
        {"messages", static_cast<double>(messages_)},
        {"credit_stalls", static_cast<double>(credit_stalls_)},
        {"bad_messages", static_cast<double>(io_.counters().client_bad_messages.value())}};
    client.events.push_back(std::move(status));
  }

  struct Answer {
    std::string text;
    ClientId owner;
    bool cut = false;
    bool logprobs = false;
  };

  void send_from(Client& client, const std::string& id, size_t from) {
    const Answer& answer = answers_[id];
    const size_t per_chunk = answer.text == "slow" ? 1 : 7;
    for (size_t at = std::min(from, answer.text.size()); at < answer.text.size(); at += per_chunk) {
      const std::string text = answer.text.substr(at, per_chunk);
      api::TokenChunk chunk{id, 0, static_cast<uint32_t>(at), {}, at, text, {}};
      for (char c : text) chunk.token_ids.push_back(static_cast<unsigned char>(c));
      if (answer.logprobs)
        for (char c : text) chunk.logprobs.push_back({{static_cast<unsigned char>(c), -0.5f}, {}});
      client.events.push_back(std::move(chunk));
    }
    if (answer.text == "forever") return;
    api::Finished finished{id,
                           {{answer.cut ? FinishReason::kLength : FinishReason::kStop, "",
                             static_cast<uint32_t>(answer.text.size())}},
                           static_cast<uint32_t>(answer.text.size()),
                           {},
                           Error{ErrorCode::kOk, ""}};
    finished.timings.finished = milliseconds(5);
    client.events.push_back(std::move(finished));
  }

  void flush(Client& client) {
    while (client.credit > 0 && !client.events.empty()) {
      io_.send(comm::ToClient{client.id, {std::move(client.events.front())}});
      client.events.pop_front();
      --client.credit;
    }
    if (!client.events.empty()) ++credit_stalls_;
  }

  comm::CoordinatorIo& io_;
  std::map<ClientId, Client> clients_;
  std::map<std::string, Answer> answers_;
  uint64_t messages_ = 0;
  uint64_t credit_stalls_ = 0;
};

}  // namespace tailor::client::test
