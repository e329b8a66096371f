// The coordinator's io thread: owns both of its ROUTER sockets (the public request API and the
// control link), all encoding and decoding, and nothing else. The main thread talks to it through
// two mailboxes of plain values.
//
//   main ── send() ──►  outbound mailbox ──► io thread ──► clients and leaders
//   main ◄── inbox() ◄─ inbound mailbox  ◄── io thread ◄── clients and leaders
//
// The control link comes first: clients get at most kClientTurn of each turn and wait where it has
// more to read. When the inbox has no room (messages or bytes) the io thread stops reading the
// public socket (clients feel back-pressure through ZeroMQ); when it holds max_inbox_bytes, the
// control link too (leaders then stop planning), because reports are never dropped. Malformed,
// oversized or unknown client messages are answered with Rejected{Protocol | LimitExceeded} where a
// request id can be read, else dropped and counted; nothing a client sends can stop the thread.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "base/api.h"
#include "base/counters.h"
#include "base/mailbox.h"
#include "base/messages.h"
#include "base/result.h"
#include "comm/codec_api.h"
#include "comm/codec_control.h"
#include "comm/link_key.h"

namespace tailor::comm {

/// A leader's (or follower's) connection, as the io thread numbers it.
using LinkId = Id<struct LinkTag>;

struct FromClient {
  ClientId client;
  api::ClientMessage message;
};
/// The transport says that this peer is unreachable (mandatory routing refused). It keeps its
/// number should it connect again under its identity.
struct ClientGone {
  ClientId client;
};
struct FromWorker {
  LinkId link;
  ReportFrame frame;
};
struct FromPredictor {
  LinkId link;
  PredictorReport report;
};
/// A question could not be sent: the predictor behind this link is gone.
struct PredictorGone {
  LinkId link;
};
using CoordinatorInput =
    std::variant<FromClient, ClientGone, FromWorker, FromPredictor, PredictorGone>;

/// One message to one client: all its events of a step.
struct ToClient {
  ClientId client;
  std::vector<api::ServerEvent> events;
};
struct ToWorker {
  LinkId link;
  CommandFrame frame;
};
struct ToPredictor {
  LinkId link;
  Predict question;
};
/// A client is not needed any more (its lease ran out): nothing waits for it, and it makes room for
/// a new one. It keeps its number until then, so that what it says meanwhile is answered.
struct ForgetClient {
  ClientId client;
};
using CoordinatorOutput = std::variant<ToClient, ToWorker, ToPredictor, ForgetClient>;

struct CoordinatorIoOptions {
  std::string api_endpoint = "tcp://127.0.0.1:5555";
  std::string control_endpoint;    ///< e.g. tcp://127.0.0.1:*; the bound one is control_endpoint()
  LinkKey link_key;                ///< of the control link
  size_t inbox_capacity = 4096;    ///< messages,
  size_t inbox_bytes = 64u << 20;  ///< and the memory they hold; above it no client is read,
  size_t max_inbox_bytes = 256u << 20;          ///< and above this no leader either
  size_t max_message_bytes = kMaxMessageBytes;  ///< larger ones close their connection
  size_t max_prompt_bytes = 4u << 20;           ///< larger ones are answered LimitExceeded
  size_t max_clients = 4096;
};

struct CoordinatorIoCounters {
  Counter client_messages, client_bad_messages, client_bytes_in, client_bytes_out;
  Counter worker_messages, worker_bad_messages, dropped_to_clients;
  Counter predictor_messages;
};

class CoordinatorIo {
 public:
  /// Binds both sockets and starts the thread. Errors: Unavailable (address in use, names it),
  /// InvalidArgument.
  static Result<std::unique_ptr<CoordinatorIo>> start(const CoordinatorIoOptions& options);
  /// stops and joins the thread; pending output is flushed for at most 1 s
  virtual ~CoordinatorIo() = default;

  virtual Mailbox<CoordinatorInput>& inbox() = 0;
  /// What clients had said by then is in the inbox, as far as this host has received it. Any
  /// thread.
  virtual Time clients_heard_until() const = 0;
  /// Any thread; never blocks, never refuses: output is bounded by clients' credit and by
  /// dispatched requests.
  virtual void send(CoordinatorOutput output) = 0;
  /// What send() was given and the thread has not taken yet. Any thread.
  virtual size_t outbound_bytes() const = 0;
  virtual const std::string& api_endpoint() const = 0;      ///< as bound (a wildcard port resolved)
  virtual const std::string& control_endpoint() const = 0;  ///< as bound
  virtual const CoordinatorIoCounters& counters() const = 0;
};

}  // namespace tailor::comm
