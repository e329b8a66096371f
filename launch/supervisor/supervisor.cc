#include "launch/supervisor/supervisor.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <asio.hpp>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <deque>
#include <filesystem>

#include "base/numbers.h"
#include "launch/supervisor/warden.h"

namespace tailor::launch {
namespace {

constexpr off_t kMaxLogBytes = 64 << 20;
constexpr size_t kTailLines = 48;  // mpirun alone says a dozen
constexpr size_t kMaxLineBytes = 4096;
constexpr int kForwardedPerSecond = 10;
constexpr Duration kTick = milliseconds(100);
constexpr Duration kFlushEvery = milliseconds(200);
constexpr size_t kMaxLostLineBytes = 32;  // a process id and its end

std::string describe_exit(int status) {
  if (WIFSIGNALED(status)) return std::string("was killed by ") + strsignal(WTERMSIG(status));
  return "exited with code " + std::to_string(WEXITSTATUS(status));
}

/// An empty folder, for our eyes only.
void make_empty(const std::string& folder) {
  std::error_code ignored;
  std::filesystem::remove_all(folder, ignored);
  std::filesystem::create_directories(folder, ignored);
  std::filesystem::permissions(folder, std::filesystem::perms::owner_all, ignored);
}

std::string in_seconds(Duration duration) {
  char text[32];
  std::snprintf(text, sizeof text, "%.1f s", to_seconds(duration));
  return text;
}

/// Our log lines begin with date and time; a terminal sees them happen.
std::string without_time(const std::string& line) {
  const size_t date = line.find(' ');
  const size_t time = date == std::string::npos ? date : line.find(' ', date + 1);
  return time == std::string::npos ? line : line.substr(time + 1);
}

/// A child's output: appended to its log file, its last lines kept for the day it dies.
class Output {
 public:
  Output(asio::io_context& io, std::string path, std::function<void(const std::string&)> forward)
      : stream_(io), path_(std::move(path)), forward_(std::move(forward)) {}
  ~Output() {
    if (log_ >= 0) ::close(log_);
  }

  void attach(int fd) {
    tail_.clear();
    partial_.clear();
    asio::error_code ignored;
    stream_.close(ignored);
    stream_.assign(fd, ignored);
    open_log();
    read();
  }

  /// Reads what is left, at most a pipe's worth: call when the child has ended.
  void drain() {
    if (!stream_.is_open()) return;
    for (int i = 0; i < 64; ++i) {
      const ssize_t got = ::read(stream_.native_handle(), buffer_, sizeof buffer_);
      if (got <= 0) break;
      take(static_cast<size_t>(got));
    }
    if (!partial_.empty()) take_line(std::exchange(partial_, {}));
    asio::error_code ignored;
    stream_.close(ignored);
  }

  /// At the end: whether the log is whole.
  void say_what_is_missing() const {
    if (lost_lines_ > 0)
      forward_(std::to_string(lost_lines_) + " lines are missing at the end of " + path_ + " (" +
               std::strerror(lost_reason_) + ")");
  }

  const std::deque<std::string>& tail() const { return tail_; }
  const std::string& path() const { return path_; }

 private:
  void read() {
    stream_.async_read_some(asio::buffer(buffer_), [this](asio::error_code error, size_t got) {
      if (error) return;
      take(got);
      read();
    });
  }

  void take(size_t got) {
    write_log(buffer_, got);
    for (size_t i = 0; i < got; ++i) {
      if (buffer_[i] == '\n') {
        take_line(std::exchange(partial_, {}));
      } else if (partial_.size() < kMaxLineBytes) {
        partial_ += buffer_[i];
      }
    }
  }

  void take_line(std::string line) {
    if (is_important(line)) forward_limited(without_time(line));
    tail_.push_back(std::move(line));
    if (tail_.size() > kTailLines) tail_.pop_front();
  }

  void forward_limited(const std::string& line) {
    const auto second = std::chrono::steady_clock::now();
    if (second - window_ > std::chrono::seconds(1)) {
      if (held_back_ > 0)
        forward_("(" + std::to_string(held_back_) + " more such lines are in " + path_ + ")");
      window_ = second;
      forwarded_ = held_back_ = 0;
    }
    if (forwarded_++ < kForwardedPerSecond) {
      forward_(line);
    } else {
      ++held_back_;
    }
  }

  void open_log() {
    if (log_ >= 0) ::close(log_);
    log_ = ::open(path_.c_str(), O_CREAT | O_APPEND | O_WRONLY | O_CLOEXEC, 0600);
    struct stat info;
    log_bytes_ = log_ >= 0 && fstat(log_, &info) == 0 ? info.st_size : 0;
  }

  /// A full disk must not stop the cluster: what cannot be written is counted, said once, and noted
  /// in the log as soon as there is room again.
  void write_log(const char* data, size_t size) {
    if (log_bytes_ > kMaxLogBytes) {
      std::error_code ignored;
      std::filesystem::rename(path_, path_ + ".1", ignored);
      open_log();
    }
    if (log_ < 0) open_log();
    if (log_ < 0) return lose(data, size);
    if (lost_lines_ > 0) {
      const std::string note = "(" + std::to_string(lost_lines_) +
                               " lines are missing here: " + std::strerror(lost_reason_) + ")\n";
      if (::write(log_, note.data(), note.size()) != static_cast<ssize_t>(note.size()))
        return lose(data, size);
      lost_lines_ = 0;
    }
    log_bytes_ += static_cast<off_t>(size);
    while (size > 0) {
      const ssize_t written = ::write(log_, data, size);
      if (written < 0 && errno == EINTR) continue;
      if (written <= 0) return lose(data, size);
      data += written;
      size -= static_cast<size_t>(written);
    }
  }

  void lose(const char* data, size_t size) {
    lost_reason_ = errno;
    lost_lines_ += static_cast<size_t>(std::count(data, data + size, '\n'));
    if (!std::exchange(loss_told_, true))
      forward_("log lines are lost: cannot write " + path_ + " (" + std::strerror(lost_reason_) +
               ")");
  }

  asio::posix::stream_descriptor stream_;
  const std::string path_;
  const std::function<void(const std::string&)> forward_;
  char buffer_[8192];
  std::string partial_;
  std::deque<std::string> tail_;
  int log_ = -1;
  off_t log_bytes_ = 0;
  size_t lost_lines_ = 0;
  int lost_reason_ = 0;
  bool loss_told_ = false;
  std::chrono::steady_clock::time_point window_{};
  int forwarded_ = 0, held_back_ = 0;
};

class Supervisor {
 public:
  explicit Supervisor(const SupervisorOptions& options)
      : options_(options),
        signals_(io_),
        child_exits_(io_, SIGCHLD),
        warden_timer_(io_),
        lost_(io_),
        tick_(io_),
        flush_timer_(io_),
        probe_timer_(io_) {
    for (size_t i = 0; i < options_.children.size(); ++i) {
      children_.push_back(std::make_unique<Child>(*this, i));
    }
  }

  int run() {
    if (!start_warden()) return 1;
    const auto file_too_large = signal(SIGXFSZ, SIG_IGN);  // one more full disk
    prctl(PR_SET_CHILD_SUBREAPER, 1);  // ranks whose mpirun was killed come to us, not to init
    wait_for_signals();
    wait_for_child_exits();
    if (!options_.lost.empty()) open_lost();
    wait_for_tick();
    for (auto& child : children_) start(*child);
    probe_soon();
    io_.run();
    end_marked(options_.mark, 0);
    for (auto& child : children_) {
      child->output.drain();
      child->output.say_what_is_missing();
    }
    while (waitpid(-1, nullptr, WNOHANG) > 0) {
    }
    warden_.reset();        // sweeps
    sweep(options_.sweep);  // the warden may have been killed at the last moment
    signal(SIGXFSZ, file_too_large);
    return exit_code_;
  }

 private:
  using Timer = asio::steady_timer;
  struct Child {
    Child(Supervisor& owner, size_t number)
        : spec(owner.options_.children[number]),
          mark(owner.options_.mark + "/" + std::to_string(number)),
          output(owner.io_, spec.log_file, [&owner](const std::string& line) { owner.say(line); }),
          timer(owner.io_),
          backoff(owner.options_.backoff_first) {}
    const ChildSpec& spec;
    const std::string mark;
    Output output;
    Timer timer;
    Duration backoff;
    pid_t pid = 0;  // 0 = not running
    int starts = 0;
    int start_failures = 0;
    bool left = false;  // for good
    std::chrono::steady_clock::time_point started;
  };

  void say(const std::string& line) {
    if (options_.say) options_.say(line);
    flush_soon();
  }

  /// As long as something waits to be printed, and no longer.
  void flush_soon() {
    if (flushing_ || !options_.flush || options_.flush()) return;
    flushing_ = true;
    after(flush_timer_, kFlushEvery, [this] {
      flushing_ = false;
      flush_soon();
    });
  }

  bool start_warden() {
    Result<Warden> warden = Warden::start(options_.mark, options_.sweep);
    if (warden) {
      warden_.emplace(std::move(*warden));
    } else if (!missing_told_) {
      say("the warden cannot be started: " + warden.error().message);
    }
    missing_told_ = !warden;
    return !missing_told_;
  }

  /// Asks until there is one: without it we leave everything behind when we are killed.
  void replace_warden() {
    warden_.reset();
    if (!start_warden()) after(warden_timer_, options_.backoff_first, [this] { replace_warden(); });
  }

  // ---- starting and restarting ----

  void start(Child& child) {
    if (stopping_) return;
    std::optional<CommandLine> command = child.spec.command();
    if (!command) {
      after(child.timer, milliseconds(50), [this, &child] { start(child); });
      return;
    }
    for (const std::string& folder : child.spec.scratch) make_empty(folder);
    command->env.emplace_back(kMarkVariable, child.mark);
    Result<Spawned> spawned = spawn(*command);
    if (!spawned) {
      const std::string why = child.spec.name + ": " + spawned.error().message;
      if (child.spec.optional || ever_ready_) return start_later(child, why);
      give_up(why);
      return;
    }
    child.pid = spawned->pid;
    child.started = std::chrono::steady_clock::now();
    child.output.attach(spawned->output);
    if (child.starts++ > 0) say(child.spec.name + " started again");
  }

  void ended(Child& child, int status) {
    child.pid = 0;
    // mpirun may have died before its ranks: the next incarnation must not meet the last one.
    signal_marked(child.mark, SIGKILL);
    child.output.drain();
    if (stopping_) {
      stop_if_all_ended();
      return;
    }
    if (WIFEXITED(status) && lists(options_.farewell_codes, WEXITSTATUS(status))) {
      child.left = true;
      return say(child.spec.name + " has left for good (log: " + child.output.path() + ")");
    }
    if (!ever_ready_ && !child.spec.optional &&
        (is_permanent(status) || ++child.start_failures >= options_.max_start_failures)) {
      give_up(failure_text(child, status));
      return;
    }
    if (std::chrono::steady_clock::now() - child.started >= options_.healthy_after) {
      child.backoff = options_.backoff_first;
    }
    start_later(child,
                child.spec.name + " " + describe_exit(status) + last_sentence(child, status));
    if (ready_ && !child.spec.optional) {
      ready_ = false;
      probe_soon();
    }
  }

  void start_later(Child& child, const std::string& why) {
    say(why + "; starting it again in " + in_seconds(child.backoff) +
        " (log: " + child.output.path() + ")");
    after(child.timer, child.backoff, [this, &child] { start(child); });
    child.backoff = std::min(child.backoff * 2, options_.backoff_max);
  }

  static bool lists(const std::vector<int>& codes, int code) {
    return std::find(codes.begin(), codes.end(), code) != codes.end();
  }

  /// mpirun reports a rank killed by signal S as code 128 + S.
  bool is_permanent(int status) const {
    if (!WIFEXITED(status)) return false;
    const int code = WEXITSTATUS(status);
    return code != 0 && code < 128 && !lists(options_.passing_codes, code);
  }

  /// " (PROGRAM: why)", where the child said why it ended; what it logged has been forwarded.
  static std::string last_sentence(const Child& child, int status) {
    if (!WIFEXITED(status)) return "";
    const auto& tail = child.output.tail();
    const auto said = std::find_if(tail.rbegin(), tail.rend(), [](const std::string& line) {
      return line.rfind("tailor-", 0) == 0;
    });
    return said == tail.rend() ? "" : " (" + *said + ")";
  }

  /// What the child said of its end; where it said nothing itself, all that was printed (by
  /// mpirun).
  static std::string failure_text(const Child& child, int status) {
    const auto is_own = [](const std::string& line) {
      return is_important(line) || line.rfind("tailor-", 0) == 0;
    };
    const auto& tail = child.output.tail();
    const bool any_own = std::any_of(tail.begin(), tail.end(), is_own);
    std::string text = child.spec.name + " " + describe_exit(status) + ":";
    for (const std::string& line : tail) {
      if (line.empty() || (any_own && !is_own(line))) continue;
      text += "\n  " + (is_important(line) ? without_time(line) : line);
    }
    return text + "\n  (log: " + child.output.path() + ")";
  }

  void give_up(const std::string& reason) {
    say(reason);
    exit_code_ = 1;
    stop();
  }

  // ---- lost though not ended ----

  void open_lost() {
    ::unlink(options_.lost.c_str());
    // Open for writing too: without a writer it would be at its end.
    const int fd = ::mkfifo(options_.lost.c_str(), 0600) == 0
                       ? ::open(options_.lost.c_str(), O_RDWR | O_NONBLOCK | O_CLOEXEC)
                       : -1;
    if (fd < 0) return say("cannot make " + options_.lost + ": " + std::strerror(errno));
    asio::error_code ignored;
    lost_.assign(fd, ignored);
    read_lost();
  }

  void read_lost() {
    lost_.async_read_some(asio::buffer(lost_buffer_), [this](asio::error_code error, size_t got) {
      if (error) return;
      for (size_t i = 0; i < got; ++i) {
        if (lost_buffer_[i] == '\n') {
          end_lost(parse_number<pid_t>(std::exchange(lost_line_, {})).value_or(0));
        } else if (lost_line_.size() < kMaxLostLineBytes) {
          lost_line_ += lost_buffer_[i];
        }
      }
      read_lost();
    });
  }

  void end_lost(pid_t pid) {
    const std::string mark = pid > 0 ? mark_of(pid) : "";
    for (auto& child : children_) {
      if (stopping_ || child->pid == 0 || child->mark != mark) continue;
      say(child->spec.name + " is lost (process " + std::to_string(pid) + "): killed");
      signal_marked(mark, SIGKILL);
    }
  }

  // ---- readiness ----

  void probe_soon() {
    after(probe_timer_, options_.probe_every, [this] { probe(); });
  }

  void probe() {
    if (stopping_ || ready_ || probe_pid_ != 0) return;
    const bool all_run = std::all_of(children_.begin(), children_.end(), [](const auto& child) {
      return child->pid != 0 || child->spec.optional || child->left;
    });
    if (!all_run) return probe_soon();
    if (!options_.probe) return now_ready();
    std::optional<CommandLine> command = options_.probe();
    if (!command) return probe_soon();
    command->env.emplace_back(kMarkVariable, options_.mark + "/probe");
    Result<Spawned> spawned = spawn(*command);
    if (!spawned) {
      if (!ever_ready_) return give_up(spawned.error().message);
      return probe_soon();
    }
    ::close(spawned->output);
    probe_pid_ = spawned->pid;
  }

  void now_ready() {
    ready_ = true;
    if (ever_ready_) {
      say("every child is up again");
      return;
    }
    ever_ready_ = true;
    tick_.cancel();
    if (options_.on_ready) options_.on_ready();
    flush_soon();
  }

  void wait_for_tick() {
    after(tick_, kTick, [this] {
      if (ever_ready_ || stopping_) return;
      if (options_.on_tick) options_.on_tick();
      flush_soon();
      wait_for_tick();
    });
  }

  // ---- signals and exits ----

  void wait_for_signals() {
    signals_.add(SIGINT);  // also where a script started us in the background, which ignores it
    signals_.add(SIGTERM);
    struct sigaction before;
    sigaction(SIGHUP, nullptr, &before);
    if (before.sa_handler != SIG_IGN) signals_.add(SIGHUP);  // nohup stays nohup
    wait_for_next_signal();
  }

  void wait_for_next_signal() {
    signals_.async_wait([this](asio::error_code error, int number) {
      if (error) return;
      if (stopping_) {
        signal_marked(options_.mark, SIGKILL);  // asked twice
      } else {
        say(std::string("stopping (") + strsignal(number) + ")");
        stop();
      }
      if (!finished_) wait_for_next_signal();
    });
  }

  void wait_for_child_exits() {
    child_exits_.async_wait([this](asio::error_code error, int) {
      if (error) return;
      collect_exits();
      if (!finished_) wait_for_child_exits();
    });
  }

  void collect_exits() {
    int status = 0;
    for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;) {
      if (pid == probe_pid_) {
        probe_ended(status);
      } else if (warden_ && pid == warden_->pid()) {
        warden_->forget();
        if (!finished_) replace_warden();
      } else {
        for (auto& child : children_) {
          if (child->pid == pid) ended(*child, status);
        }
      }
    }
  }

  void probe_ended(int status) {
    probe_pid_ = 0;
    if (stopping_) {
      stop_if_all_ended();
    } else if (WIFEXITED(status) && WEXITSTATUS(status) == 0) {
      now_ready();
    } else {
      probe_soon();
    }
  }

  // ---- the end ----

  void stop() {
    if (stopping_) return;
    stopping_ = std::chrono::steady_clock::now();
    tick_.cancel();
    probe_timer_.cancel();
    for (auto& child : children_) {
      child->timer.cancel();
      if (child->pid != 0) kill(-child->pid, SIGTERM);
    }
    if (probe_pid_ != 0) kill(probe_pid_, SIGKILL);
    after(tick_, options_.stop_grace, [this] { kill_rest(); });
    stop_if_all_ended();
  }

  void kill_rest() {
    if (finished_) return;
    signal_marked(options_.mark, SIGKILL);
    after(tick_, kTick, [this] { kill_rest(); });
  }

  void stop_if_all_ended() {
    for (const auto& child : children_) {
      if (child->pid != 0) return;
    }
    if (probe_pid_ != 0) return;
    finished_ = true;
    asio::error_code ignored;
    signals_.cancel(ignored);
    child_exits_.cancel(ignored);
    tick_.cancel();
    io_.stop();
  }

  template <class Callback>
  void after(Timer& timer, Duration delay, Callback callback) {
    timer.expires_after(delay);
    timer.async_wait([callback = std::move(callback)](asio::error_code error) {
      if (!error) callback();
    });
  }

  const SupervisorOptions& options_;
  asio::io_context io_{1};
  std::optional<Warden> warden_;
  asio::signal_set signals_;
  asio::signal_set child_exits_;
  Timer warden_timer_;
  bool missing_told_ = false;  // of the warden
  asio::posix::stream_descriptor lost_;
  char lost_buffer_[256];
  std::string lost_line_;
  Timer tick_;
  Timer flush_timer_;
  bool flushing_ = false;
  Timer probe_timer_;
  std::vector<std::unique_ptr<Child>> children_;
  pid_t probe_pid_ = 0;
  bool ready_ = false;
  bool ever_ready_ = false;
  bool finished_ = false;
  std::optional<std::chrono::steady_clock::time_point> stopping_;
  int exit_code_ = 0;
};

}  // namespace

bool is_important(std::string_view line) {
  // "2026-01-31 12:00:00.123 warning [replica 0 rank 1] text"
  size_t at = 0;
  for (int word = 0; word < 2; ++word) {
    at = line.find(' ', at);
    if (at == std::string_view::npos) return false;
    ++at;
  }
  const std::string_view level = line.substr(at, line.find(' ', at) - at);
  return level == "warning" || level == "error" || level == "critical";
}

int supervise(const SupervisorOptions& options) { return Supervisor(options).run(); }

}  // namespace tailor::launch
