#include "comm/coordinator_io.h"

#include <zmq.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <exception>
#include <optional>
#include <set>
#include <thread>
#include <utility>

#include "base/bytes_held.h"
#include "base/clock.h"
#include "base/log.h"
#include "comm/codec_api.h"
#include "comm/codec_control.h"
#include "comm/codec_shared.h"
#include "comm/peer_table.h"
#include "comm/zmq_socket.h"

namespace tailor::comm {
namespace {

constexpr size_t kMaxLinks = 4096;  // control connections remembered
constexpr size_t kMaxControlMessageBytes = 64u << 20;
constexpr int kControlPipeCommands = 1 << 16;       // per link inside ZeroMQ, from us
constexpr int kMessagesPerTurn = 256;               // read from the control link in one turn,
constexpr Duration kClientTurn = milliseconds(10);  // and for so long from the clients
// Per client inside ZeroMQ: towards us few, for each may be as long as max_message_bytes.
constexpr int kClientPipeMessagesIn = 4, kClientPipeMessagesOut = 64;
// per client beside ZeroMQ's; above it the client is gone
constexpr size_t kMaxUnsentMessages = 4096;
constexpr size_t kMaxUnsentBytes = 64u << 20;
// a client silent for so long makes room for a new one
constexpr Duration kForgettable = seconds(30);
constexpr Duration kFlushLimit = seconds(1);
constexpr int kRetryMs = 5;              // a full client buffer, a full inbox
constexpr int kIdleMs = 500;             // says again that all clients have been heard
constexpr Duration kPause = seconds(1);  // longer between two looks: nobody could be heard
constexpr Duration kComeBackLater = seconds(5);

size_t held(const FromClient& input) { return sizeof input + api::bytes_held(input.message); }
size_t held(const FromWorker& input) {
  return sizeof input + bytes_outside(input.frame.from.report) + bytes_outside(input.frame.payload);
}
size_t held(const ToClient& output) { return sizeof output + api::bytes_held(output.events); }
size_t held(const ToWorker& output) { return sizeof output + bytes_outside(output.frame.payload); }
size_t held(const ToPredictor& output) { return sizeof output + output.question.prompt.size(); }
template <class Small>
size_t held(const Small& value) {
  return sizeof value;
}
template <class Variant>
size_t weigh(const Variant& value) {
  return std::visit([](const auto& one) { return held(one); }, value);
}

class CoordinatorIoThread final : public CoordinatorIo {
 public:
  explicit CoordinatorIoThread(const CoordinatorIoOptions& options)
      : options_(options),
        keep_bytes_(max_client_message_bytes(options.max_prompt_bytes) + 1),
        inbox_(options.inbox_capacity, options.inbox_bytes, weigh<CoordinatorInput>),
        outbound_(1, SIZE_MAX, weigh<CoordinatorOutput>) {}

  ~CoordinatorIoThread() override {
    outbound_.close();
    if (thread_.joinable()) thread_.join();
    inbox_.close();
  }

  Result<void> open() {
    quiet_protobuf_log();
    TAILOR_ASSIGN(api_, ZmqSocket::open(context_, ZMQ_ROUTER));
    api_.set(ZMQ_ROUTER_MANDATORY, 1);
    api_.set(ZMQ_ROUTER_HANDOVER,
             1);  // a client that set its own identity takes it along when it reconnects
    api_.set_int64(ZMQ_MAXMSGSIZE, static_cast<int64_t>(options_.max_message_bytes));
    api_.set(ZMQ_SNDHWM, kClientPipeMessagesOut);
    api_.set(ZMQ_RCVHWM, kClientPipeMessagesIn);
    api_.set(ZMQ_LINGER, 500);
    api_.keep_alive();
    TAILOR_TRY(api_.bind(options_.api_endpoint));
    api_endpoint_ = api_.last_endpoint();

    TAILOR_ASSIGN(control_, ZmqSocket::open(context_, ZMQ_ROUTER));
    control_.set(ZMQ_ROUTER_MANDATORY, 1);
    control_.set_int64(ZMQ_MAXMSGSIZE, kMaxControlMessageBytes);
    control_.take_only(options_.link_key);
    control_.set(ZMQ_SNDHWM, kControlPipeCommands);
    control_.set(ZMQ_RCVHWM, 0);  // never stops, for it has heartbeats: ZmqSocket::keep_alive()
    control_.set(ZMQ_LINGER, 500);
    control_.set(ZMQ_HEARTBEAT_IVL, 1000);
    control_.set(ZMQ_HEARTBEAT_TIMEOUT, 5000);
    TAILOR_TRY(control_.bind(options_.control_endpoint));
    control_endpoint_ = control_.last_endpoint();
    thread_ = std::thread([this] { run(); });
    return {};
  }

  Mailbox<CoordinatorInput>& inbox() override { return inbox_; }
  Time clients_heard_until() const override { return heard_until_.load(); }
  void send(CoordinatorOutput output) override { outbound_.push_always(std::move(output)); }
  size_t outbound_bytes() const override { return outbound_.bytes(); }
  const std::string& api_endpoint() const override { return api_endpoint_; }
  const std::string& control_endpoint() const override { return control_endpoint_; }
  const CoordinatorIoCounters& counters() const override { return counters_; }

 private:
  using Clients = PeerTable<ClientId>;
  using Links = PeerTable<LinkId>;

  void run() noexcept {
    try {
      while (turn()) {
      }
      flush();
    } catch (const std::exception& error) {
      LOG_ERROR("the io thread cannot go on: {}", error.what());
      std::abort();
    }
    api_.close();
    control_.close();
  }

  // One wait and what it brought. False when the owner has closed the outbound mailbox.
  bool turn() {
    const bool reading = !held_ && inbox_.has_room();
    const bool reading_control = inbox_.bytes() < options_.max_inbox_bytes;
    const short control_interest = reading_control ? ZMQ_POLLIN : 0;
    zmq_pollitem_t items[3] = {{control_.get(), 0, control_interest, 0},
                               {nullptr, outbound_.fd(), ZMQ_POLLIN, 0},
                               {api_.get(), 0, ZMQ_POLLIN, 0}};
    const bool retry_soon = !reading || !reading_control || !waiting_clients_.empty();
    const Time before = now();
    zmq_poll(items, reading ? 3 : 2, retry_soon ? kRetryMs : kIdleMs);
    if (const Duration waited = now() - before; waited > milliseconds(kIdleMs) + kPause)
      clients_.forgive(waited);

    const bool last = outbound_.closed();
    for (auto& output : outbound_.drain())
      std::visit([this](auto& value) { handle(value); }, output);
    if (last) return false;
    if (!waiting_clients_.empty()) retry_waiting();
    if (items[0].revents & ZMQ_POLLIN) read_control();
    if (held_ && inbox_.push(std::move(*held_))) held_.reset();
    if (reading && !(items[2].revents & ZMQ_POLLIN)) heard_until_ = before;
    if (reading && (items[2].revents & ZMQ_POLLIN)) read_clients();
    return true;
  }

  void flush() {
    const Time until = now() + kFlushLimit;
    while (!waiting_clients_.empty() && now() < until) {
      zmq_poll(nullptr, 0, kRetryMs);
      retry_waiting();
    }
  }

  // ---- from clients ----

  void read_clients() {
    const Time until = now() + kClientTurn;
    do {
      ZmqSocket::Received received;
      const Time at = now();
      if (!api_.receive(frames_, received, keep_bytes_)) {
        heard_until_ = at;
        return;
      }
      take_client_message(received);
    } while (!held_ && inbox_.has_room() && now() < until);
  }

  void take_client_message(const ZmqSocket::Received& received) {
    counters_.client_messages.add();
    counters_.client_bytes_in.add(static_cast<int64_t>(received.bytes));
    // DEALER: [identity][payload]. REQ: [identity][][payload].
    const bool delimiter = received.frames == 3 && frames_[1].empty();
    if (received.frames != 2 && !delimiter) {
      counters_.client_bad_messages.add();
      return;
    }
    const std::string& identity = frames_.front();
    const Time at = now();
    Clients::Peer* client = clients_.find(identity);
    if (client != nullptr) {
      client->last_heard = at;
      client->delimiter = delimiter;
      client->unreachable = client->forgotten = false;
    }
    auto message = decode_client_message(frames_.back(), options_.max_prompt_bytes);
    if (!message) {
      counters_.client_bad_messages.add();
      if (message.error().answerable)
        answer_directly(identity, delimiter,
                        {message.error().request_id, message.error().error, Duration(0)});
      return;
    }
    if (client == nullptr) client = admit(identity, delimiter, at, *message);
    if (client == nullptr) return;
    CoordinatorInput input = FromClient{client->id, std::move(*message)};
    // Others may fill the inbox too: what finds no room waits here, and nothing more is read until
    // it has gone.
    if (!inbox_.push(std::move(input))) held_ = std::move(input);
  }

  Clients::Peer* admit(const std::string& identity, bool delimiter, Time at,
                       const api::ClientMessage& message) {
    if (clients_.size() >= options_.max_clients) {
      Clients::Peer* silent = clients_.longest_silent(at, kForgettable);
      if (silent == nullptr) {
        std::string request_id;
        if (const auto* submit = std::get_if<api::Submit>(&message))
          request_id = submit->request_id;
        if (!std::holds_alternative<api::Credit>(message))
          answer_directly(identity, delimiter,
                          {std::move(request_id),
                           Error{ErrorCode::kUnavailable, "the server has its limit of " +
                                                              std::to_string(options_.max_clients) +
                                                              " clients"},
                           kComeBackLater});
        return nullptr;
      }
      const ClientId id = silent->id;
      lose(*silent);
      clients_.erase(id);
    }
    Clients::Peer& client = clients_.add(identity, at);
    client.delimiter = delimiter;
    return &client;
  }

  void answer_directly(const std::string& identity, bool delimiter, api::Rejected rejected) {
    const std::string bytes = encode(std::vector<api::ServerEvent>{std::move(rejected)});
    if (put_on_wire(identity, delimiter, bytes) != SendStatus::kSent)
      counters_.dropped_to_clients.add();
  }

  // ---- to clients ----

  SendStatus put_on_wire(const std::string& identity, bool delimiter, const std::string& bytes) {
    const SendStatus status =
        delimiter ? api_.send({identity, "", bytes}) : api_.send({identity, bytes});
    if (status == SendStatus::kSent)
      counters_.client_bytes_out.add(static_cast<int64_t>(bytes.size()));
    return status;
  }

  void handle(ToClient& output) {
    Clients::Peer* client = clients_.find(output.client);
    if (client == nullptr || client->unreachable) {
      counters_.dropped_to_clients.add();
      return;
    }
    std::string bytes = encode(output.events);
    if (bytes.empty()) {  // sessions bound what goes into a message, so a defect: but its own only
      LOG_ERROR("client {} is given up: {} events are no message", client->id.value,
                output.events.size());
      return lose(*client);
    }
    if (client->unsent.empty()) {
      switch (put_on_wire(client->identity, client->delimiter, bytes)) {
        case SendStatus::kSent:
          return;
        case SendStatus::kUnreachable:
          return lose(*client);
        case SendStatus::kFull:
          break;
      }
      waiting_clients_.insert(client->id);
    }
    client->unsent_bytes += bytes.size();
    client->unsent.push_back(std::move(bytes));
    if (client->unsent.size() > kMaxUnsentMessages || client->unsent_bytes > kMaxUnsentBytes)
      lose(*client);
  }

  void retry_waiting() {
    for (auto it = waiting_clients_.begin(); it != waiting_clients_.end();) {
      const ClientId id = *it++;  // before anything erases it
      Clients::Peer* client = clients_.find(id);
      while (client != nullptr && !client->unsent.empty()) {
        const SendStatus status =
            put_on_wire(client->identity, client->delimiter, client->unsent.front());
        if (status == SendStatus::kFull) break;
        if (status == SendStatus::kUnreachable) {
          lose(*client);
          break;
        }
        client->unsent_bytes -= client->unsent.front().size();
        client->unsent.pop_front();
      }
      if (client == nullptr || client->unsent.empty()) waiting_clients_.erase(id);
    }
  }

  // The main thread is told. A client that connects anew under its identity goes on as itself.
  void lose(Clients::Peer& client) {
    drop_unsent(client);
    if (!std::exchange(client.unreachable, true))
      inbox_.push_always(ClientGone{client.id});  // bounded by what clients say
  }

  void drop_unsent(Clients::Peer& client) {
    counters_.dropped_to_clients.add(static_cast<int64_t>(client.unsent.size()));
    waiting_clients_.erase(client.id);
    client.unsent.clear();
    client.unsent_bytes = 0;
  }

  void handle(ForgetClient& output) {
    Clients::Peer* client = clients_.find(output.client);
    if (client == nullptr) return;
    drop_unsent(*client);
    client->forgotten = true;
  }

  // ---- control link ----

  void read_control() {
    for (int i = 0; i < kMessagesPerTurn && inbox_.bytes() < options_.max_inbox_bytes; ++i) {
      size_t count = 0;
      if (!control_.receive(frames_, &count)) return;
      counters_.worker_messages.add();
      if (count != 2) {
        counters_.worker_bad_messages.add();
        continue;
      }
      const Time at = now();
      Links::Peer* link = links_.find(frames_[0]);
      if (link == nullptr) {
        if (links_.size() >= kMaxLinks) links_.erase(links_.longest_silent(at, Duration(-1))->id);
        link = &links_.add(frames_[0], at);
      }
      link->last_heard = at;
      auto report = decode_control(frames_[1]);
      if (!report) {
        counters_.worker_bad_messages.add();
        if (!std::exchange(link->complained, true))
          LOG_WARN("control link {} is ignored: {}", link->id.value, report.error().message);
        continue;
      }
      if (auto* predictor = std::get_if<PredictorReport>(&*report)) {
        counters_.predictor_messages.add();
        // Advice: with a main thread far behind it may go.
        if (inbox_.size() <= 2 * options_.inbox_capacity)
          inbox_.push_always(FromPredictor{link->id, std::move(*predictor)});
        continue;
      }
      auto& worker = std::get<ReportFrame>(*report);
      // Heartbeats repeat themselves: with a main thread far behind, the newest of them may go.
      if (std::holds_alternative<Heartbeat>(worker.from.report) &&
          inbox_.size() > 2 * options_.inbox_capacity)
        continue;
      inbox_.push_always(
          FromWorker{link->id, std::move(worker)});  // bounded by the leaders' backlog
    }
  }

  void handle(ToPredictor& output) {
    Links::Peer* link = links_.find(output.link);
    // Bounded by the questions that main lets be open.
    if (link != nullptr &&
        control_.send({link->identity, encode(output.question)}) == SendStatus::kSent)
      return;
    if (link != nullptr) links_.erase(output.link);
    inbox_.push_always(PredictorGone{output.link});  // bounded likewise
  }

  void handle(ToWorker& output) {
    Links::Peer* link = links_.find(output.link);
    if (link == nullptr) return;
    const std::string bytes = encode(output.frame);
    // A lost worker is noticed by its missing heartbeats; what cannot be sent to it is lost with
    // it. One that has left so many commands unread is lost too: under a new number its heartbeats
    // are a stranger's.
    if (control_.send({link->identity, bytes}) != SendStatus::kSent) links_.erase(output.link);
  }

  const CoordinatorIoOptions options_;
  const size_t keep_bytes_;                      // of a client's message
  std::string api_endpoint_, control_endpoint_;  // constant after open()

  // Shared, guarded by themselves.
  Mailbox<CoordinatorInput> inbox_;
  Mailbox<CoordinatorOutput> outbound_;
  CoordinatorIoCounters counters_;
  std::atomic<Time> heard_until_{Time{}};

  // Owned by the io thread. The context outlives its sockets.
  ZmqContext context_;
  ZmqSocket api_, control_;
  Clients clients_;
  Links links_;
  std::set<ClientId> waiting_clients_;    // those with unsent messages
  std::optional<CoordinatorInput> held_;  // read, but the inbox was full
  std::vector<std::string> frames_;
  std::thread thread_;
};

}  // namespace

Result<std::unique_ptr<CoordinatorIo>> CoordinatorIo::start(const CoordinatorIoOptions& options) {
  if (options.inbox_capacity == 0 || options.max_clients == 0)
    return fail(ErrorCode::kInvalidArgument, "inbox_capacity and max_clients must be above 0");
  if (options.control_endpoint.empty())
    return fail(ErrorCode::kInvalidArgument,
                "the control endpoint is empty; tcp://127.0.0.1:* takes any free port");
  TAILOR_TRY(check_link_key(options.link_key));
  auto io = std::make_unique<CoordinatorIoThread>(options);
  TAILOR_TRY(io->open());
  return std::unique_ptr<CoordinatorIo>(std::move(io));
}

}  // namespace tailor::comm
