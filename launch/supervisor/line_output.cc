#include "launch/supervisor/line_output.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <utility>

namespace tailor::launch {
namespace {

size_t lines_in(const std::string& text) {
  const auto ends = std::count(text.begin(), text.end(), '\n');
  return static_cast<size_t>(std::max<std::ptrdiff_t>(ends, 1));
}

}  // namespace

LineOutput::LineOutput(int fd) : given_(fd), fd_(fd), kind_(Kind::kFile) {
  struct stat info = {};
  if (fstat(fd, &info) != 0) return;
  if (S_ISSOCK(info.st_mode)) kind_ = Kind::kSocket;
  if (!S_ISFIFO(info.st_mode) && !S_ISCHR(info.st_mode)) return;
  const std::string path = "/proc/self/fd/" + std::to_string(fd);
  const int again = open(path.c_str(), O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
  kind_ = again >= 0 ? Kind::kReopened : Kind::kPolled;  // a pipe of another user, say
  if (again >= 0) fd_ = again;
}

LineOutput::~LineOutput() {
  if (fd_ != given_) close(fd_);
}

void LineOutput::write(const std::string& text) {
  if (waiting_.size() + text.size() <= kMaxWaitingBytes) {
    waiting_ += text;
  } else {
    lost_lines_ += lines_in(text);
  }
  flush();
}

bool LineOutput::flush() {
  send_waiting();
  if (waiting_.empty() && lost_lines_ > 0) {
    const size_t lost = std::exchange(lost_lines_, 0);
    waiting_ = "tailor: (" + std::to_string(lost) +
               " lines are missing here: they could not be written)\n";
    send_waiting();
    if (lost_lines_ > 0) lost_lines_ = lost;  // not even that
  }
  return waiting_.empty();
}

void LineOutput::send_waiting() {
  while (!waiting_.empty()) {
    ssize_t written = -1;
    if (kind_ == Kind::kSocket) {
      written = send(fd_, waiting_.data(), waiting_.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    } else if (kind_ == Kind::kPolled) {
      // A pipe that says POLLOUT takes this much without blocking, unless somebody else fills it
      // in between.
      pollfd item{fd_, POLLOUT, 0};
      if (poll(&item, 1, 0) <= 0) return;
      written = ::write(fd_, waiting_.data(), std::min<size_t>(waiting_.size(), PIPE_BUF));
    } else {
      written = ::write(fd_, waiting_.data(), waiting_.size());
    }
    if (written > 0) {
      waiting_.erase(0, static_cast<size_t>(written));
    } else if (written < 0 && errno == EAGAIN) {
      return;
    } else if (written == 0 || errno != EINTR) {  // the reader is gone, the disk is full
      lost_lines_ += lines_in(waiting_);
      waiting_.clear();
      return;
    }
  }
}

}  // namespace tailor::launch
