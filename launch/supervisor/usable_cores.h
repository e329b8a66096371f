// How many cores this process may really use: CPU affinity and the quotas of cgroup v2 and v1.
#pragma once

#include <optional>
#include <string>

#include "base/result.h"

namespace tailor::launch {

struct UsableCores {
  int affinity = 1;  ///< cores in the affinity mask
  /// CPUs granted by the tightest cgroup above us; nothing = no limit
  std::optional<double> quota;
  int count() const;  ///< whole cores, at least 1
};

/// Of this process. `root` ("" = the real one) lets a test lay out its own /proc and /sys.
UsableCores usable_cores(const std::string& root = "");

/// The tightest quota on the way from our cgroup to the root: cpu.max (v2), cpu.cfs_quota_us (v1).
std::optional<double> cgroup_cpu_quota(const std::string& root = "");

/// Threads per rank when nobody says: the cores shared evenly, at least 1.
int default_threads(int replicas, int tp, int cores);

/// Errors: LimitExceeded (one sentence with the numbers and the fix) when replicas x tp x threads
/// exceeds the cores. The coordinator does not count: it sleeps.
Result<void> check_fits_cores(int replicas, int tp, int threads, const UsableCores& cores);

}  // namespace tailor::launch
