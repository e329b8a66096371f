// Time as a value. The pure cores are given `now`; only base/clock.cc, base/mailbox.h (timed waits)
// and launch/ read a clock (tools/tidy checks this).
#pragma once

#include <chrono>
#include <cstdint>

namespace tailor {

using Duration = std::chrono::nanoseconds;
/// A point on one process's monotonic clock. Never sent to another process: the wire carries
/// durations.
using Time = std::chrono::time_point<std::chrono::steady_clock, Duration>;

using std::chrono::duration_cast;
using std::chrono::microseconds;
using std::chrono::milliseconds;
using std::chrono::seconds;

inline double to_seconds(Duration d) { return std::chrono::duration<double>(d).count(); }
inline Duration from_seconds(double s) {
  return duration_cast<Duration>(std::chrono::duration<double>(s));
}
inline int64_t to_us(Duration d) { return duration_cast<microseconds>(d).count(); }

}  // namespace tailor
