#include "launch/supervisor/cluster_lines.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace tailor::launch {
namespace {

RunDir test_run() {
  RunDir run;
  run.path = "/run/t";
  run.mpi = "/run/t/mpi";
  run.shared = "/dev/shm/t";
  run.logs = "/run/t/logs";
  return run;
}

ClusterOptions test_cluster() {
  ClusterOptions options;
  options.replicas = 2;
  options.tp = 2;
  options.threads = 3;
  options.program_folder = "/bin/t";
  return options;
}

std::string joined(const CommandLine& line) {
  std::string out;
  for (const std::string& word : line.argv) out += word + " ";
  return out;
}

TEST(ClusterLines, OneMpirunPerFailureDomain) {
  const auto common = [](const std::string& domain) {
    return "mpirun --bind-to none --use-hwthread-cpus --mca orte_tmpdir_base /run/t/mpi/" + domain +
           " --mca btl_vader_backing_directory /dev/shm/t/" + domain + " ";
  };
  EXPECT_EQ(joined(coordinator_line(test_cluster(), test_run(), "tcp://127.0.0.1:*")),
            common("coordinator") +
                "-n 1 /bin/t/tailor-coordinator --model default --endpoint tcp://127.0.0.1:5555 "
                "--control-endpoint tcp://127.0.0.1:* --replicas 2 --policy fcfs --run-dir /run/t "
                "--link-key /run/t/link.key --log-level info ");
  EXPECT_EQ(
      joined(replica_line(test_cluster(), test_run(), 1, "tcp://127.0.0.1:9")),
      common("replica-1") +
          "-x OMP_NUM_THREADS=3 -x MKL_NUM_THREADS=3 -n 2 /bin/t/tailor-worker --model default "
          "--control-endpoint tcp://127.0.0.1:9 --replica 1 --tp 2 --engine cpu --device cpu "
          "--threads 3 "
          "--ranks-on-host 4 --run-dir /run/t --link-key /run/t/link.key --log-level info ");
}

TEST(ClusterLines, SetOptionsArePassedOnAndOversubscribingYields) {
  ClusterOptions options = test_cluster();
  options.engine = "torch";
  options.given = {{"--transport", "mpi"},        {"--dtype", "f32"}, {"--kv-dtype", "f32"},
                   {"--instruction-set", "avx2"}, {"--slots", "4"},   {"--kv-memory", "1GiB"},
                   {"--max-context", ""},         {"--pin", "true"},  {"--dummy-weights", "true"}};
  options.oversubscribe = true;
  const std::string line = joined(replica_line(options, test_run(), 0, "tcp://h:1"));
  EXPECT_NE(line.find("--dtype f32 --kv-dtype f32 --instruction-set avx2 --transport mpi --slots 4 "
                      "--kv-memory 1GiB --pin --dummy-weights"),
            std::string::npos)
      << line;
  EXPECT_NE(line.find("/bin/t/tailor-worker-torch --model"), std::string::npos) << line;
  EXPECT_EQ(worker_program("cpu"), "tailor-worker");
  EXPECT_EQ(worker_program("cuda"), "tailor-worker-cuda");
  EXPECT_NE(line.find("--oversubscribe --mca mpi_yield_when_idle 1"), std::string::npos) << line;
}

std::string value_of(const CommandLine& line, const std::string& name) {
  for (const auto& [key, value] : line.env)
    if (key == name) return value;
  return "not set";
}

TEST(ClusterLines, AClusterOfThisMachineAloneHidesTheSurroundingsFromOpenMpi) {
  ClusterOptions options = test_cluster();
  EXPECT_EQ(value_of(replica_line(options, test_run(), 0, "tcp://h:1"), "HWLOC_COMPONENTS"), "-gl");
  EXPECT_TRUE(replica_line(options, test_run(), 0, "tcp://h:1").env_without.empty());
  set_alone(options, "/home/me/.cache/tailor");
  options.host_name = "vm";
  CommandLine line = replica_line(options, test_run(), 0, "tcp://h:1");
  EXPECT_NE(joined(line).find("--host localhost:2 "), std::string::npos) << joined(line);
  EXPECT_NE(joined(single_line(options, test_run(), "tcp://h:1")).find("--host localhost:5 "),
            std::string::npos);
  EXPECT_EQ(value_of(line, "HOME"), "/run/t/mpi/replica-0");
  EXPECT_EQ(value_of(line, "TAILOR_CACHE"), "/home/me/.cache/tailor");
  EXPECT_EQ(line.argv.front(), "mpirun");
  options.host_name = "a_b";
  line = replica_line(options, test_run(), 0, "tcp://h:1");
  EXPECT_EQ(line.argv.front(), "unshare");
  EXPECT_NE(joined(line).find("sh -c hostname localhost && exec \"$@\" sh mpirun --bind-to "),
            std::string::npos)
      << joined(line);
}

TEST(ClusterLines, OfOtherHostsNameTheHostfileAndNoFolderOfOurs) {
  ClusterOptions options = test_cluster();
  options.hostfile = "/etc/hosts.mpi";
  const std::string line = joined(replica_line(options, test_run(), 0, "tcp://h:1"));
  EXPECT_NE(line.find("--hostfile /etc/hosts.mpi "), std::string::npos) << line;
  EXPECT_EQ(line.find("/run/t/mpi"), std::string::npos) << line;
}

TEST(ClusterLines, HostNamesThatMpirunDoesNotTake) {
  EXPECT_TRUE(mpirun_takes_host_name("node-1.example.com"));
  EXPECT_TRUE(mpirun_takes_host_name(std::string(56, 'h')));
  EXPECT_TRUE(mpirun_takes_host_name(std::string(50, 'h') + ".example.com"));
  for (const std::string& name : {std::string(57, 'h'), std::string("a_b"),
                                  std::string("m\xC3\xBCnchen"), std::string("a b")})
    EXPECT_FALSE(mpirun_takes_host_name(name)) << name;
}

TEST(ClusterLines, ThePredictorIsStartedWithoutMpirun) {
  ClusterOptions options = test_cluster();
  options.predictor = "/p q";
  EXPECT_EQ(to_shell(predictor_line(options, test_run(), "tcp://127.0.0.1:9")),
            "OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 /bin/t/tailor-predictor serve --control-endpoint "
            "tcp://127.0.0.1:9 --link-key /run/t/link.key --predictor '/p q' --log-level info");
  options.given = {{"--stuck-after-ms", "1500"}};
  EXPECT_EQ(predictor_line(options, test_run(), "tcp://127.0.0.1:9").argv.back(), "1500");
}

TEST(ClusterLines, SingleIsOneMpmdLine) {
  const CommandLine line = single_line(test_cluster(), test_run(), "tcp://127.0.0.1:9");
  EXPECT_EQ(std::count(line.argv.begin(), line.argv.end(), "mpirun"), 1);
  EXPECT_EQ(std::count(line.argv.begin(), line.argv.end(), ":"), 2);
  EXPECT_EQ(std::count(line.argv.begin(), line.argv.end(), "/bin/t/tailor-worker"), 2);
}

}  // namespace
}  // namespace tailor::launch
