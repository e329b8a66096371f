// A load run: a list of requests sent through the public API, and one row of measurements for each.
// What `tailor bench` and launch/quickstart print comes from here. Owner: the calling thread
// (client::Client is single-threaded).
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "base/api.h"
#include "client/client.h"

namespace tailor::bench {

struct LoadOptions {
  /// Requests in flight at once; 0 = all at once (a burst).
  int concurrency = 0;
  /// When each request is sent, after the start of the run, in ascending order (open loop); empty =
  /// as soon as `concurrency` allows.
  std::vector<Duration> arrivals;
  /// without any event; the run then fails and names what is open
  Duration timeout = seconds(600);
  std::function<void(const api::ServerEvent&, size_t request_index)> on_event;
};

/// Times are seconds on the client's clock, from the moment the request was sent.
struct RequestRow {
  size_t index = 0;
  uint32_t replica = 0;
  uint32_t prompt_tokens = 0;
  uint32_t output_tokens = 0;  ///< over all samples
  double queue_wait_s = 0;     ///< as the coordinator measured it: arrival to dispatch
  double first_token_s = 0;    ///< TTFT
  double finished_s = 0;       ///< end to end
  /// Of the tokens of all samples, each with its place: equal answers have equal hashes.
  uint64_t tokens_hash = 0;
  std::string finish_reason;
  std::string error;  ///< empty when all went well

  /// Time per output token after the first (TPOT); 0 for answers of one token.
  double time_per_output_token_s() const;
  /// (completion - arrival) / output tokens: what TIE (arXiv 2604.00499) calls per-token latency.
  double per_token_latency_s() const;
};

struct LoadResult {
  std::vector<RequestRow> rows;  ///< in the order of the requests
  double wall_s = 0;             ///< first submission to last end
  uint64_t output_tokens() const;
};

/// Sends `requests` and waits until each has ended exactly once.
/// Errors: InvalidArgument (arrivals of another number than requests), Timeout (no event for
/// options.timeout), Protocol (an end for an unknown or finished request).
Result<LoadResult> run_load(client::Client& client, const std::vector<api::Submit>& requests,
                            const LoadOptions& options);

}  // namespace tailor::bench
