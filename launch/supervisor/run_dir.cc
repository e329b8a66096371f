#include "launch/supervisor/run_dir.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "base/endpoint.h"
#include "base/hex.h"
#include "base/json_text.h"

namespace tailor::launch {
namespace {

namespace fs = std::filesystem;
constexpr size_t kKeptDeadRuns = 5;

std::string user_name() { return "tailor-" + std::to_string(getuid()); }

Result<void> make_private_folder(const std::string& path) {
  std::error_code error;
  fs::create_directories(fs::path(path).parent_path(), error);
  if (mkdir(path.c_str(), 0700) != 0 && errno != EEXIST) {
    return fail(ErrorCode::kUnavailable, "cannot create " + path + ": " + std::strerror(errno));
  }
  struct stat info;
  if (lstat(path.c_str(), &info) != 0 || !S_ISDIR(info.st_mode) || info.st_uid != getuid()) {
    return fail(ErrorCode::kUnavailable,
                path + " is not a folder of ours; choose another with --run-dir");
  }
  return {};
}

/// -1 when somebody holds it.
int take_lock(const std::string& folder) {
  const int fd = open((folder + "/lock").c_str(), O_CREAT | O_RDWR | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) == 0) return fd;
  if (fd >= 0) close(fd);
  return -1;
}

/// 64 hexadecimal digits that only this user reads, never on a command line or in an environment.
Result<void> write_link_key(const std::string& path) {
  std::array<unsigned char, 32> secret;
  if (getentropy(secret.data(), secret.size()) != 0)
    return fail(ErrorCode::kUnavailable, "the system gives no random bytes");
  const std::string digits = to_hex(secret) + "\n";
  const int fd = open(path.c_str(), O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC | O_NOFOLLOW, 0600);
  const ssize_t got = fd >= 0 ? write(fd, digits.data(), digits.size()) : -1;
  const bool written = got == static_cast<ssize_t>(digits.size());
  const int reason = got < 0 ? errno : ENOSPC;  // the disk took a part of it
  if (fd >= 0) close(fd);
  if (written) return {};
  return fail(ErrorCode::kUnavailable, "cannot write " + path + ": " + std::strerror(reason));
}

bool is_dead(const fs::path& run) {
  std::error_code error;
  const auto age = fs::file_time_type::clock::now() - fs::last_write_time(run, error);
  if (error || age < std::chrono::seconds(10)) return false;  // perhaps just being made
  const int fd = take_lock(run.string());
  if (fd < 0) return false;
  close(fd);
  return true;
}

std::string shared_for(const std::string& tag) {
  if (access("/dev/shm", W_OK | X_OK) == 0) return "/dev/shm/" + user_name() + "-" + tag;
  return "";
}

}  // namespace

std::vector<std::string> RunDir::private_paths(int replicas) const {
  std::vector<std::string> paths = {mpi,    shared,   link_key(), coordinator_json(),
                                    lost(), orders(), drained(),  path + "/ready"};
  for (int i = 0; i < replicas; ++i) paths.push_back(progress(i));
  return paths;
}

std::string run_root() {
  const char* runtime = std::getenv("XDG_RUNTIME_DIR");
  const bool usable = runtime != nullptr && *runtime == '/' && access(runtime, W_OK | X_OK) == 0;
  return std::string(usable ? runtime : "/tmp") + "/" + user_name();
}

RunDir plan_run_dir(const std::string& path, const std::string& log_dir, int pid) {
  RunDir plan;
  plan.path = path.empty() ? run_root() + "/" + std::to_string(pid)
                           : fs::absolute(path).lexically_normal().string();
  plan.logs = log_dir.empty() ? plan.path + "/logs" : fs::absolute(log_dir).string();
  plan.mpi = plan.path + "/mpi";
  plan.shared = shared_for(std::to_string(pid));
  if (plan.shared.empty()) plan.shared = plan.path + "/shared";
  return plan;
}

std::optional<Addresses> read_addresses(const RunDir& run) {
  std::ifstream file(run.coordinator_json());
  if (!file) return std::nullopt;
  const auto addresses = parse_json(std::string(std::istreambuf_iterator<char>(file), {}));
  if (!addresses || !addresses->is_object() || !addresses->contains("control_endpoint"))
    return std::nullopt;
  return Addresses{addresses->value("api_endpoint", ""), addresses->value("control_endpoint", "")};
}

std::vector<RunDir> run_dirs_at(const std::string& endpoint) {
  std::vector<RunDir> found;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(run_root(), error)) {
    RunDir run;
    run.path = entry.path().string();
    const auto addresses = read_addresses(run);
    if (addresses && local_address(addresses->api_endpoint) == local_address(endpoint))
      found.push_back(std::move(run));
  }
  return found;
}

namespace {

/// The folders and files of one run, but its logs.
void remove_private(const RunDir& plan) {
  for (const std::string& path : plan.private_paths(0)) {
    std::error_code ignored;
    fs::remove_all(path, ignored);
  }
}

Result<void> fill(const RunDir& plan) {
  TAILOR_TRY(make_private_folder(plan.mpi));
  TAILOR_TRY(make_private_folder(plan.shared));
  TAILOR_TRY(write_link_key(plan.link_key()));
  std::error_code error;
  fs::create_directories(plan.logs, error);
  if (error)
    return fail(ErrorCode::kUnavailable, "cannot create " + plan.logs + ": " + error.message());
  return {};
}

}  // namespace

Result<void> create_run_dir(RunDir& plan) {
  if (plan.path.rfind(run_root() + "/", 0) == 0) TAILOR_TRY(make_private_folder(run_root()));
  TAILOR_TRY(make_private_folder(plan.path));
  plan.lock = take_lock(plan.path);
  if (plan.lock < 0) {
    return fail(ErrorCode::kUnavailable,
                plan.path + " is used by another running cluster; choose another with --run-dir");
  }
  remove_private(plan);  // of a dead predecessor
  auto filled = fill(plan);
  if (!filled) remove_private(plan);  // nothing half is left
  return filled;
}

void sweep_dead_runs(const std::string& root, const std::string& shm_root) {
  std::vector<fs::path> dead;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(root, error)) {
    const std::string name = entry.path().filename();
    if (name.find_first_not_of("0123456789") != std::string::npos || !is_dead(entry.path()))
      continue;
    dead.push_back(entry.path());
    fs::remove_all(shm_root + "/" + user_name() + "-" + name, error);
    fs::remove_all(entry.path() / "mpi", error);
    fs::remove_all(entry.path() / "shared", error);
    fs::remove(entry.path() / "link.key", error);
  }
  std::sort(dead.begin(), dead.end(), [](const fs::path& a, const fs::path& b) {
    std::error_code ignored;
    return fs::last_write_time(a, ignored) > fs::last_write_time(b, ignored);
  });
  for (size_t i = kKeptDeadRuns; i < dead.size(); ++i) fs::remove_all(dead[i], error);
}

}  // namespace tailor::launch
