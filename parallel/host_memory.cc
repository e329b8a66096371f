#include "parallel/host_memory.h"

#include <algorithm>
#include <fstream>
#include <limits>
#include <string>

#include "base/cgroup.h"

namespace tailor::parallel {
namespace {

constexpr uint64_t kNone = std::numeric_limits<uint64_t>::max();

/// The number in a one-line file; the largest value when there is none ("max", no such file).
uint64_t read_number(const std::string& path) {
  std::ifstream file(path);
  uint64_t value = 0;
  return file >> value ? value : kNone;
}

/// The value of `key` in a file of lines "key value"; 0 when there is none.
uint64_t read_value(const std::string& path, const std::string& key) {
  std::ifstream file(path);
  std::string name;
  for (uint64_t value = 0; file >> name >> value;)
    if (name == key) return value;
  return 0;
}

/// What the group of `folder` may still take. Pages of files count as used there, but the kernel
/// drops them when memory is short: they are no more used than MemAvailable says.
uint64_t left_in(const CgroupFolder& folder) {
  const auto at = [&](const char* name) { return folder.path + "/" + name; };
  const uint64_t limit =
      folder.v2 ? std::min(read_number(at("memory.max")), read_number(at("memory.high")))
                : read_number(at("memory.limit_in_bytes"));
  const uint64_t used = read_number(at(folder.v2 ? "memory.current" : "memory.usage_in_bytes"));
  if (limit == kNone || used == kNone) return limit;
  const char* total = folder.v2 ? "" : "total_";  // with the groups below it
  const auto files = [&](const char* kind) {
    return read_value(at("memory.stat"), std::string(total) + kind + "_file");
  };
  const uint64_t held = used - std::min(used, files("active") + files("inactive"));
  return held < limit ? limit - held : 0;
}

}  // namespace

uint64_t available_memory_bytes(const std::string& root) {
  uint64_t available = 0;
  std::ifstream meminfo(root + "/proc/meminfo");
  std::string name, unit;
  for (uint64_t kib = 0; meminfo >> name >> kib; std::getline(meminfo, unit)) {
    if (name == "MemAvailable:") available = kib * 1024;
  }
  for (const CgroupFolder& folder : cgroup_folders("memory", root))
    available = std::min(available, left_in(folder));
  return available;
}

}  // namespace tailor::parallel
