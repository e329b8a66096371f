// The one place where time is read.
#pragma once

#include "base/time.h"

namespace tailor {

/// Now, on the monotonic clock.
Time now();

/// What the calling thread has used of a core: stands still while it sleeps or is put aside.
Duration thread_cpu_time();

/// What all threads of this process have used.
Duration process_cpu_time();

/// Wall-clock time in milliseconds since 1970, for logs and file names only.
int64_t wall_clock_ms();

}  // namespace tailor
