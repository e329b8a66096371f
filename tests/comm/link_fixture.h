// What the tests of the io threads share: waiting with a deadline, a bare ZeroMQ client, a running
// CoordinatorIo.
#pragma once

#include <gtest/gtest.h>
#include <zmq.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/clock.h"
#include "comm/codec_api.h"
#include "comm/codec_control.h"
#include "comm/coordinator_io.h"
#include "comm/zmq_socket.h"

namespace tailor::comm::test {

// a bound, not a pause: tests end as soon as they can
inline constexpr Duration kPatience = seconds(60);

/// Values from a mailbox in order, one at a time.
template <class T>
class Incoming {
 public:
  explicit Incoming(Mailbox<T>& mailbox) : mailbox_(mailbox) {}

  /// The next value, or nothing after `patience`.
  std::optional<T> next(Duration patience = kPatience) {
    const Time until = now() + patience;
    while (waiting_.empty()) {
      const Duration left = until - now();
      if (left <= Duration(0)) return std::nullopt;
      waiting_ = mailbox_.drain_wait(left);
    }
    T value = std::move(waiting_.front());
    waiting_.pop_front();
    return value;
  }

  /// The next value of kind U; others are thrown away.
  template <class U>
  std::optional<U> next_of(Duration patience = kPatience) {
    const Time until = now() + patience;
    while (auto value = next(until - now()))
      if (auto* wanted = std::get_if<U>(&*value)) return std::move(*wanted);
    return std::nullopt;
  }

 private:
  Mailbox<T>& mailbox_;
  std::deque<T> waiting_;
};

inline LinkKey key_of(uint8_t first_byte = 7) { return *make_link_key({first_byte}); }

/// A socket that says what it is told, bytes or not; with `key` on a control link.
class BareClient {
 public:
  BareClient(const std::string& endpoint, int type = ZMQ_DEALER, int receive_hwm = 1000,
             const LinkKey* key = nullptr) {
    socket_ = std::move(*ZmqSocket::open(context_, type));
    if (key != nullptr) socket_.show(*key);
    constexpr int kRefused = ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL |
                             ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL | ZMQ_EVENT_HANDSHAKE_FAILED_AUTH;
    refusals_ = std::move(*socket_.monitor(context_, kRefused, "refusals"));
    socket_.set(ZMQ_LINGER, 0);
    socket_.set(ZMQ_SNDHWM, 0);
    socket_.set(ZMQ_RCVHWM, receive_hwm);
    EXPECT_TRUE(socket_.connect(endpoint));
  }
  ZmqSocket& socket() { return socket_; }
  /// A handshake has failed within `patience`.
  bool was_refused(Duration patience = kPatience) {
    const Time until = now() + patience;
    while (refusals_.next_event() == 0) {
      if (now() >= until) return false;
      zmq_pollitem_t item{refusals_.get(), 0, ZMQ_POLLIN, 0};
      zmq_poll(&item, 1, 100);
    }
    return true;
  }
  bool say(const api::ClientMessage& message) { return say_bytes(encode(message)); }
  bool say_bytes(std::string_view bytes) {
    for (const Time until = now() + kPatience; now() < until; wait(ZMQ_POLLOUT, milliseconds(50)))
      if (socket_.send({bytes}) == SendStatus::kSent) return true;
    return false;
  }
  /// The events of the next message, or nothing after `patience`.
  std::optional<std::vector<api::ServerEvent>> hear(Duration patience = kPatience) {
    std::vector<std::string> frames;
    const Time until = now() + patience;
    while (!socket_.receive(frames)) {
      if (now() >= until) return std::nullopt;
      wait(ZMQ_POLLIN, until - now());
    }
    auto events = decode_server_message(frames.back());
    EXPECT_TRUE(events);
    return events ? std::optional(std::move(*events)) : std::nullopt;
  }

 private:
  void wait(short events, Duration at_most) {
    zmq_pollitem_t item{socket_.get(), 0, events, 0};
    zmq_poll(&item, 1, static_cast<long>(duration_cast<milliseconds>(at_most).count()) + 1);
  }
  ZmqContext context_;
  ZmqSocket socket_, refusals_;
};

/// A bare socket on a control link, with the cluster's key.
class BarePeer : public BareClient {
 public:
  explicit BarePeer(const std::string& endpoint, const LinkKey& key = key_of())
      : BareClient(endpoint, ZMQ_DEALER, 1000, &key) {}
};

inline CoordinatorIoOptions loopback() {
  CoordinatorIoOptions options;
  options.api_endpoint = "tcp://127.0.0.1:*";
  options.control_endpoint = "tcp://127.0.0.1:*";
  options.link_key = key_of();
  return options;
}

inline std::unique_ptr<CoordinatorIo> start_coordinator(
    const CoordinatorIoOptions& options = loopback()) {
  auto io = CoordinatorIo::start(options);
  EXPECT_TRUE(io) << io.error().message;
  return std::move(*io);
}

/// A report of replica 5 without a payload.
inline ReportFrame report_of(WorkerReport report) {
  return {{Envelope{ReplicaId{5}, Epoch{0}}, std::move(report)}, {}};
}
/// A command to replica 5 without a payload.
inline ToWorker to_worker(LinkId link, uint64_t sequence, Epoch epoch, WorkerCommand command) {
  return {link, {{Envelope{ReplicaId{5}, epoch, sequence}, std::move(command)}, {}}};
}

inline api::Submit submit_of(std::string id, std::string text) {
  api::Submit s;
  s.request_id = std::move(id);
  s.prompt = std::move(text);
  return s;
}

inline api::TokenChunk chunk_of(std::string id, uint32_t index, std::string text) {
  return {std::move(id), 0, index, {TokenId(index)}, index, std::move(text), {}};
}

}  // namespace tailor::comm::test
