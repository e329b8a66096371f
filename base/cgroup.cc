#include "base/cgroup.h"

#include <fstream>
#include <sstream>

namespace tailor {
namespace {

bool names(const std::string& controllers, const std::string& wanted) {
  std::istringstream list(controllers);
  for (std::string name; std::getline(list, name, ',');)
    if (name == wanted) return true;
  return false;
}

void add_upwards(const std::string& mount, std::string path, bool v2,
                 std::vector<CgroupFolder>& out) {
  while (true) {
    out.push_back({mount + (path == "/" ? "" : path), v2});
    if (path.empty() || path == "/") return;
    path.erase(path.rfind('/'));
  }
}

}  // namespace

std::vector<CgroupFolder> cgroup_folders(const std::string& controller, const std::string& root) {
  const std::string mount = root + "/sys/fs/cgroup";
  std::vector<CgroupFolder> out;
  std::ifstream file(root + "/proc/self/cgroup");
  for (std::string line; std::getline(file, line);) {  // "0::/path" or "4:cpu,cpuacct:/path"
    const size_t first = line.find(':');
    const size_t second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const std::string path = line.substr(second + 1);
    if (path.empty() || path.front() != '/') continue;
    if (controllers.empty()) {
      add_upwards(mount, path, true, out);
      add_upwards(mount + "/unified", path, true, out);
    } else if (names(controllers, controller)) {
      add_upwards(mount + "/" + controllers, path, false, out);
      if (controllers != controller) add_upwards(mount + "/" + controller, path, false, out);
    }
  }
  return out;
}

}  // namespace tailor
