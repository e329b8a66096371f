#include "base/child_process.h"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>

#include "base/clock.h"

namespace tailor {
namespace {

std::string shell_quoted(const std::string& word) {
  constexpr const char* kPlain =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./:=,+@%";
  if (!word.empty() && word.find_first_not_of(kPlain) == std::string::npos) return word;
  std::string out = "'";
  for (char c : word) out += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return out + "'";
}

std::vector<std::string> merged_environment(const CommandLine& command) {
  const auto left_out = [&](const std::string& name) {
    return std::any_of(command.env_without.begin(), command.env_without.end(),
                       [&](const std::string& prefix) { return name.rfind(prefix, 0) == 0; });
  };
  std::map<std::string, std::string> all;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const char* equals = std::strchr(*entry, '=');
    if (equals == nullptr) continue;
    const std::string name(*entry, equals - *entry);
    if (!left_out(name)) all[name] = equals + 1;
  }
  for (const auto& [name, value] : command.env) all[name] = value;
  std::vector<std::string> lines;
  for (const auto& [name, value] : all) lines.push_back(name + "=" + value);
  return lines;
}

std::vector<char*> pointers(std::vector<std::string>& strings) {
  std::vector<char*> out;
  for (std::string& text : strings) out.push_back(text.data());
  out.push_back(nullptr);
  return out;
}

/// In the child, between fork and exec: system calls only.
[[noreturn]] void become(pid_t parent, int output, int failure, char* const* argv,
                         char* const* env) {
  for (int number = 1; number < NSIG; ++number) signal(number, SIG_DFL);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  setsid();
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  if (getppid() != parent) _exit(127);
  const int null = open("/dev/null", O_RDONLY);
  dup2(null, STDIN_FILENO);
  dup2(output, STDOUT_FILENO);
  dup2(output, STDERR_FILENO);
  execvpe(argv[0], argv, env);
  const int reason = errno;
  [[maybe_unused]] const ssize_t written = write(failure, &reason, sizeof reason);
  _exit(127);
}

}  // namespace

std::string to_shell(const CommandLine& command) {
  std::string out;
  for (const auto& [name, value] : command.env) out += name + "=" + shell_quoted(value) + " ";
  for (size_t i = 0; i < command.argv.size(); ++i) {
    if (i > 0) out += " ";
    out += shell_quoted(command.argv[i]);
  }
  return out;
}

Result<Spawned> spawn(const CommandLine& command) {
  std::vector<std::string> argv = command.argv;
  std::vector<std::string> env = merged_environment(command);
  const std::vector<char*> argv_pointers = pointers(argv);
  const std::vector<char*> env_pointers = pointers(env);
  int output[2], failure[2];
  if (pipe2(output, O_CLOEXEC) != 0) {
    return fail(ErrorCode::kInternal, std::string("pipe: ") + std::strerror(errno));
  }
  if (pipe2(failure, O_CLOEXEC) != 0) {
    close(output[0]);
    close(output[1]);
    return fail(ErrorCode::kInternal, std::string("pipe: ") + std::strerror(errno));
  }
  const pid_t parent = getpid();
  const pid_t pid = fork();
  if (pid == 0) become(parent, output[1], failure[1], argv_pointers.data(), env_pointers.data());
  const int fork_error = errno;
  close(output[1]);
  close(failure[1]);
  int reason = 0;
  if (pid < 0) {
    reason = fork_error;
  } else {
    while (read(failure[0], &reason, sizeof reason) < 0 && errno == EINTR) {
    }
  }
  close(failure[0]);
  if (reason != 0) {
    close(output[0]);
    return fail(ErrorCode::kNotFound,
                "cannot start " + argv[0] + ": " + std::string(std::strerror(reason)));
  }
  fcntl(output[0], F_SETFL, O_NONBLOCK);
  return Spawned{pid, output[0]};
}

std::string mark_of(pid_t pid) {
  const std::string name = std::string(kMarkVariable) + "=";
  std::ifstream file("/proc/" + std::to_string(pid) + "/environ", std::ios::binary);
  for (std::string variable; std::getline(file, variable, '\0');)
    if (variable.rfind(name, 0) == 0) return variable.substr(name.size());
  return {};
}

std::optional<Heard> ask(const CommandLine& line, Duration limit) {
  Result<Spawned> child = spawn(line);
  if (!child) return std::nullopt;
  Heard heard;
  const Time until = now() + limit;
  char buffer[4096];
  while (now() < until) {
    pollfd item{child->output, POLLIN, 0};
    poll(&item, 1, 100);
    const ssize_t got = read(child->output, buffer, sizeof buffer);
    if (got == 0) break;
    if (got > 0 && heard.output.size() < (1 << 20))
      heard.output.append(buffer, static_cast<size_t>(got));
  }
  close(child->output);
  kill(-child->pid,
       SIGKILL);  // it has closed its output or overstayed; an exited one keeps its code
  int status = 0;
  while (waitpid(child->pid, &status, 0) < 0 && errno == EINTR) {
  }
  if (WIFEXITED(status)) heard.exit_code = WEXITSTATUS(status);
  return heard;
}

int signal_marked(const std::string& mark, int signal) {
  int found = 0;
  DIR* folder = opendir("/proc");
  if (folder == nullptr) return 0;
  while (const dirent* entry = readdir(folder)) {
    char* end = nullptr;
    const long pid = std::strtol(entry->d_name, &end, 10);
    if (pid <= 1 || *end != '\0' || pid == getpid()) continue;
    const std::string its = mark_of(static_cast<pid_t>(pid));
    if (its != mark && its.rfind(mark + "/", 0) != 0) continue;
    ++found;
    if (signal != 0) kill(static_cast<pid_t>(pid), signal);
  }
  closedir(folder);
  return found;
}

void end_marked(const std::string& mark, int grace_ms) {
  constexpr int kTickMs = 20;
  if (signal_marked(mark, SIGTERM) == 0) return;
  for (int waited = 0; waited < grace_ms; waited += kTickMs) {
    poll(nullptr, 0, kTickMs);
    if (signal_marked(mark, 0) == 0) return;
  }
  for (int waited = 0; waited < 2000; waited += kTickMs) {
    if (signal_marked(mark, SIGKILL) == 0) return;
    poll(nullptr, 0, kTickMs);
  }
}

}  // namespace tailor
