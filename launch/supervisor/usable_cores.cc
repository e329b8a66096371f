#include "launch/supervisor/usable_cores.h"

#include <sched.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <sstream>

#include "base/cgroup.h"

namespace tailor::launch {
namespace {

std::optional<double> quota_v2(const std::string& folder) {
  std::ifstream file(folder + "/cpu.max");
  std::string quota;
  double period = 0;
  if (!(file >> quota >> period) || quota == "max" || period <= 0) return std::nullopt;
  return std::strtod(quota.c_str(), nullptr) / period;
}

std::optional<double> quota_v1(const std::string& folder) {
  double quota = -1, period = 0;
  std::ifstream(folder + "/cpu.cfs_quota_us") >> quota;
  std::ifstream(folder + "/cpu.cfs_period_us") >> period;
  if (quota <= 0 || period <= 0) return std::nullopt;
  return quota / period;
}

}  // namespace

int UsableCores::count() const {
  const int granted = quota ? static_cast<int>(std::floor(*quota + 1e-9)) : affinity;
  return std::max(1, std::min(affinity, granted));
}

std::optional<double> cgroup_cpu_quota(const std::string& root) {
  std::optional<double> tightest;
  for (const CgroupFolder& folder : cgroup_folders("cpu", root)) {
    const auto quota = folder.v2 ? quota_v2(folder.path) : quota_v1(folder.path);
    if (quota) tightest = tightest ? std::min(*tightest, *quota) : *quota;
  }
  return tightest;
}

UsableCores usable_cores(const std::string& root) {
  UsableCores cores;
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) == 0) cores.affinity = std::max(1, CPU_COUNT(&set));
  cores.quota = cgroup_cpu_quota(root);
  return cores;
}

int default_threads(int replicas, int tp, int cores) {
  return std::max(1, cores / std::max(1, replicas * tp));
}

Result<void> check_fits_cores(int replicas, int tp, int threads, const UsableCores& cores) {
  const long wanted = static_cast<long>(replicas) * tp * threads;
  if (wanted <= cores.count()) return {};
  std::ostringstream text;
  text << "--replicas " << replicas << " x --tp " << tp << " x --threads " << threads << " needs "
       << wanted << " cores, but only " << cores.count() << " can be used here (affinity "
       << cores.affinity << ", cgroup quota ";
  if (cores.quota) {
    text << *cores.quota;
  } else {
    text << "none";
  }
  text << "): ask for less, or add --oversubscribe to share them (slower)";
  return fail(ErrorCode::kLimitExceeded, text.str());
}

}  // namespace tailor::launch
