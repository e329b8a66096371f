// Tables of a load run: mean and percentiles, as people and as JSON read them. Pure.
#pragma once

#include <string>
#include <vector>

#include "bench/load_run.h"

namespace tailor::bench {

struct Statistics {
  double mean = 0, p50 = 0, p90 = 0, p99 = 0;
};

/// Percentiles by linear interpolation between order statistics (numpy's default). Zeros for no
/// values.
Statistics statistics(std::vector<double> values);

/// The table that quickstart prints: time to first token, time per output token, per-token latency,
/// end to end and queue wait (mean, P50, P90, P99), then tokens/s in all and per replica. Failed
/// requests are counted below it.
std::string summary_table(const LoadResult& result);

/// The same numbers and every row, as one JSON object. `label` says what was measured (the policy).
std::string summary_json(const LoadResult& result, const std::string& label);

/// Mean, P50 and P90 of each time, of a former run (its summary_json) and of this one, and their
/// ratio (below 1: this one is faster); then how many requests gave the same tokens in both.
/// Errors: InvalidArgument (no such JSON, other requests).
Result<std::string> comparison_table(const std::string& former_json, const LoadResult& result,
                                     const std::string& label);

}  // namespace tailor::bench
