// `tailor bench tie`: what the scheduler's own arithmetic costs on this machine, on one thread:
// moments of a law, a full rank table, the shipped heads, and every move in a queue of many waiting
// requests.
#pragma once

#include <string>

#include "base/result.h"

namespace tailor::launch {

struct TieBench {
  int waiting = 100'000;
  int rounds = 5;
};
struct TieReport {
  std::string table, json;
};
TieReport bench_tie(const TieBench& options);

}  // namespace tailor::launch
