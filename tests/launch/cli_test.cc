// The `tailor` program itself, without a cluster: options, config file, printed lines, refusals.
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <string>

#include "tests/launch/run_tailor.h"

namespace tailor::launch {
namespace {

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

TEST_F(Cli, NumbersAreDecimalAndInRange) {
  const auto refused = [&](const std::string& option, const std::string& value) {
    const Ran ran = tailor(option.find("--seed") == 0
                               ? "generate Hi " + option + " " + value
                               : "serve --print --model " + model() + " " + option + " " + value);
    EXPECT_EQ(ran.code, 1) << ran.out;
    EXPECT_NE(ran.out.find(option + ": expected a"), std::string::npos) << ran.out;
    EXPECT_NE(ran.out.find("found " + value), std::string::npos) << ran.out;
  };
  for (const char* value : {"-1", "18446744073709551616", "99999999999999999999999", "0x10", "1e3"})
    refused("--seed", value);
  for (const char* value : {"0x10", "1.5", "9999999999999999999", "+5"}) refused("--slots", value);
  const Ran ran = tailor("serve --print --oversubscribe --model " + model() + " --slots 010");
  EXPECT_EQ(ran.code, 0) << ran.out;
  EXPECT_NE(ran.out.find("--slots 10"), std::string::npos) << ran.out;  // not 8
  EXPECT_EQ(tailor("status --quiet --timeout nan").code, 1);
  EXPECT_NE(tailor("status --timeout nan").out.find("--timeout: expected a number, found nan"),
            std::string::npos);
  for (const char* option : {"--stuck-after-ms 999", "--heartbeat-timeout-ms 199"}) {
    const Ran least = tailor("serve --print --oversubscribe --model " + model() + " " + option);
    EXPECT_EQ(least.code, 1);
    EXPECT_NE(least.out.find("not in range"), std::string::npos) << least.out;
  }
  const std::pair<const char*, const char*> beyond[] = {
      {"drain 4294967296", "replica: expected a whole number of 0..4294967295, found 4294967296"},
      {"generate --max-tokens 99999999999 x",
       "--max-tokens: expected a whole number of -2147483648..2147483647, found 99999999999"},
      {"generate --timeout -1 x", "--timeout: expected a number of seconds, 0..1e9, found -1"},
      {"generate --connect-timeout 1e300 x", "expected a number of seconds, 0..1e9, found 1e300"},
      {"status --wait -1", "--wait: expected a number of seconds, 0..1e9, found -1"}};
  for (const auto& [words, sentence] : beyond) {
    const Ran refused_one = tailor(words);
    EXPECT_EQ(refused_one.code, 1) << words;
    EXPECT_NE(refused_one.out.find(sentence), std::string::npos)
        << words << ": " << refused_one.out;
  }
  // What the programs' own tables say holds here too: no process is started to refuse it.
  for (const char* option :
       {"--slots 0", "--queue-limit 0", "--prefill-budget 2049", "--kv-dtype bf16"})
    EXPECT_EQ(tailor("serve --print --oversubscribe --model " + model() + " " + option).code, 1)
        << option;
  // Sizes keep their units.
  EXPECT_EQ(tailor("serve --print --oversubscribe --model " + model() + " --kv-memory 512MiB").code,
            0);
}

TEST_F(Cli, TheChatTemplateGoesToCoordinatorAndReplicas) {
  const Ran ran =
      tailor("serve --print --oversubscribe --model " + model() + " --chat-template chat.jinja");
  EXPECT_EQ(ran.code, 0) << ran.out;
  const size_t first = ran.out.find("--chat-template /");
  ASSERT_NE(first, std::string::npos) << ran.out;
  EXPECT_NE(ran.out.find("--chat-template /", first + 1), std::string::npos) << ran.out;
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

TEST_F(Cli, ThePolicyFollowsThePredictor) {
  const std::string common = "serve --print --replicas 1 --tp 1 --model " + model();
  std::string out = tailor(common + " --predictor none").out;
  EXPECT_NE(out.find("--policy fcfs"), std::string::npos) << out;
  EXPECT_EQ(out.find("tailor-predictor"), std::string::npos) << out;
  out = tailor(common + " --predictor constant:5,0.5").out;
  EXPECT_NE(out.find("--policy tie"), std::string::npos) << out;
  EXPECT_NE(out.find("tailor-predictor serve --control-endpoint tcp://127.0.0.1:"),
            std::string::npos)
      << out;
  out = tailor(common + " --predictor prompt-length --policy sept --single").out;
  EXPECT_NE(out.find("--policy sept"), std::string::npos) << out;
  EXPECT_NE(out.find("--predictor prompt-length"), std::string::npos) << out;
  const Ran ran = tailor(common + " --predictor " + folder_);
  EXPECT_EQ(ran.code, 1);
  EXPECT_NE(ran.out.find("no predictor at " + folder_), std::string::npos) << ran.out;
}

TEST_F(Cli, PrintedLinesAreQuotedForTheShell) {
  const Ran ran = tailor("serve --print --replicas 1 --tp 1 --run-dir '" + folder_ +
                         "/a b' --model " + model());
  ASSERT_EQ(ran.code, 0) << ran.out;
  EXPECT_NE(ran.out.find("mkdir -p '" + folder_ + "/a b/"), std::string::npos) << ran.out;
  EXPECT_NE(ran.out.find("--link-key '" + folder_ + "/a b/link.key'"), std::string::npos)
      << ran.out;
}

TEST_F(Cli, ServeRefusesAControlAddressThatIsTaken) {
  const int taken = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof address;
  ASSERT_EQ(bind(taken, reinterpret_cast<sockaddr*>(&address), length), 0);
  ASSERT_EQ(listen(taken, 1), 0);
  ASSERT_EQ(getsockname(taken, reinterpret_cast<sockaddr*>(&address), &length), 0);
  const std::string control = "tcp://127.0.0.1:" + std::to_string(ntohs(address.sin_port));
  for (const char* mode : {"", " --single"}) {
    const Ran ran =
        tailor("serve --endpoint ipc://" + folder_ + "/api --control-endpoint " + control +
               " --mpirun /bin/false --run-dir " + folder_ + "/run --model " + model() + mode);
    EXPECT_EQ(ran.code, 1);
    EXPECT_EQ(ran.out.find("tailor: " + control + " is in use"), 0u) << ran.out;
  }
  close(taken);
}

TEST_F(Cli, ServeOutlivesTheReaderOfItsLines) {
  std::ofstream(folder_ + "/mpirun") << "#!/bin/sh\ntouch " << folder_ << "/up\nexec sleep 1000\n";
  std::filesystem::permissions(folder_ + "/mpirun", std::filesystem::perms::owner_all);
  const std::string line = "exec " TAILOR_BINARY_DIR "/bin/tailor serve --endpoint ipc://" +
                           folder_ + "/api --mpirun " + folder_ + "/mpirun --run-dir " + folder_ +
                           "/run --model " + model();
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  const pid_t pid = fork();
  if (pid == 0) {
    dup2(ends[1], STDOUT_FILENO);
    dup2(ends[1], STDERR_FILENO);
    close(ends[0]);
    close(ends[1]);
    execl("/bin/sh", "sh", "-c", line.c_str(), static_cast<char*>(nullptr));
    _exit(127);
  }
  close(ends[0]);
  close(ends[1]);
  for (int i = 0; i < 1000 && !std::filesystem::exists(folder_ + "/up"); ++i) poll(nullptr, 0, 10);
  EXPECT_TRUE(std::filesystem::exists(folder_ + "/up"));
  kill(pid, SIGTERM);
  int status = 0;
  ASSERT_EQ(waitpid(pid, &status, 0), pid);
  EXPECT_TRUE(WIFEXITED(status)) << "killed by signal " << WTERMSIG(status);
  EXPECT_EQ(WEXITSTATUS(status), 0);
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
  const std::string nobody = "ipc://" + folder_ + "/nobody";
  for (const std::string command :
       {"generate hello --connect-timeout 0.2", "status --timeout 0.2", "chat", "bench burst"}) {
    ran = tailor(command + " --endpoint " + nobody);
    EXPECT_EQ(ran.code, 1);
    EXPECT_EQ(ran.out, "tailor: no cluster answers at " + nobody +
                           "; start one with: tailor serve --endpoint " + nobody + "\n");
  }
}

TEST_F(Cli, WhatCannotBePrintedIsSaidAndFails) {
  for (const std::string command : {"--version", "score --mu 5 --sigma 1 --max-tokens 9",
                                    "serve --print --endpoint tcp://127.0.0.1:5999"}) {
    const Ran ran = tailor(command + " 2>&1 >/dev/full #");  // the rest is not ours
    EXPECT_EQ(ran.code, 1) << command;
    EXPECT_NE(ran.out.find("cannot write "), std::string::npos) << command << ran.out;
  }
}

TEST_F(Cli, ClosedStandardStreamsAreNobodyElses) {
  const std::string nobody = " --endpoint ipc://" + folder_ + "/nobody";
  const Ran ran = tailor("status --timeout 0.2" + nobody + " 2>&1 >&- <&- #");
  EXPECT_EQ(ran.code, 1);
  EXPECT_NE(ran.out.find("no cluster answers"), std::string::npos) << ran.out;
  EXPECT_EQ(tailor("--version 2>&1 >&- #").code, 0);
}

TEST_F(Cli, BenchWithoutThePeerSaysWhatBuildsIt) {
  const Ran ran = tailor("bench vs-llama --peer " + folder_);
  EXPECT_EQ(ran.code, 1);
  EXPECT_EQ(ran.out, "tailor: there is no " + folder_ +
                         "/bin/llama-batched-bench: run launch/peer-llama, which builds llama.cpp "
                         "and converts the model, or name its folder with --peer\n");
}

TEST_F(Cli, DoctorReportsAsJson) {
  const Ran ran =
      tailor("doctor --json --model " + folder_ + "/missing --endpoint ipc://" + folder_ + "/x");
  EXPECT_EQ(ran.code, 1);
  EXPECT_NE(ran.out.find("\"ok\":false"), std::string::npos) << ran.out;
  EXPECT_NE(ran.out.find("\"topic\":\"MPI\""), std::string::npos) << ran.out;
  EXPECT_NE(ran.out.find("\"topic\":\"slots\""), std::string::npos) << ran.out;
  if (geteuid() == 0) {
    setenv("OMPI_ALLOW_RUN_AS_ROOT", "1", 1);
    unsetenv("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM");
    EXPECT_NE(tailor("doctor --json")
                  .out.find("OMPI_ALLOW_RUN_AS_ROOT=1, OMPI_ALLOW_RUN_AS_ROOT_CONFIRM is not set"),
              std::string::npos);
  }
}

}  // namespace
}  // namespace tailor::launch
