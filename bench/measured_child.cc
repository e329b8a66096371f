#include "bench/measured_child.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <sstream>
#include <vector>

#include "base/clock.h"

namespace tailor::bench {
namespace {

/// Reads `fd` to its end; false when `until` came first.
bool read_all(int fd, Time until, std::string& output) {
  char buffer[4096];
  while (true) {
    const ssize_t got = read(fd, buffer, sizeof buffer);
    if (got > 0) {
      output.append(buffer, static_cast<size_t>(got));
    } else if (got == 0 || (errno != EAGAIN && errno != EINTR)) {
      return true;
    } else {
      const auto left = duration_cast<milliseconds>(until - now()).count();
      if (left <= 0) return false;
      pollfd ready{fd, POLLIN, 0};
      poll(&ready, 1, static_cast<int>(std::min<int64_t>(left, 1000)));
    }
  }
}

}  // namespace

Result<std::string> run_to_end(const CommandLine& command, Duration timeout) {
  TAILOR_ASSIGN(const Spawned child, spawn(command));
  std::string output;
  const bool ended = read_all(child.output, now() + timeout, output);
  if (!ended) kill(child.pid, SIGKILL);
  close(child.output);
  int status = 0;
  waitpid(child.pid, &status, 0);
  const std::string& program = command.argv.front();
  if (!ended)
    return fail(ErrorCode::kTimeout,
                program + " was not done after " + std::to_string(to_seconds(timeout)) + " s");
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
    return fail(ErrorCode::kInternal, program + " failed; its last line was: " + last_line(output));
  return output;
}

Result<void> Companion::start(std::vector<std::string> args, const std::string& log) {
  std::vector<char*> argv;
  for (auto& arg : args) argv.push_back(arg.data());
  argv.push_back(nullptr);
  const int output =
      log.empty() ? -1 : open(log.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  if (!log.empty() && output < 0) return fail(ErrorCode::kInternal, "cannot write " + log);
  const pid_t parent = getpid();
  pid_ = fork();
  if (pid_ == 0) {  // system calls only
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != parent) _exit(127);
    if (output >= 0) {
      dup2(output, STDOUT_FILENO);
      dup2(output, STDERR_FILENO);
    }
    execv(argv[0], argv.data());
    _exit(127);
  }
  if (output >= 0) close(output);
  if (pid_ < 0) return fail(ErrorCode::kInternal, "could not start " + args[0]);
  return {};
}

bool Companion::ended() {
  if (pid_ < 0) return true;
  if (waitpid(pid_, nullptr, WNOHANG) != pid_) return false;
  pid_ = -1;
  return true;
}

void Companion::stop() {
  if (pid_ < 0) return;
  kill(pid_, SIGTERM);
  for (const Time give_up = now() + seconds(20); now() < give_up; poll(nullptr, 0, 20)) {
    if (ended()) return;
  }
  kill(pid_, SIGKILL);
  waitpid(pid_, nullptr, 0);
  pid_ = -1;
}

std::string last_line(const std::string& text) {
  std::istringstream lines(text);
  std::string last = "no output";
  for (std::string line; std::getline(lines, line);) {
    if (line.find_first_not_of(" \t\r") != std::string::npos) last = line;
  }
  return last;
}

}  // namespace tailor::bench
