// A thin owner of ZeroMQ's context and sockets: whole messages in and out, never blocking, errors
// as values. Used by the io threads and the client only. A socket belongs to one thread; creating
// it in another and handing it over before that thread starts is allowed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "comm/link_key.h"

namespace tailor::comm {

class ZmqContext {
 public:
  ZmqContext();
  ~ZmqContext();  ///< waits for the lingering messages of its sockets
  ZmqContext(const ZmqContext&) = delete;
  ZmqContext& operator=(const ZmqContext&) = delete;
  void* get() const { return context_; }

 private:
  void* context_;
};

enum class SendStatus {
  kSent,
  kFull,         ///< the peer's buffer is full: try again later
  kUnreachable,  ///< mandatory routing knows no such peer
};

class ZmqSocket {
 public:
  ZmqSocket() = default;
  ~ZmqSocket() { close(); }
  ZmqSocket(ZmqSocket&& other) noexcept;
  ZmqSocket& operator=(ZmqSocket&& other) noexcept;

  /// `type` is ZMQ_DEALER, ZMQ_ROUTER, ... Errors: Unavailable (no socket left).
  static Result<ZmqSocket> open(const ZmqContext& context, int type);

  void set(int option, int value);
  void set_int64(int option, int64_t value);
  /// A peer whose host vanished is noticed by TCP, within 30 s. For sockets whose input may stop (a
  /// pipe at its high-water mark) in place of ZeroMQ's heartbeats: a PING read behind a stopped
  /// input whose connection has ended fails an assertion inside libzmq 4.3.4, and a heartbeat that
  /// times out there another (its issues 4364 and 3937, open).
  void keep_alive();
  void set_bytes(int option, std::string_view value);

  /// From now on this socket speaks CURVE only, as the side that binds or as one that connects;
  /// peers without `key` get no further than the handshake. Before bind() or connect().
  void take_only(const LinkKey& key);
  void show(const LinkKey& key);

  /// Errors: Unavailable (address in use), InvalidArgument (not an endpoint); the message names the
  /// endpoint.
  Result<void> bind(const std::string& endpoint);
  Result<void> connect(const std::string& endpoint);
  std::string last_endpoint() const;  ///< a wildcard port resolved

  /// One whole message; false when none is there. At most `kMaxFrames` frames are kept,
  /// `frame_count` tells all.
  bool receive(std::vector<std::string>& frames, size_t* frame_count = nullptr);
  /// What came, kept or not.
  struct Received {
    size_t frames = 0;
    size_t bytes = 0;
  };
  /// The same, but of a frame longer than `keep_bytes` only its beginning is copied: what is too
  /// large to be taken costs nothing.
  bool receive(std::vector<std::string>& frames, Received& received, size_t keep_bytes);
  /// One whole message or nothing of it.
  SendStatus send(std::initializer_list<std::string_view> frames);

  /// A PAIR socket on which `events` (ZMQ_EVENT_...) of this socket arrive; read it with
  /// next_event().
  Result<ZmqSocket> monitor(const ZmqContext& context, int events, const std::string& name);
  /// The next event's number, or 0.
  int next_event();

  void close();
  void* get() const { return socket_; }

  static constexpr size_t kMaxFrames = 4;

 private:
  void* socket_ = nullptr;
};

}  // namespace tailor::comm
