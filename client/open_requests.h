// The requests a command has open at a cluster: submits them, gathers their answers, notices a
// server that is gone or has forgotten them, cancels them. Owner: the command's thread.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "client/answer.h"
#include "client/client.h"

namespace tailor::client {

/// What to say when nobody answers at `endpoint`: Unavailable, with the endpoint and how to start a
/// cluster there.
Error no_cluster_at(const std::string& endpoint);

/// Connects and makes sure somebody answers within `timeout`.
/// Errors: no_cluster_at(), InvalidArgument (endpoint).
Result<std::unique_ptr<Client>> connect_to_cluster(const std::string& endpoint, Duration timeout);

struct EndedAnswer {
  size_t tag = 0;  ///< as given to submit()
  Answer answer;
  /// > 0: refused for now, the same request may be sent again after that long
  Duration retry_after{};
};

class OpenRequests {
 public:
  /// `request_timeout`: a request older than that is cancelled and ends with Timeout; nothing = no
  /// limit.
  OpenRequests(Client& client, std::string endpoint, std::optional<Duration> request_timeout);

  /// Called with new text as it arrives.
  std::function<void(size_t tag, uint32_t sample, std::string_view text)> on_text;

  /// Gives the request an id when it has none. Errors: InvalidArgument (id in use), the client's.
  Result<void> submit(size_t tag, api::Submit submit);

  /// Waits at most `timeout` for events; returns what ended. Errors: Unavailable when the server
  /// has been silent for long and does not answer a status query either; every request then stays
  /// open.
  Result<std::vector<EndedAnswer>> poll(Duration timeout);

  /// Cancels everything and waits at most `wait` for the server's word; what is still open then is
  /// forgotten.
  void cancel_all(Duration wait);

  size_t size() const { return open_.size(); }

 private:
  struct Open {
    size_t tag;
    Answer answer;
    Time submitted;
  };
  void take(const api::ServerEvent& event, std::vector<EndedAnswer>& ended);
  void end(std::map<std::string, Open>::iterator it, std::vector<EndedAnswer>& ended,
           Duration retry_after = {});
  void end_overdue(std::vector<EndedAnswer>& ended);
  Result<void> look_for_silent_server(std::vector<EndedAnswer>& ended);

  Client& client_;
  const std::string endpoint_;
  const std::optional<Duration> request_timeout_;
  std::map<std::string, Open> open_;
  Time last_event_;
};

}  // namespace tailor::client
