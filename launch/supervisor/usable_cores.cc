#include "launch/supervisor/usable_cores.h"

#include <sched.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <sstream>

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

/// The smallest quota of `path` ("/a/b") and its parents below `mount`. A container often sees its
/// own cgroup at the mount's root although /proc names another path: missing folders are passed
/// over.
template <class Read>
void tighten(const std::string& mount, std::string path, Read read, std::optional<double>& quota) {
  while (true) {
    if (const auto found = read(mount + (path == "/" ? "" : path))) {
      quota = quota ? std::min(*quota, *found) : *found;
    }
    if (path.empty() || path == "/") return;
    path.erase(path.rfind('/'));
  }
}

bool names_cpu(const std::string& controllers) {
  std::istringstream list(controllers);
  for (std::string name; std::getline(list, name, ',');) {
    if (name == "cpu") return true;
  }
  return false;
}

}  // namespace

int UsableCores::count() const {
  const int granted = quota ? static_cast<int>(std::floor(*quota + 1e-9)) : affinity;
  return std::max(1, std::min(affinity, granted));
}

std::optional<double> cgroup_cpu_quota(const std::string& root) {
  std::optional<double> quota;
  std::ifstream file(root + "/proc/self/cgroup");
  for (std::string line; std::getline(file, line);) {  // "0::/path" or "4:cpu,cpuacct:/path"
    const size_t first = line.find(':');
    const size_t second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const std::string path = line.substr(second + 1);
    const std::string mount = root + "/sys/fs/cgroup";
    if (controllers.empty()) {
      tighten(mount, path, quota_v2, quota);
      tighten(mount + "/unified", path, quota_v2, quota);
    } else if (names_cpu(controllers)) {
      tighten(mount + "/" + controllers, path, quota_v1, quota);
      tighten(mount + "/cpu", path, quota_v1, quota);
    }
  }
  return quota;
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
