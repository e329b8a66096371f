#include "launch/supervisor/usable_cores.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

namespace tailor::launch {
namespace {

namespace fs = std::filesystem;

class FakeRoot : public testing::Test {
 protected:
  FakeRoot() {
    std::string pattern = testing::TempDir() + "cores-XXXXXX";
    root_ = mkdtemp(pattern.data());
  }
  ~FakeRoot() override { fs::remove_all(root_); }
  void write(const std::string& path, const std::string& text) {
    fs::create_directories(fs::path(root_ + path).parent_path());
    std::ofstream(root_ + path) << text;
  }
  std::string root_;
};

TEST_F(FakeRoot, NoCgroupMeansNoQuota) { EXPECT_FALSE(cgroup_cpu_quota(root_).has_value()); }

TEST_F(FakeRoot, TakesTheTightestCpuMaxOnTheWayUp) {
  write("/proc/self/cgroup", "0::/a/b\n");
  write("/sys/fs/cgroup/a/b/cpu.max", "max 100000\n");
  write("/sys/fs/cgroup/a/cpu.max", "250000 100000\n");
  write("/sys/fs/cgroup/cpu.max", "400000 100000\n");
  EXPECT_DOUBLE_EQ(cgroup_cpu_quota(root_).value(), 2.5);
}

TEST_F(FakeRoot, SeesAContainersQuotaAtTheMountsRoot) {
  write("/proc/self/cgroup", "0::/not/mounted/here\n");
  write("/sys/fs/cgroup/cpu.max", "150000 100000\n");
  EXPECT_DOUBLE_EQ(cgroup_cpu_quota(root_).value(), 1.5);
}

TEST_F(FakeRoot, ReadsCgroupV1) {
  write("/proc/self/cgroup", "7:memory:/x\n4:cpu,cpuacct:/docker/1\n");
  write("/sys/fs/cgroup/cpu,cpuacct/docker/1/cpu.cfs_quota_us", "300000\n");
  write("/sys/fs/cgroup/cpu,cpuacct/docker/1/cpu.cfs_period_us", "100000\n");
  write("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "-1\n");
  write("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n");
  EXPECT_DOUBLE_EQ(cgroup_cpu_quota(root_).value(), 3.0);
}

TEST(UsableCores, AreWholeAndAtLeastOne) {
  EXPECT_EQ((UsableCores{8, std::nullopt}.count()), 8);
  EXPECT_EQ((UsableCores{8, 2.5}.count()), 2);
  EXPECT_EQ((UsableCores{8, 0.5}.count()), 1);
  EXPECT_EQ((UsableCores{2, 16.0}.count()), 2);
  EXPECT_GE(usable_cores().count(), 1);
}

TEST(UsableCores, DefaultThreadsShareThemEvenly) {
  EXPECT_EQ(default_threads(1, 1, 8), 8);
  EXPECT_EQ(default_threads(2, 2, 9), 2);
  EXPECT_EQ(default_threads(2, 2, 2), 1);
}

TEST(UsableCores, RefusesMoreWithTheNumbersAndTheFix) {
  const UsableCores cores{4, 2.5};
  EXPECT_TRUE(check_fits_cores(1, 2, 1, cores).has_value());
  const auto refused = check_fits_cores(2, 2, 1, cores);
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().code, ErrorCode::kLimitExceeded);
  EXPECT_EQ(
      refused.error().message,
      "--replicas 2 x --tp 2 x --threads 1 needs 4 cores, but only 2 can be used here (affinity 4, "
      "cgroup quota 2.5): ask for less, or add --oversubscribe to share them (slower)");
}

}  // namespace
}  // namespace tailor::launch
