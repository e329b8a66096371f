// `tailor bench tie`: what the scheduler's own arithmetic costs on this machine, on one thread:
// moments of a law, a full rank table, the shipped heads, and what SchedulerCore makes of an
// arrival, a law, a report and an end while a hundredth, a tenth and all of `waiting` requests
// wait.
#pragma once

#include <string>

#include "base/result.h"

namespace tailor::bench {

struct TieBench {
  int waiting = 100'000;
  int rounds = 5;
};
struct TieReport {
  std::string table, json;
};
TieReport bench_tie(const TieBench& options);

}  // namespace tailor::bench
