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

/// The same numbers and every row, as one JSON object.
std::string summary_json(const LoadResult& result);

}  // namespace tailor::bench
