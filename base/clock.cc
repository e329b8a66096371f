#include "base/clock.h"

namespace tailor {

Time now() { return std::chrono::time_point_cast<Duration>(std::chrono::steady_clock::now()); }

int64_t wall_clock_ms() {
  return duration_cast<milliseconds>(std::chrono::system_clock::now().time_since_epoch()).count();
}

}  // namespace tailor
