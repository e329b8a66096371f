#include "base/clock.h"

#include <ctime>

namespace tailor {

Time now() { return std::chrono::time_point_cast<Duration>(std::chrono::steady_clock::now()); }

namespace {

Duration read_clock(clockid_t clock) {
  timespec used{};
  clock_gettime(clock, &used);
  return seconds(used.tv_sec) + Duration(used.tv_nsec);
}

}  // namespace

Duration thread_cpu_time() { return read_clock(CLOCK_THREAD_CPUTIME_ID); }

Duration process_cpu_time() { return read_clock(CLOCK_PROCESS_CPUTIME_ID); }

int64_t wall_clock_ms() {
  return duration_cast<milliseconds>(std::chrono::system_clock::now().time_since_epoch()).count();
}

}  // namespace tailor
