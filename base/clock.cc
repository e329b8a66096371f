#include "base/clock.h"

#include <ctime>

namespace tailor {

Time now() { return std::chrono::time_point_cast<Duration>(std::chrono::steady_clock::now()); }

Duration thread_cpu_time() {
  timespec used{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used);
  return seconds(used.tv_sec) + Duration(used.tv_nsec);
}

int64_t wall_clock_ms() {
  return duration_cast<milliseconds>(std::chrono::system_clock::now().time_since_epoch()).count();
}

}  // namespace tailor
