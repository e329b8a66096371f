#include "parallel/host_memory.h"

#include <algorithm>
#include <fstream>
#include <limits>
#include <string>

namespace tailor::parallel {
namespace {

/// The number in a one-line file; the largest value when there is none ("max", no such file).
uint64_t read_number(const std::string& path) {
  std::ifstream file(path);
  uint64_t value = 0;
  return file >> value ? value : std::numeric_limits<uint64_t>::max();
}

uint64_t left_under(const std::string& limit_path, const std::string& used_path) {
  const uint64_t limit = read_number(limit_path);
  const uint64_t used = read_number(used_path);
  if (limit == std::numeric_limits<uint64_t>::max() || used == limit) return limit;
  return used < limit ? limit - used : 0;
}

}  // namespace

uint64_t available_memory_bytes() {
  uint64_t available = 0;
  std::ifstream meminfo("/proc/meminfo");
  std::string name, unit;
  for (uint64_t kib = 0; meminfo >> name >> kib; std::getline(meminfo, unit)) {
    if (name == "MemAvailable:") available = kib * 1024;
  }
  if (available == 0) return 0;
  const std::string root = "/sys/fs/cgroup";
  return std::min(
      {available, left_under(root + "/memory.max", root + "/memory.current"),
       left_under(root + "/memory/memory.limit_in_bytes", root + "/memory/memory.usage_in_bytes")});
}

}  // namespace tailor::parallel
