// The C++ client of the request API: connect, submit, read events. Synchronous and single-threaded:
// the caller's thread owns it (the commands of `tailor` and the load generator use it). Keeps
// credit and lease going by itself whenever `poll` is called; call it at least every 3 s while
// requests are open. After a longer pause it asks again for what is open: the server may have
// cancelled it meanwhile, and then says so.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/api.h"
#include "base/result.h"
#include "base/time.h"

namespace tailor::client {

struct ClientOptions {
  std::string endpoint = "tcp://127.0.0.1:5555";
  uint32_t credit_window = 64;  ///< messages in flight towards us
  /// Silent for so long, the server may have dropped our credit and our requests. Below its lease.
  Duration forgotten_after = seconds(8);
};

class Client {
 public:
  /// Never waits: ZeroMQ connects in the background; use status() to see whether someone answers.
  static Result<std::unique_ptr<Client>> connect(const ClientOptions& options);
  virtual ~Client() = default;

  /// Errors of what is said: InvalidArgument (a request id of no or too many bytes), Unavailable
  /// (too many messages wait for the server), LimitExceeded (the message is larger than
  /// kMaxMessageBytes, comm/codec_api.h).
  virtual Result<void> submit(const api::Submit& submit) = 0;
  /// `token` is needed for a request that another client submitted; of its own a client knows it.
  /// The answer is Finished or Rejected, also when it was submitted elsewhere.
  virtual Result<void> cancel(const std::string& request_id, const std::string& token = "") = 0;
  virtual Result<void> resume(const api::Resume& resume) = 0;
  /// Asks and waits for the answer; events of other requests that arrive meanwhile are kept for
  /// poll(). Errors: Timeout (nothing listens at the endpoint, which is named), Unavailable
  /// (something does, but does not answer as a coordinator: says what is known of it).
  virtual Result<api::StatusReport> status(Duration timeout) = 0;
  /// What has arrived; waits at most `timeout` for the first event.
  virtual Result<std::vector<api::ServerEvent>> poll(Duration timeout) = 0;
};

/// A new request id: 128 random bits in hex.
std::string new_request_id();

}  // namespace tailor::client
