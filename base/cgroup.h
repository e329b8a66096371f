// Where the kernel keeps the limits of this process: the folders of its control group and of the
// groups above it, for cgroup v2 and v1.
#pragma once

#include <string>
#include <vector>

namespace tailor {

struct CgroupFolder {
  std::string path;
  bool v2 = true;  ///< which names its files have: cpu.max or cpu.cfs_quota_us
};

/// From our own group up to the mount's root, for one controller ("cpu", "memory"). A container
/// often sees its own group at the mount's root although /proc names another path: folders that do
/// not exist may be among them. `root` ("" = the real one) lets a test lay out its own /proc and
/// /sys.
std::vector<CgroupFolder> cgroup_folders(const std::string& controller,
                                         const std::string& root = "");

}  // namespace tailor
