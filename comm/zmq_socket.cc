#include "comm/zmq_socket.h"

#include <zmq.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "base/endpoint.h"

namespace tailor::comm {
namespace {

Unexpected zmq_failure(const std::string& what, const std::string& endpoint) {
  const int code = zmq_errno();
  const bool bad_name = code == EINVAL || code == EPROTONOSUPPORT || code == ENOCOMPATPROTO;
  return fail(bad_name ? ErrorCode::kInvalidArgument : ErrorCode::kUnavailable,
              "cannot " + what + " " + endpoint + ": " +
                  (bad_name ? "it is not a ZeroMQ endpoint such as tcp://127.0.0.1:5555"
                            : zmq_strerror(code)));
}

}  // namespace

ZmqContext::ZmqContext() : context_(zmq_ctx_new()) {
  TAILOR_CHECK(context_ != nullptr, "ZeroMQ gave no context");
}

ZmqContext::~ZmqContext() {
  while (zmq_ctx_term(context_) != 0 && zmq_errno() == EINTR) {
  }
}

ZmqSocket::ZmqSocket(ZmqSocket&& other) noexcept : socket_(std::exchange(other.socket_, nullptr)) {}

ZmqSocket& ZmqSocket::operator=(ZmqSocket&& other) noexcept {
  std::swap(socket_, other.socket_);
  return *this;
}

Result<ZmqSocket> ZmqSocket::open(const ZmqContext& context, int type) {
  ZmqSocket socket;
  socket.socket_ = zmq_socket(context.get(), type);
  if (socket.socket_ == nullptr)
    return fail(ErrorCode::kUnavailable,
                std::string("cannot open a ZeroMQ socket: ") + zmq_strerror(zmq_errno()));
  return socket;
}

void ZmqSocket::set(int option, int value) {
  TAILOR_CHECK(zmq_setsockopt(socket_, option, &value, sizeof value) == 0,
               "a socket option was refused");
}

void ZmqSocket::set_int64(int option, int64_t value) {
  TAILOR_CHECK(zmq_setsockopt(socket_, option, &value, sizeof value) == 0,
               "a socket option was refused");
}

void ZmqSocket::keep_alive() {
  set(ZMQ_TCP_KEEPALIVE, 1);
  set(ZMQ_TCP_KEEPALIVE_IDLE, 15);
  set(ZMQ_TCP_KEEPALIVE_INTVL, 5);
  set(ZMQ_TCP_KEEPALIVE_CNT, 3);
}

void ZmqSocket::set_bytes(int option, std::string_view value) {
  TAILOR_CHECK(zmq_setsockopt(socket_, option, value.data(), value.size()) == 0,
               "a socket option was refused");
}

void ZmqSocket::take_only(const LinkKey& key) {
  set(ZMQ_CURVE_SERVER, 1);
  set_bytes(ZMQ_CURVE_SECRETKEY, key.secret_half);
}

void ZmqSocket::show(const LinkKey& key) {
  set_bytes(ZMQ_CURVE_SERVERKEY, key.public_half);
  set_bytes(ZMQ_CURVE_PUBLICKEY, key.public_half);
  set_bytes(ZMQ_CURVE_SECRETKEY, key.secret_half);
}

Result<void> ZmqSocket::bind(const std::string& endpoint) {
  std::string numeric = endpoint;
  if (const auto parsed = parse_tcp(endpoint); parsed && *parsed) {
    TAILOR_ASSIGN(const HostPort address, bindable(**parsed));
    set(ZMQ_IPV6, address.is_ipv6());  // with it [::] takes IPv4 too
    numeric = to_endpoint(address);
  }
  if (zmq_bind(socket_, numeric.c_str()) != 0) return zmq_failure("listen on", endpoint);
  return {};
}

Result<void> ZmqSocket::connect(const std::string& endpoint) {
  std::string settled = endpoint;
  if (endpoint.rfind("tcp://", 0) == 0) {
    // Refused here: ZeroMQ takes any number for a port and tries for ever.
    TAILOR_ASSIGN(const auto parsed, parse_tcp(endpoint));
    const HostPort address = connectable(*parsed);
    // For names it would prefer what the server may not listen on.
    set(ZMQ_IPV6, address.is_ipv6());
    settled = to_endpoint(address);
  }
  if (zmq_connect(socket_, settled.c_str()) != 0) return zmq_failure("connect to", endpoint);
  return {};
}

std::string ZmqSocket::last_endpoint() const {
  char text[512];
  size_t size = sizeof text;
  TAILOR_CHECK(zmq_getsockopt(socket_, ZMQ_LAST_ENDPOINT, text, &size) == 0,
               "a bound socket has an endpoint");
  return std::string(text, size > 0 ? size - 1 : 0);
}

bool ZmqSocket::receive(std::vector<std::string>& frames, size_t* frame_count) {
  Received received;
  const bool any = receive(frames, received, SIZE_MAX);
  if (frame_count != nullptr) *frame_count = received.frames;
  return any;
}

bool ZmqSocket::receive(std::vector<std::string>& frames, Received& received, size_t keep_bytes) {
  frames.clear();
  received = {};
  zmq_msg_t part;
  zmq_msg_init(&part);
  bool more = true;
  while (more) {
    // After the first frame of a message the others are there: ZeroMQ delivers whole messages.
    if (zmq_msg_recv(&part, socket_, ZMQ_DONTWAIT) < 0) {
      if (zmq_errno() == EINTR) continue;
      TAILOR_CHECK(zmq_errno() == EAGAIN, "receiving from a ZeroMQ socket failed");
      break;
    }
    more = zmq_msg_more(&part) != 0;
    const size_t size = zmq_msg_size(&part);
    received.bytes += size;
    if (received.frames++ < kMaxFrames)
      frames.emplace_back(static_cast<const char*>(zmq_msg_data(&part)),
                          std::min(size, keep_bytes));
  }
  zmq_msg_close(&part);
  return received.frames > 0;
}

SendStatus ZmqSocket::send(std::initializer_list<std::string_view> frames) {
  size_t left = frames.size();
  bool first = true;
  for (std::string_view frame : frames) {
    const int flags = ZMQ_DONTWAIT | (--left > 0 ? ZMQ_SNDMORE : 0);
    while (zmq_send(socket_, frame.data(), frame.size(), flags) < 0) {
      const int code = zmq_errno();
      if (code == EINTR) continue;
      // Only the first frame is ever refused: ZeroMQ takes or leaves a message as a whole.
      TAILOR_CHECK(first, "ZeroMQ refused the rest of a message");
      if (code == EAGAIN) return SendStatus::kFull;
      TAILOR_CHECK(code == EHOSTUNREACH, "sending on a ZeroMQ socket failed");
      return SendStatus::kUnreachable;
    }
    first = false;
  }
  return SendStatus::kSent;
}

Result<ZmqSocket> ZmqSocket::monitor(const ZmqContext& context, int events,
                                     const std::string& name) {
  const std::string endpoint = "inproc://monitor-" + name;
  if (zmq_socket_monitor(socket_, endpoint.c_str(), events) != 0)
    return zmq_failure("watch", endpoint);
  TAILOR_ASSIGN(ZmqSocket pair, open(context, ZMQ_PAIR));
  pair.set(ZMQ_LINGER, 0);
  TAILOR_TRY(pair.connect(endpoint));
  return pair;
}

int ZmqSocket::next_event() {
  std::vector<std::string> frames;
  if (!receive(frames) || frames[0].size() < sizeof(uint16_t)) return 0;
  uint16_t event;
  std::memcpy(&event, frames[0].data(), sizeof event);
  return event;
}

void ZmqSocket::close() {
  if (socket_ != nullptr) zmq_close(std::exchange(socket_, nullptr));
}

}  // namespace tailor::comm
