// `tailor bench serve`: a replica of ours against `transformers` generating one request at a time,
// on the same prompts (token ids), number of tokens, machine and threads, in alternating rounds;
// medians and ratios. Beside it the host's share of a step: 1 - (forward + sampler) / step, from
// the replica's own counters.
#pragma once

#include <string>
#include <vector>

#include "base/api.h"
#include "bench/measured_child.h"
#include "client/client.h"

namespace tailor::bench {

struct ServeComparison {
  std::string model = "default";
  std::string engine = "cpu";
  std::string reference_python;  ///< empty = ours alone
  std::vector<int> levels;  ///< concurrent requests, each its own run of twice as many requests
  int threads = 1;
  int rounds = 3;
  int max_tokens = 64;
  std::vector<api::Submit> requests;  ///< at least twice the largest level; ignore_eos set
};

struct ComparisonReport {
  std::string table;
  std::string json;
};

/// Starts its own cluster (1 replica, tp 1) and stops it. Errors: Unavailable (cluster did not come
/// up), NotFound (no reference Python, no model), Internal (the reference failed: with its last
/// line).
Result<ComparisonReport> compare_serving(const ServeComparison& options);

/// Until every replica of `cluster`, a `tailor serve` that we started, has said Hello. Errors:
/// Unavailable (it ended, or 120 s passed).
Result<void> wait_ready(client::Client& client, Companion& cluster);

}  // namespace tailor::bench
