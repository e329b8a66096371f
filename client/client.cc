#include "client/client.h"

#include <unistd.h>
#include <zmq.h>

#include <algorithm>
#include <map>
#include <optional>
#include <utility>

#include "base/check.h"
#include "base/clock.h"
#include "base/hex.h"
#include "base/log.h"
#include "comm/codec_api.h"
#include "comm/codec_shared.h"
#include "comm/zmq_socket.h"

namespace tailor::client {
namespace {

constexpr Duration kLeaseEvery = seconds(3);
constexpr Duration kResumeAgain = seconds(1);
constexpr int kLinkEvents =
    ZMQ_EVENT_CONNECTED | ZMQ_EVENT_HANDSHAKE_SUCCEEDED | ZMQ_EVENT_DISCONNECTED;
// messages ZeroMQ keeps while the server is away or slow
constexpr int kMaxWaitingSubmits = 100'000;

/// The server answers by the name, and cuts a longer one.
Result<void> check_request_id(const std::string& id) {
  if (!id.empty() && id.size() <= comm::kMaxRequestIdBytes) return {};
  return fail(ErrorCode::kInvalidArgument, "request_id must have 1.." +
                                               std::to_string(comm::kMaxRequestIdBytes) +
                                               " bytes, found " + std::to_string(id.size()));
}

/// What has arrived of one sample: repeats are cut off by it, gaps are seen by it.
struct SampleProgress {
  uint32_t next_token = 0;
  // nothing: taken from the next chunk (after Resume from the middle)
  std::optional<uint64_t> next_byte = 0;
};
struct OpenRequest {
  std::vector<SampleProgress> samples;
  std::string token;         // of its Accepted
  bool only_cancel = false;  // another reads it; its end answers our Cancel
  Time resumed_at{};
};

class ClientConnection final : public Client {
 public:
  explicit ClientConnection(const ClientOptions& options) : options_(options) {}

  Result<void> open() {
    comm::quiet_protobuf_log();
    TAILOR_ASSIGN(socket_, comm::ZmqSocket::open(context_, ZMQ_DEALER));
    socket_.set_bytes(ZMQ_ROUTING_ID, "c" + new_request_id());  // kept over reconnects
    socket_.set(ZMQ_SNDHWM, kMaxWaitingSubmits);
    socket_.set(ZMQ_RCVHWM, 0);  // bounded by credit
    socket_.set(ZMQ_LINGER, 200);
    socket_.keep_alive();
    socket_.set(ZMQ_RECONNECT_IVL, 100);
    socket_.set(ZMQ_RECONNECT_IVL_MAX, 1000);
    TAILOR_ASSIGN(events_, socket_.monitor(context_, kLinkEvents, "client"));
    TAILOR_TRY(socket_.connect(options_.endpoint));
    return grant(options_.credit_window);
  }

  Result<void> submit(const api::Submit& submit) override {
    TAILOR_TRY(check_request_id(submit.request_id));
    TAILOR_TRY(comm::check_text(submit));
    TAILOR_TRY(say(submit));
    const size_t n = std::clamp(submit.sampling.n, 1, 1024);
    OpenRequest& request = open_[submit.request_id];
    request.samples.assign(n, SampleProgress{});
    request.only_cancel = false;
    return {};
  }

  Result<void> cancel(const std::string& request_id, const std::string& token) override {
    TAILOR_TRY(check_request_id(request_id));
    const auto known = open_.find(request_id);
    api::Cancel cancel{request_id, token};
    if (known != open_.end() && token.empty()) cancel.token = known->second.token;
    TAILOR_TRY(say(cancel));
    // Without a token it is one of ours whose end has been heard, or the answer is a Rejected.
    if (known != open_.end() || token.empty()) return {};
    OpenRequest& request = open_[request_id];
    request.token = token;
    request.only_cancel = true;
    return {};
  }

  Result<void> resume(const api::Resume& resume) override {
    TAILOR_TRY(check_request_id(resume.request_id));
    TAILOR_TRY(say(resume));
    OpenRequest& request = open_[resume.request_id];
    request.token = resume.token;
    request.only_cancel = false;
    request.samples.assign(std::max<size_t>(resume.from_token.size(), 1), SampleProgress{});
    for (size_t s = 0; s < resume.from_token.size(); ++s)
      if (resume.from_token[s] > 0) request.samples[s] = {resume.from_token[s], std::nullopt};
    return {};
  }

  Result<api::StatusReport> status(Duration timeout) override {
    TAILOR_TRY(say(api::StatusQuery{}));
    const Time until = now() + timeout;
    do {
      std::vector<api::ServerEvent> events;
      TAILOR_TRY(receive_some(until, events));
      std::optional<api::StatusReport> found;
      for (auto& event : events) {
        if (auto* report = std::get_if<api::StatusReport>(&event); report != nullptr && !found)
          found = std::move(*report);
        else
          kept_.push_back(std::move(event));
      }
      if (found) return std::move(*found);
    } while (now() < until);
    if (link_ == Link::kNone)
      return fail(ErrorCode::kTimeout,
                  "no answer from " + options_.endpoint + " within " +
                      std::to_string(duration_cast<milliseconds>(timeout).count()) + " ms");
    return fail(ErrorCode::kUnavailable,
                "no cluster answers at " + options_.endpoint + ": " + what_listens());
  }

  Result<std::vector<api::ServerEvent>> poll(Duration timeout) override {
    std::vector<api::ServerEvent> events = std::exchange(kept_, {});
    const Time until =
        events.empty() ? now() + std::min<Duration>(timeout, std::chrono::hours(24)) : now();
    do {
      // What has come is never lost to an error: that shows again at the next poll.
      if (auto ok = receive_some(until, events); !ok && events.empty()) return fail(ok.error());
    } while (events.empty() && now() < until);
    return events;
  }

 private:
  Result<void> say(const api::ClientMessage& message) {
    TAILOR_TRY(make_known());
    return send(message);
  }

  Result<void> send(const api::ClientMessage& message) {
    const Time at = now();
    const std::string bytes = comm::encode(message);
    if (bytes.empty() || bytes.size() > comm::kMaxMessageBytes)  // it would end in silence
      return fail(ErrorCode::kLimitExceeded,
                  "the message has " +
                      (bytes.empty() ? "2 GiB or more" : std::to_string(bytes.size()) + " bytes") +
                      ", the limit is " + std::to_string(comm::kMaxMessageBytes));
    if (socket_.send({bytes}) != comm::SendStatus::kSent)
      return fail(ErrorCode::kUnavailable, std::to_string(kMaxWaitingSubmits) +
                                               " messages wait for " + options_.endpoint +
                                               ", which does not take them");
    last_said_ = at;
    return {};
  }

  Result<void> grant(uint32_t messages) {
    uncredited_ = 0;
    return send(api::Credit{messages});
  }

  // Lease and credit; then waits until `until` for a message and takes all that are there.
  Result<void> receive_some(Time until, std::vector<api::ServerEvent>& out) {
    TAILOR_TRY(keep_lease());
    const Duration wait = std::clamp<Duration>(std::min(until, last_said_ + kLeaseEvery) - now(),
                                               Duration(0), kLeaseEvery);
    zmq_pollitem_t items[2] = {{socket_.get(), 0, ZMQ_POLLIN, 0},
                               {events_.get(), 0, ZMQ_POLLIN, 0}};
    zmq_poll(items, 2, static_cast<long>(std::chrono::ceil<milliseconds>(wait).count()));
    if (items[1].revents & ZMQ_POLLIN) TAILOR_TRY(follow_connection());
    std::optional<Error> bad;
    while (socket_.receive(frames_)) {
      ++uncredited_;
      auto events = comm::decode_server_message(frames_.back());
      if (!events) {
        bad = events.error();
        continue;
      }
      for (auto& event : *events) {
        if (std::holds_alternative<api::Forgotten>(event))
          TAILOR_TRY(start_over());
        else
          take(std::move(event), out);
      }
      if (uncredited_ >= std::max(1u, options_.credit_window / 2)) TAILOR_TRY(grant(uncredited_));
    }
    if (bad && out.empty()) return fail(*bad);
    return {};
  }

  Result<void> keep_lease() {
    TAILOR_TRY(make_known());
    return now() - last_said_ >= kLeaseEvery ? grant(uncredited_) : Result<void>{};
  }

  // A server that has not heard us for its lease has forgotten our credit and who reads what.
  Result<void> make_known() {
    return now() - last_said_ >= options_.forgotten_after ? start_over() : Result<void>{};
  }

  // A connection that came back may have lost messages of either direction, and the server may be a
  // new one.
  Result<void> follow_connection() {
    while (const int event = events_.next_event()) {
      if (event == ZMQ_EVENT_HANDSHAKE_SUCCEEDED) {
        link_ = Link::kSpeaking;
        if (std::exchange(was_connected_, true)) TAILOR_TRY(start_over());
      } else if (event == ZMQ_EVENT_CONNECTED) {
        link_ = Link::kConnected;
      } else if (link_ == Link::kSpeaking) {
        link_ = Link::kBroken;
      }
    }
    return {};
  }

  const char* what_listens() const {
    if (link_ == Link::kBroken) return "the connection is broken";
    return link_ == Link::kSpeaking
               ? "what listens there speaks ZeroMQ, but does not answer as Tailor's coordinator "
                 "does"
               : "what listens there does not answer in ZeroMQ's protocol (another service, or a "
                 "stopped process)";
  }

  // Credit anew, and every open request asked for from where we are. What is not known there is
  // answered Rejected{NotFound}.
  Result<void> start_over() {
    TAILOR_TRY(grant(options_.credit_window));
    for (auto& [id, request] : open_) TAILOR_TRY(ask(id, request));
    return {};
  }

  Result<void> ask(const std::string& id, OpenRequest& request) {
    request.resumed_at = now();
    if (request.only_cancel) return send(api::Cancel{id, request.token});
    api::Resume resume{id, {}, request.token};
    for (const auto& sample : request.samples) resume.from_token.push_back(sample.next_token);
    return send(resume);
  }

  // For something that is missing: the answer to what was asked a moment ago may bring it.
  void ask_again(const std::string& id, OpenRequest& request) {
    if (now() - request.resumed_at >= kResumeAgain) (void)ask(id, request);
  }

  void take(api::ServerEvent event, std::vector<api::ServerEvent>& out) {
    if (auto* accepted = std::get_if<api::Accepted>(&event)) {
      if (auto it = open_.find(accepted->request_id); it != open_.end())
        it->second.token = accepted->token;
    } else if (auto* chunk = std::get_if<api::TokenChunk>(&event)) {
      if (!take_chunk(*chunk)) return;
    } else if (auto* finished = std::get_if<api::Finished>(&event)) {
      if (!take_end(*finished)) return;
    } else if (auto* rejected = std::get_if<api::Rejected>(&event)) {
      open_.erase(rejected->request_id);
    }
    out.push_back(std::move(event));
  }

  // False: not the end, as tokens are missing, or not the first one heard.
  bool take_end(const api::Finished& finished) {
    const auto it = open_.find(finished.request_id);
    if (it == open_.end()) return false;
    const auto& samples = it->second.samples;  // fewer than there are, after a short Resume
    for (size_t s = 0; s < std::min(samples.size(), finished.samples.size()); ++s)
      if (samples[s].next_token < finished.samples[s].completion_tokens) {
        LOG_WARN("request {}: {} of {} tokens have come; asking for the missing ones", it->first,
                 samples[s].next_token, finished.samples[s].completion_tokens);
        ask_again(it->first, it->second);
        return false;
      }
    open_.erase(it);
    return true;
  }

  // False: nothing new in it. Cuts off what has been seen before.
  bool take_chunk(api::TokenChunk& chunk) {
    auto it = open_.find(chunk.request_id);
    if (it == open_.end()) return false;
    OpenRequest& request = it->second;
    if (chunk.sample >= request.samples.size()) {
      if (chunk.sample >= 1024) return true;
      request.samples.resize(chunk.sample + 1);
    }
    SampleProgress& seen = request.samples[chunk.sample];
    if (chunk.first_index > seen.next_token) {  // lost with a connection
      LOG_WARN("request {}: token {} came where {} was expected; asking for the missing ones",
               chunk.request_id, chunk.first_index, seen.next_token);
      ask_again(chunk.request_id, request);
      return false;
    }
    const size_t repeated =
        std::min<size_t>(seen.next_token - chunk.first_index, chunk.token_ids.size());
    chunk.token_ids.erase(chunk.token_ids.begin(),
                          chunk.token_ids.begin() + static_cast<ptrdiff_t>(repeated));
    if (!chunk.logprobs.empty())
      chunk.logprobs.erase(chunk.logprobs.begin(),
                           chunk.logprobs.begin() +
                               static_cast<ptrdiff_t>(std::min(repeated, chunk.logprobs.size())));
    chunk.first_index += static_cast<uint32_t>(repeated);
    seen.next_token = std::max<uint32_t>(
        seen.next_token, chunk.first_index + static_cast<uint32_t>(chunk.token_ids.size()));

    const uint64_t expected = seen.next_byte.value_or(chunk.text_offset);
    if (chunk.text_offset < expected) {
      const size_t old = std::min<uint64_t>(expected - chunk.text_offset, chunk.text.size());
      chunk.text.erase(0, old);
      chunk.text_offset += old;
    }
    seen.next_byte = std::max(expected, chunk.text_offset + chunk.text.size());
    return !chunk.token_ids.empty() || !chunk.text.empty();
  }

  const ClientOptions options_;
  comm::ZmqContext context_;
  comm::ZmqSocket socket_, events_;
  std::map<std::string, OpenRequest> open_;
  std::vector<api::ServerEvent> kept_;  // arrived while status() waited
  std::vector<std::string> frames_;
  Time last_said_{};
  uint32_t uncredited_ = 0;  // messages taken since the last grant
  bool was_connected_ = false;
  enum class Link { kNone, kConnected, kSpeaking, kBroken } link_ = Link::kNone;
};

}  // namespace

Result<std::unique_ptr<Client>> Client::connect(const ClientOptions& options) {
  if (options.credit_window == 0)
    return fail(ErrorCode::kInvalidArgument, "credit_window must be above 0");
  auto client = std::make_unique<ClientConnection>(options);
  TAILOR_TRY(client->open());
  return std::unique_ptr<Client>(std::move(client));
}

std::string new_request_id() {
  unsigned char bytes[16];
  TAILOR_CHECK(getentropy(bytes, sizeof bytes) == 0, "the system gives no random bytes");
  return to_hex(bytes);
}

}  // namespace tailor::client
