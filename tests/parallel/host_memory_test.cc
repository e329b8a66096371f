#include "parallel/host_memory.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

namespace tailor::parallel {
namespace {

namespace fs = std::filesystem;
constexpr uint64_t kMiB = 1 << 20;

class HostMemory : public testing::Test {
 protected:
  HostMemory() {
    std::string pattern = testing::TempDir() + "memory-XXXXXX";
    root_ = mkdtemp(pattern.data());
    write("/proc/meminfo", "MemTotal:  8388608 kB\nMemFree: 1024 kB\nMemAvailable: 4194304 kB\n");
  }
  ~HostMemory() override { fs::remove_all(root_); }
  void write(const std::string& path, const std::string& text) {
    fs::create_directories(fs::path(root_ + path).parent_path());
    std::ofstream(root_ + path) << text;
  }
  void write(const std::string& path, uint64_t mib) { write(path, std::to_string(mib * kMiB)); }
  uint64_t mib() const { return available_memory_bytes(root_) / kMiB; }
  std::string root_;
};

TEST_F(HostMemory, WithoutALimitIsWhatTheKernelCallsAvailable) {
  EXPECT_EQ(mib(), 4096u);
  write("/proc/self/cgroup", "0::/a\n");
  write("/sys/fs/cgroup/a/memory.max", "max\n");
  write("/sys/fs/cgroup/a/memory.current", 900);
  EXPECT_EQ(mib(), 4096u);
}

TEST_F(HostMemory, IsNoMoreThanTheTightestGroupOnTheWayUpLeaves) {
  write("/proc/self/cgroup", "0::/a/b\n");
  write("/sys/fs/cgroup/a/b/memory.max", "max\n");
  write("/sys/fs/cgroup/a/b/memory.current", 100);
  write("/sys/fs/cgroup/a/memory.max", 600);
  write("/sys/fs/cgroup/a/memory.current", 250);
  write("/sys/fs/cgroup/memory.max", 2000);
  write("/sys/fs/cgroup/memory.current", 300);
  EXPECT_EQ(mib(), 350u);
  write("/sys/fs/cgroup/a/b/memory.high", 400);
  EXPECT_EQ(mib(), 300u) << "beyond memory.high it would only crawl";
  write("/sys/fs/cgroup/a/memory.current", 700);
  EXPECT_EQ(mib(), 0u);
}

TEST_F(HostMemory, PagesOfFilesAreNotUsed) {
  write("/proc/self/cgroup", "0::/a\n");
  write("/sys/fs/cgroup/a/memory.max", 600);
  write("/sys/fs/cgroup/a/memory.current", 550);
  write("/sys/fs/cgroup/a/memory.stat",
        "anon 104857600\nfile 471859200\ninactive_file 419430400\nactive_file 52428800\n");
  EXPECT_EQ(mib(), 500u) << "only the 100 MiB that no file holds";
}

TEST_F(HostMemory, ReadsCgroupV1BelowTheMountsRoot) {
  write("/proc/self/cgroup", "5:devices:/\n4:memory:/service/x\n1:cpu:/\n0::/\n");
  write("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
  write("/sys/fs/cgroup/memory/memory.usage_in_bytes", 3000);
  write("/sys/fs/cgroup/memory/service/x/memory.limit_in_bytes", 600);
  write("/sys/fs/cgroup/memory/service/x/memory.usage_in_bytes", 400);
  write("/sys/fs/cgroup/memory/service/x/memory.stat",
        "active_file 0\ntotal_inactive_file 209715200\ntotal_active_file 104857600\n");
  EXPECT_EQ(mib(), 500u);
}

TEST_F(HostMemory, SeesAContainersLimitAtTheMountsRoot) {
  write("/proc/self/cgroup", "0::/not/mounted/here\n");
  write("/sys/fs/cgroup/memory.max", 512);
  write("/sys/fs/cgroup/memory.current", 12);
  EXPECT_EQ(mib(), 500u);
}

}  // namespace
}  // namespace tailor::parallel
