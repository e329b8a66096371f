// The real supervisor over small shell programs. Each test runs it in a process of its own, as
// `tailor serve` does.
#include "launch/supervisor/supervisor.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <functional>
#include <sstream>

#include "base/clock.h"
#include "launch/supervisor/line_output.h"

namespace tailor::launch {
namespace {

namespace fs = std::filesystem;
constexpr Duration kPatience = seconds(60);  // ends a test that hangs

class SupervisorTest : public testing::Test {
 protected:
  SupervisorTest() {
    std::string pattern = testing::TempDir() + "supervisor-XXXXXX";
    folder_ = mkdtemp(pattern.data());
    fs::create_directory(folder_ + "/private");
    std::ofstream(folder_ + "/private/segment") << "x";
    options_.mark = "test-" + std::to_string(getpid()) + "-" + std::to_string(wall_clock_ms());
    options_.sweep = {folder_ + "/private"};
    options_.backoff_first = milliseconds(50);
    options_.say = [path = folder_ + "/said"](const std::string& line) {
      std::ofstream(path, std::ios::app) << line << "\n";
    };
    options_.on_ready = [path = folder_ + "/ready"] { std::ofstream(path) << "yes"; };
  }
  ~SupervisorTest() override {
    if (pid_ > 0) {
      kill(pid_, SIGKILL);
      waitpid(pid_, nullptr, 0);
    }
    end_marked(options_.mark, 0);
    // The warden of a supervisor killed here sweeps the same folder at this moment.
    eventually([&] {
      std::error_code swept;
      fs::remove_all(folder_, swept);
      return !fs::exists(folder_);
    });
  }

  void add_child(const std::string& script) {
    const std::string name = "child " + std::to_string(options_.children.size());
    options_.children.push_back({name, folder_ + "/" + name + ".log",
                                 [script, folder = folder_]() -> std::optional<CommandLine> {
                                   return CommandLine{{"/bin/sh", "-c", script}, {{"DIR", folder}}};
                                 }});
  }

  void start() {
    pid_ = fork();
    if (pid_ == 0) {
      const int code = supervise(options_);
      _exit(code);
    }
  }

  /// Polls until `condition` holds; false after `limit`.
  static bool eventually(const std::function<bool()>& condition, Duration limit = kPatience) {
    const Time until = now() + limit;
    while (now() < until) {
      if (condition()) return true;
      poll(nullptr, 0, 10);
    }
    return condition();
  }

  /// False for a process that has ended, collected by its parent or not.
  static bool runs(pid_t pid) {
    std::string stat;
    std::getline(std::ifstream("/proc/" + std::to_string(pid) + "/stat"), stat);
    const size_t name_end = stat.rfind(')');
    return name_end != std::string::npos && stat.compare(name_end, 3, ") Z") != 0;
  }

  /// The warden among the children of `supervisor`, collected or not; 0 = it has none now.
  static pid_t warden_of(pid_t supervisor) {
    const std::string id = std::to_string(supervisor);
    std::ifstream children("/proc/" + id + "/task/" + id + "/children");
    for (pid_t child; children >> child;) {
      std::string name;
      std::getline(std::ifstream("/proc/" + std::to_string(child) + "/comm") >> std::ws, name);
      if (name == "tailor-warden") return child;
    }
    return 0;
  }

  std::string text_of(const std::string& name) const {
    std::ostringstream out;
    out << std::ifstream(folder_ + "/" + name).rdbuf();
    return out.str();
  }
  size_t lines_of(const std::string& name) const {
    const std::string text = text_of(name);
    return static_cast<size_t>(std::count(text.begin(), text.end(), '\n'));
  }
  bool ready() const { return fs::exists(folder_ + "/ready"); }
  int alive() const { return signal_marked(options_.mark, 0); }

  /// The supervisor's exit code; fails the test when it takes longer than `limit`.
  int wait_for_end(Duration limit = kPatience) {
    int status = -1;
    const bool ended = eventually([&] { return waitpid(pid_, &status, WNOHANG) == pid_; }, limit);
    EXPECT_TRUE(ended) << "the supervisor did not end in time";
    if (ended) pid_ = 0;
    return ended && WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }

  SupervisorOptions options_;
  std::string folder_;
  pid_t pid_ = 0;
};

TEST_F(SupervisorTest, RestartsAChildThatIsKilledAndSaysSo) {
  add_child("echo $$ >> $DIR/pids; echo hello; exec sleep 1000");
  start();
  ASSERT_TRUE(eventually([&] { return ready() && lines_of("pids") == 1; })) << text_of("said");
  kill(std::stoi(text_of("pids")), SIGKILL);
  ASSERT_TRUE(eventually([&] { return lines_of("pids") == 2; })) << text_of("said");
  EXPECT_NE(text_of("said").find("child 0 was killed by Killed; starting it again in 0.1 s"),
            std::string::npos)
      << text_of("said");
  kill(pid_, SIGTERM);
  EXPECT_EQ(wait_for_end(), 0);
  EXPECT_EQ(alive(), 0);
  EXPECT_EQ(text_of("child 0.log"), "hello\nhello\n");
  EXPECT_FALSE(fs::exists(folder_ + "/private"));
}

TEST_F(SupervisorTest, BackOffDoublesWhileAChildKeepsDying) {
  options_.backoff_max = milliseconds(200);
  options_.probe = [path = folder_ + "/go"]() -> std::optional<CommandLine> {
    return CommandLine{{"/bin/true"}, {}};
  };
  options_.probe_every = milliseconds(10);
  add_child("echo x >> $DIR/starts; while [ ! -e $DIR/ready ]; do sleep 0.02; done; exit 3");
  start();
  ASSERT_TRUE(eventually([&] { return lines_of("starts") >= 5; })) << text_of("said");
  const std::string said = text_of("said");
  const size_t first = said.find("again in 0.1 s");
  const size_t later = said.find("again in 0.2 s");
  ASSERT_NE(first, std::string::npos) << said;
  ASSERT_NE(later, std::string::npos) << said;
  EXPECT_LT(first, later);
  EXPECT_NE(said.find("exited with code 3"), std::string::npos) << said;
  kill(pid_, SIGINT);
  EXPECT_EQ(wait_for_end(), 0);
}

TEST_F(SupervisorTest, WhyAChildEndsIsSaidWhereItIsStartedAgain) {
  options_.probe = []() -> std::optional<CommandLine> { return CommandLine{{"/bin/true"}, {}}; };
  add_child(
      "while [ ! -e $DIR/ready ]; do sleep 0.02; done; echo 'tailor-worker: the disk is full'; "
      "echo 'mpirun detected that one or more processes exited'; exit 1");
  start();
  ASSERT_TRUE(eventually([&] {
    return text_of("said").find("exited with code 1 (tailor-worker: the disk is full); starting") !=
           std::string::npos;
  })) << text_of("said");
  kill(pid_, SIGINT);
  EXPECT_EQ(wait_for_end(), 0);
}

TEST_F(SupervisorTest, StopsEvenWhenAChildIgnoresSigterm) {
  options_.stop_grace = milliseconds(500);
  // The grandchild leaves the process group and the session, as ranks of Open MPI leave the group.
  add_child(
      "trap '' TERM; setsid sh -c 'trap \"\" TERM; echo x > $DIR/up; while :; do sleep 0.1; done' "
      "& "
      "while :; do sleep 0.1; done");
  start();
  ASSERT_TRUE(eventually([&] { return ready() && lines_of("up") == 1; }));
  EXPECT_GE(alive(), 2);
  kill(pid_, SIGTERM);
  EXPECT_EQ(wait_for_end(), 0);
  EXPECT_EQ(alive(), 0);
  EXPECT_FALSE(fs::exists(folder_ + "/private"));
}

TEST_F(SupervisorTest, KillNineOfTheSupervisorLeavesNothing) {
  add_child("setsid sh -c 'echo x > $DIR/up; exec sleep 1000' & exec sleep 1000");
  add_child("trap '' TERM; echo x > $DIR/up1; while :; do sleep 0.1; done");
  start();
  ASSERT_TRUE(eventually([&] { return ready() && lines_of("up") == 1 && lines_of("up1") == 1; }));
  EXPECT_GE(alive(), 3);
  kill(pid_, SIGKILL);
  EXPECT_TRUE(eventually([&] { return alive() == 0; }));
  EXPECT_TRUE(eventually([&] { return !fs::exists(folder_ + "/private"); }));
}

TEST_F(SupervisorTest, WhatAKilledChildLeavesBehindIsKilled) {
  add_child(
      "echo $$ >> $DIR/pids; setsid sleep 1000 & echo $! >> $DIR/ranks; ls $DIR/private/0 >> "
      "$DIR/found; "
      "echo x > $DIR/private/0/file; wait");
  options_.children[0].scratch = {folder_ + "/private/0"};
  start();
  ASSERT_TRUE(eventually([&] { return ready() && lines_of("ranks") == 1; }));
  const pid_t orphan = std::stoi(text_of("ranks"));
  kill(std::stoi(text_of("pids")), SIGKILL);
  ASSERT_TRUE(eventually([&] { return lines_of("ranks") == 2; }));
  EXPECT_TRUE(eventually([&] { return !runs(orphan); }));
  EXPECT_TRUE(eventually([&] { return fs::exists(folder_ + "/private/0/file"); }));
  EXPECT_EQ(text_of("found"), "") << "the second start found what the first one left";
}

TEST_F(SupervisorTest, AnErrorBeforeEverBeingReadyEndsTheRunWithItsReason) {
  options_.probe = []() -> std::optional<CommandLine> { return CommandLine{{"/bin/false"}, {}}; };
  add_child("exec sleep 1000");
  add_child(
      "echo some chatter; echo '2026-01-01 00:00:00.000 error [worker] no file x' >&2; exit 2");
  start();
  EXPECT_EQ(wait_for_end(), 1);
  const std::string said = text_of("said");
  EXPECT_NE(said.find("child 1 exited with code 2:\n  error [worker] no file x"), std::string::npos)
      << said;
  EXPECT_EQ(said.find("chatter"), std::string::npos);
  EXPECT_EQ(alive(), 0);
  EXPECT_FALSE(fs::exists(folder_ + "/private"));
}

TEST_F(SupervisorTest, AProgramsOwnSentenceIsNotBuriedUnderMpirunsWords) {
  options_.probe = []() -> std::optional<CommandLine> { return CommandLine{{"/bin/false"}, {}}; };
  add_child(
      "echo 'tailor-worker: config.json: a size is wrong'; echo -----; "
      "echo 'mpirun detected that one or more processes exited'; exit 2");
  start();
  EXPECT_EQ(wait_for_end(), 1);
  const std::string said = text_of("said");
  EXPECT_NE(said.find("exited with code 2:\n  tailor-worker: config.json: a size is wrong\n  (log"),
            std::string::npos)
      << said;
}

TEST_F(SupervisorTest, AFailureThatMayPassIsTriedAgainBeforeReadyButNotForEver) {
  options_.probe = []() -> std::optional<CommandLine> { return CommandLine{{"/bin/false"}, {}}; };
  options_.backoff_first = milliseconds(5);
  options_.max_start_failures = 3;
  add_child("echo x >> $DIR/starts; exit 69");
  start();
  EXPECT_EQ(wait_for_end(), 1);
  EXPECT_EQ(lines_of("starts"), 3u);
}

TEST_F(SupervisorTest, AMissingProgramEndsTheRunWithItsName) {
  options_.children.push_back(
      {"x", folder_ + "/x.log", [] {
         return std::optional<CommandLine>(CommandLine{{"/no/such/program"}, {}});
       }});
  start();
  EXPECT_EQ(wait_for_end(), 1);
  EXPECT_NE(text_of("said").find("x: cannot start /no/such/program: No such file or directory"),
            std::string::npos)
      << text_of("said");
}

TEST_F(SupervisorTest, AnOptionalChildNeitherHoldsUpNorEndsTheRun) {
  options_.max_start_failures = 2;
  options_.backoff_max = milliseconds(100);
  options_.probe = [path = folder_ + "/go"]() -> std::optional<CommandLine> {
    return CommandLine{{"/usr/bin/test", "-e", path}, {}};
  };
  options_.probe_every = milliseconds(10);
  add_child("echo $$ > $DIR/main; exec sleep 1000");
  add_child("echo x >> $DIR/starts; exit 1");  // an error that starting again cannot mend
  options_.children.push_back(
      {"nobody", folder_ + "/nobody.log", []() -> std::optional<CommandLine> {
         return CommandLine{{"/nonexistent/program"}, {}};
       }});
  options_.children[1].optional = options_.children[2].optional = true;
  start();
  ASSERT_TRUE(eventually([&] { return lines_of("starts") >= 4; })) << text_of("said");
  std::ofstream(folder_ + "/go") << "x";
  ASSERT_TRUE(eventually([&] { return ready(); })) << text_of("said");
  const size_t starts = lines_of("starts");
  ASSERT_TRUE(eventually([&] { return lines_of("starts") >= starts + 3; })) << text_of("said");
  EXPECT_TRUE(runs(std::stoi(text_of("main"))));
  const std::string said = text_of("said");
  EXPECT_NE(said.find("nobody: "), std::string::npos) << said;
  EXPECT_EQ(said.find("every child is up again"), std::string::npos) << said;
  kill(pid_, SIGTERM);
  EXPECT_EQ(wait_for_end(), 0);
  EXPECT_EQ(alive(), 0);
}

TEST_F(SupervisorTest, AKilledWardenIsReplaced) {
  add_child("echo $$ >> $DIR/pids; exec sleep 1000");
  start();
  ASSERT_TRUE(eventually([&] { return ready() && lines_of("pids") == 1; }));
  const pid_t first = warden_of(pid_);
  ASSERT_NE(first, 0);
  kill(first, SIGKILL);
  ASSERT_TRUE(eventually([&] {
    const pid_t other = warden_of(pid_);  // looked up once: between the two there is none
    return other != 0 && other != first;
  }));
  kill(pid_, SIGKILL);
  EXPECT_TRUE(eventually([&] { return alive() == 0 && !fs::exists(folder_ + "/private"); }));
}

TEST_F(SupervisorTest, AWardenThatCannotBeReplacedAtOnceIsReplacedLater) {
  rlimit files{};
  options_.on_ready = [&files, ready = options_.on_ready] {
    ready();
    getrlimit(RLIMIT_NOFILE, &files);
    const rlimit none{0, files.rlim_max};
    setrlimit(RLIMIT_NOFILE, &none);
  };
  options_.say = [&files, say = options_.say](const std::string& line) {
    setrlimit(RLIMIT_NOFILE, &files);
    say(line);
  };
  add_child("echo $$ >> $DIR/pids; exec sleep 1000");
  start();
  ASSERT_TRUE(eventually([&] { return ready() && lines_of("pids") == 1; }));
  const pid_t first = warden_of(pid_);
  ASSERT_NE(first, 0);
  kill(first, SIGKILL);
  ASSERT_TRUE(eventually([&] {
    const pid_t other = warden_of(pid_);
    return other != 0 && other != first;
  })) << text_of("said");
  EXPECT_EQ(text_of("said"), "the warden cannot be started: pipe: Too many open files\n");
  kill(pid_, SIGKILL);
  EXPECT_TRUE(eventually([&] { return alive() == 0 && !fs::exists(folder_ + "/private"); }));
}

TEST_F(SupervisorTest, WhatIsPrivateIsRemovedThoughTheWardenDiesAtTheVeryEnd) {
  options_.say = [](const std::string&) {  // "stopping": nothing runs, so this is the end
    const pid_t warden = warden_of(getpid());
    kill(warden, SIGKILL);
    siginfo_t ended;
    waitid(P_PID, static_cast<id_t>(warden), &ended, WEXITED | WNOWAIT);
  };
  start();
  ASSERT_TRUE(eventually([&] { return ready(); }));
  kill(pid_, SIGTERM);
  EXPECT_EQ(wait_for_end(), 0);
  EXPECT_FALSE(fs::exists(folder_ + "/private"));
}

TEST_F(SupervisorTest, AProcessThatIsLostThoughItHasNotEndedIsKilledWithItsChild) {
  options_.lost = folder_ + "/private/lost";
  // The lost one is a stopped grandchild in a session of its own; its parent waits for it.
  add_child("setsid sh -c 'echo $$ >> $DIR/ranks; kill -STOP $$' & wait");
  add_child("echo $$ >> $DIR/others; exec sleep 1000");
  start();
  ASSERT_TRUE(eventually([&] { return ready() && lines_of("ranks") == 1; })) << text_of("said");
  const pid_t stopped = std::stoi(text_of("ranks"));
  // Of no child of this run, and no number at all: nothing happens.
  std::ofstream(options_.lost) << getpid() << "\n1\nwords\n" << stopped << "\n";
  ASSERT_TRUE(eventually([&] { return lines_of("ranks") == 2; })) << text_of("said");
  EXPECT_FALSE(runs(stopped));
  EXPECT_NE(text_of("said").find("child 0 is lost (process " + std::to_string(stopped) + ")"),
            std::string::npos)
      << text_of("said");
  EXPECT_EQ(lines_of("others"), 1u);
  // Said again after its end it means nobody.
  std::ofstream(options_.lost) << stopped << "\n";
  kill(pid_, SIGTERM);
  EXPECT_EQ(wait_for_end(seconds(5)), 0);
  EXPECT_EQ(alive(), 0);
}

TEST_F(SupervisorTest, AChildThatLeavesForGoodIsNotStartedAgainAndTheOthersStay) {
  add_child("echo $$ >> $DIR/leaver; while [ ! -e $DIR/go ]; do sleep 0.05; done; exit 79");
  add_child("echo $$ >> $DIR/others; exec sleep 1000");
  start();
  ASSERT_TRUE(eventually([&] { return ready() && lines_of("leaver") == 1; })) << text_of("said");
  std::ofstream(folder_ + "/go") << "x";
  ASSERT_TRUE(eventually(
      [&] { return text_of("said").find("child 0 has left for good") != std::string::npos; }));
  // The others are looked after as before, and readiness does not wait for who has left.
  kill(std::stoi(text_of("others")), SIGKILL);
  ASSERT_TRUE(eventually([&] { return lines_of("others") == 2; })) << text_of("said");
  ASSERT_TRUE(eventually([&] {
    return text_of("said").find("every child is up again") != std::string::npos;
  })) << text_of("said");
  EXPECT_EQ(lines_of("leaver"), 1u);
  kill(pid_, SIGTERM);
  EXPECT_EQ(wait_for_end(seconds(5)), 0);
  EXPECT_EQ(alive(), 0);
}

TEST_F(SupervisorTest, AfterReadyWhatCannotBeStartedIsTriedAgainAndTheOthersStay) {
  fs::create_symlink("/bin/sh", folder_ + "/shell");
  options_.children.push_back(
      {"first", folder_ + "/first.log", [folder = folder_]() -> std::optional<CommandLine> {
         return CommandLine{{folder + "/shell", "-c", "echo $$ >> $DIR/pids; exec sleep 1000"},
                            {{"DIR", folder}}};
       }});
  add_child("echo $$ >> $DIR/others; exec sleep 1000");
  start();
  ASSERT_TRUE(eventually([&] { return ready() && lines_of("pids") == 1; })) << text_of("said");
  fs::remove(folder_ + "/shell");
  kill(std::stoi(text_of("pids")), SIGKILL);
  ASSERT_TRUE(eventually([&] {
    return text_of("said").find("first: cannot start " + folder_ + "/shell") != std::string::npos;
  })) << text_of("said");
  fs::create_symlink("/bin/sh", folder_ + "/shell");
  ASSERT_TRUE(eventually([&] { return lines_of("pids") == 2; })) << text_of("said");
  EXPECT_EQ(lines_of("others"), 1u);
  EXPECT_TRUE(runs(std::stoi(text_of("others"))));
  kill(pid_, SIGTERM);
  EXPECT_EQ(wait_for_end(seconds(5)), 0);
}

/// A pipe that takes not one byte more.
struct FullPipe {
  FullPipe() {
    EXPECT_EQ(pipe2(ends, O_CLOEXEC), 0);
    fcntl(ends[1], F_SETFL, O_NONBLOCK);
    while (write(ends[1], "x", 1) == 1) {
    }
    fcntl(ends[1], F_SETFL, 0);
  }
  ~FullPipe() {
    close(ends[0]);
    close(ends[1]);
  }
  /// What is in it, without the filling; waits for nothing.
  std::string read_all() const {
    std::string text;
    char buffer[65536];
    for (pollfd item{ends[0], POLLIN, 0}; poll(&item, 1, 0) > 0;) {
      const ssize_t got = read(ends[0], buffer, sizeof buffer);
      if (got <= 0) break;
      text.append(buffer, static_cast<size_t>(got));
    }
    return text.substr(std::min(text.find_first_not_of('x'), text.size()));
  }
  int ends[2];
};

TEST_F(SupervisorTest, APipeThatNobodyReadsStopsNothing) {
  FullPipe pipe;
  LineOutput out(pipe.ends[1]);
  options_.say = [&](const std::string& line) { out.write("said " + line + "\n"); };
  options_.flush = [&] { return out.flush(); };
  add_child("echo $$ >> $DIR/pids; exec sleep 1000");
  start();
  ASSERT_TRUE(eventually([&] { return ready() && lines_of("pids") == 1; }));
  kill(std::stoi(text_of("pids")), SIGKILL);
  ASSERT_TRUE(eventually([&] { return lines_of("pids") == 2; }));
  // Somebody reads again: what was said comes, though nothing new is said.
  std::string seen;
  EXPECT_TRUE(eventually([&] {
    seen += pipe.read_all();
    return seen.find("said child 0 was killed by Killed") != std::string::npos &&
           seen.find("said child 0 started again\n") != std::string::npos;
  })) << seen;
  kill(pid_, SIGTERM);
  EXPECT_EQ(wait_for_end(seconds(5)), 0);
}

TEST(LineOutputTest, KeepsWhatFitsCountsTheRestAndSaysSo) {
  FullPipe pipe;
  LineOutput out(pipe.ends[1]);
  EXPECT_EQ(fcntl(pipe.ends[1], F_GETFL) & O_NONBLOCK, 0) << "the flags are everybody's";
  const std::string line(1023, 'a');
  const size_t fits = LineOutput::kMaxWaitingBytes / (line.size() + 1);
  for (size_t i = 0; i < fits + 3; ++i) out.write(line + "\n");
  EXPECT_FALSE(out.flush());
  std::string seen;
  while (!out.flush()) seen += pipe.read_all();
  seen += pipe.read_all();
  EXPECT_EQ(static_cast<size_t>(std::count(seen.begin(), seen.end(), '\n')), fits + 1);
  EXPECT_NE(seen.find("\ntailor: (3 lines are missing here: they could not be written)\n"),
            std::string::npos);
  out.write("the end\n");
  EXPECT_EQ(pipe.read_all(), "the end\n");
}

TEST(LineOutputTest, AFullDiskLosesLinesAndNothingElse) {
  const int full = open("/dev/full", O_WRONLY | O_CLOEXEC);
  ASSERT_GE(full, 0);
  LineOutput out(full);
  out.write("one\n");
  EXPECT_TRUE(out.flush()) << "nothing waits for a disk";
  close(full);
}

TEST_F(SupervisorTest, LogLinesThatAFullDiskTookAreSaidOnceAndNotedInTheLog) {
  add_child("echo one; echo two; echo three; exec sleep 1000");
  const std::string log = options_.children[0].log_file;
  fs::create_symlink("/dev/full", log);
  start();
  ASSERT_TRUE(eventually([&] { return ready() && lines_of("said") == 1; })) << text_of("said");
  EXPECT_NE(text_of("said").find("log lines are lost: cannot write " + log +
                                 " (No space left on device)"),
            std::string::npos)
      << text_of("said");
  fs::remove(log);
  // The supervisor opens its logs anew with each start of a child.
  for (const auto& entry : fs::directory_iterator("/proc")) {
    const pid_t pid = std::atoi(entry.path().filename().c_str());
    if (pid > 0 && mark_of(pid) == options_.mark + "/0") kill(pid, SIGKILL);
  }
  ASSERT_TRUE(eventually([&] { return lines_of("child 0.log") == 4; })) << text_of("child 0.log");
  EXPECT_EQ(text_of("child 0.log"),
            "(3 lines are missing here: No space left on device)\none\ntwo\nthree\n");
  kill(pid_, SIGTERM);
  EXPECT_EQ(wait_for_end(seconds(5)), 0);
  EXPECT_EQ(text_of("said").find("are missing at the end"), std::string::npos) << text_of("said");
}

TEST(ImportantLines, AreWarningsAndErrorsInOurFormat) {
  EXPECT_TRUE(is_important("2026-01-31 12:00:00.123 warning [replica 0 rank 1] text"));
  EXPECT_TRUE(is_important("2026-01-31 12:00:00.123 error [coordinator] text"));
  EXPECT_FALSE(is_important("2026-01-31 12:00:00.123 info [coordinator] an error"));
  EXPECT_FALSE(is_important("error"));
  EXPECT_FALSE(is_important(""));
}

}  // namespace
}  // namespace tailor::launch
