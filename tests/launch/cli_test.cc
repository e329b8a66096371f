// The `tailor` program itself, without a cluster: options, config file, printed lines, refusals.
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <string>

namespace tailor::launch {
namespace {

struct Ran {
  int code = -1;
  std::string out;  // stdout and stderr
};

Ran tailor(const std::string& arguments) {
  Ran ran;
  FILE* pipe = popen((TAILOR_BINARY_DIR "/bin/tailor " + arguments + " 2>&1").c_str(), "r");
  char buffer[4096];
  while (const size_t got = fread(buffer, 1, sizeof buffer, pipe)) ran.out.append(buffer, got);
  const int status = pclose(pipe);
  ran.code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  return ran;
}

class Cli : public testing::Test {
 protected:
  Cli() {
    std::string pattern = testing::TempDir() + "cli-XXXXXX";
    folder_ = mkdtemp(pattern.data());
    std::ofstream(model()) << "x";
  }
  ~Cli() override { std::filesystem::remove_all(folder_); }
  std::string model() const { return folder_ + "/model.gguf"; }
  std::string config(const std::string& text) const {
    std::ofstream(folder_ + "/tailor.toml") << text;
    return "--config " + folder_ + "/tailor.toml ";
  }
  std::string folder_;
};

TEST_F(Cli, ConfigFileSetsOptionsAndTheCommandLineWins) {
  const std::string file =
      config("[serve]\nmodel=\"" + model() + "\"\nreplicas=3\noversubscribe=true\nslots=5\n");
  Ran ran = tailor(file + "serve --print");
  EXPECT_EQ(ran.code, 0) << ran.out;
  EXPECT_NE(ran.out.find("--replica 2 "), std::string::npos) << ran.out;
  EXPECT_NE(ran.out.find("--slots 5"), std::string::npos) << ran.out;
  EXPECT_NE(ran.out.find(model()), std::string::npos) << ran.out;
  ran = tailor("serve " + file + "--print --replicas 1");
  EXPECT_EQ(ran.code, 0) << ran.out;
  EXPECT_EQ(ran.out.find("--replica 1 "), std::string::npos) << ran.out;
}

TEST_F(Cli, AnUnknownKeyOrABadValueInTheConfigIsRefused) {
  Ran ran = tailor(config("[serve]\nreplicsa=3\n") + "serve --print");
  EXPECT_EQ(ran.code, 1);
  EXPECT_NE(ran.out.find("replicsa"), std::string::npos) << ran.out;
  ran = tailor(config("[serve]\nreplicas=\"many\"\n") + "serve --print");
  EXPECT_EQ(ran.code, 1);
  EXPECT_NE(ran.out.find("replicas"), std::string::npos) << ran.out;
  ran = tailor("--config " + folder_ + "/none.toml serve --print");
  EXPECT_EQ(ran.code, 1);
  EXPECT_NE(ran.out.find("none.toml"), std::string::npos) << ran.out;
}

TEST_F(Cli, TheWrittenConfigReadsBackToTheSame) {
  const Ran first = tailor("serve --write-config --model " + model() +
                           " --replicas 2 --tp 3 --oversubscribe --slots 9");
  ASSERT_EQ(first.code, 0) << first.out;
  EXPECT_NE(first.out.find("tp=3"), std::string::npos) << first.out;
  const Ran second = tailor(config(first.out) + "serve --write-config");
  EXPECT_EQ(second.code, 0) << second.out;
  EXPECT_EQ(second.out, first.out);
}

TEST_F(Cli, PrintShowsOneLinePerFailureDomainAndSingleOne) {
  const auto count = [](const std::string& text) {
    size_t lines = 0;
    for (size_t at = 0; (at = text.find("mpirun --bind-to none", at)) != std::string::npos; ++at)
      ++lines;
    return lines;
  };
  const std::string common = "serve --print --replicas 2 --tp 2 --oversubscribe --model " + model();
  EXPECT_EQ(count(tailor(common).out), 3u);
  const Ran single = tailor(common + " --single");
  EXPECT_EQ(count(single.out), 1u);
  EXPECT_EQ(single.out.find("tcp://127.0.0.1:*"), std::string::npos)
      << "a concrete port is needed: " << single.out;
}

TEST_F(Cli, WrongRequestsAreOneSentenceAndExitCodeOne) {
  Ran ran = tailor("serve --print --model " + folder_ + "/missing");
  EXPECT_EQ(ran.code, 1);
  EXPECT_EQ(ran.out.find("tailor: no model at " + folder_ + "/missing"), 0u) << ran.out;
  ran = tailor("serve --print --replicas 4096 --tp 2 --model " + model());
  EXPECT_EQ(ran.code, 1);
  EXPECT_NE(ran.out.find("needs 8192 cores"), std::string::npos) << ran.out;
  ran = tailor("serve --print --endpoint 127.0.0.1:5555 --model " + model());
  EXPECT_EQ(ran.code, 1);
  EXPECT_EQ(ran.out, "tailor: an endpoint looks like tcp://127.0.0.1:5555, found 127.0.0.1:5555\n");
  ran = tailor("generate");
  EXPECT_EQ(ran.code, 1);
  ran = tailor("generate --chat a --prompt b");
  EXPECT_EQ(ran.code, 1);
  ran = tailor("generate hello --endpoint ipc://" + folder_ + "/nobody --connect-timeout 0.2");
  EXPECT_EQ(ran.code, 1);
  EXPECT_EQ(ran.out, "tailor: no cluster answers at ipc://" + folder_ +
                         "/nobody; start one with: tailor serve --endpoint ipc://" + folder_ +
                         "/nobody\n");
}

TEST_F(Cli, DoctorReportsAsJson) {
  const Ran ran =
      tailor("doctor --json --model " + folder_ + "/missing --endpoint ipc://" + folder_ + "/x");
  EXPECT_EQ(ran.code, 1);
  EXPECT_NE(ran.out.find("\"ok\":false"), std::string::npos) << ran.out;
  EXPECT_NE(ran.out.find("\"topic\":\"MPI\""), std::string::npos) << ran.out;
}

}  // namespace
}  // namespace tailor::launch
