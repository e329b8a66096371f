#include "launch/supervisor/warden.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>

#include "base/child_process.h"

namespace tailor::launch {
namespace {

constexpr int kGraceMs = 2000;

[[noreturn]] void watch(int pipe, const std::string& mark, const std::vector<std::string>& paths) {
  setsid();
  prctl(PR_SET_NAME, "tailor-warden");
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  for (int number : {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGPIPE}) signal(number, SIG_IGN);
  signal(SIGCHLD, SIG_DFL);
  // Hold nothing of the supervisor's: neither its terminal, nor its pipes, nor its lock.
  const int null = open("/dev/null", O_RDWR);
  for (int fd = 0; fd <= 2; ++fd) dup2(null, fd);
  dup2(pipe, 3);
  close_range(4, ~0u, 0);
  char byte;
  while (true) {
    const ssize_t got = read(3, &byte, 1);
    if (got == 0 || (got < 0 && errno != EINTR)) break;
  }
  end_marked(mark, kGraceMs);
  launch::sweep(paths);
  _exit(0);
}

}  // namespace

void sweep(const std::vector<std::string>& paths) {
  for (const std::string& path : paths) {
    std::error_code ignored;
    std::filesystem::remove_all(path, ignored);
  }
}

Result<Warden> Warden::start(const std::string& mark, const std::vector<std::string>& sweep) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) {
    return fail(ErrorCode::kInternal, std::string("pipe: ") + std::strerror(errno));
  }
  const pid_t pid = fork();
  if (pid < 0) {
    close(ends[0]);
    close(ends[1]);
    return fail(ErrorCode::kInternal, std::string("fork: ") + std::strerror(errno));
  }
  if (pid == 0) {
    close(ends[1]);
    watch(ends[0], mark, sweep);
  }
  close(ends[0]);
  return Warden(pid, ends[1]);
}

Warden::~Warden() {
  if (pipe_ >= 0) close(pipe_);
  if (pid_ > 0) {
    while (waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) {
    }
  }
}

}  // namespace tailor::launch
