// An open-loop client for a peer's HTTP server on this machine: each request is sent at its time on
// a connection of its own, whatever has been answered; no keep-alive, no TLS, no chunked answers.
// Owner: the calling thread.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/time.h"

namespace tailor::bench {

struct HttpRequest {
  Duration at{};       ///< after the start of the run
  std::string target;  ///< "/completion"
  std::string body;    ///< JSON, sent by POST; empty = GET
};

struct HttpRun {
  std::vector<std::string> bodies;  ///< of the answers, in the order of the requests
  double wall_s = 0;                ///< first request to last answer
};

/// Splits a whole answer. Errors: Protocol (not HTTP, chunked, shorter than it says), Unavailable
/// (a status other than 200: names it and the body).
Result<std::string> http_body(const std::string& answer);

/// Sends `requests` to 127.0.0.1:`port` and waits for every answer. Errors: those of http_body;
/// Unavailable (no connection); Timeout (not all answered within `timeout` of the start).
Result<HttpRun> run_http(uint16_t port, const std::vector<HttpRequest>& requests, Duration timeout);

}  // namespace tailor::bench
