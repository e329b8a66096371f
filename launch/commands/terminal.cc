#include "launch/commands/terminal.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <cerrno>

#include "base/check.h"

namespace tailor::launch {

InterruptWatch::InterruptWatch() {
  sigset_t mask;
  sigemptyset(&mask);
  sigaddset(&mask, SIGINT);
  sigaddset(&mask, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &mask, &old_mask_);
  struct sigaction ignore = {};
  ignore.sa_handler = SIG_IGN;
  sigaction(SIGPIPE, &ignore, &old_pipe_);
  fd_ = signalfd(-1, &mask, SFD_NONBLOCK | SFD_CLOEXEC);
  TAILOR_CHECK(fd_ >= 0, "signalfd");
}

InterruptWatch::~InterruptWatch() {
  close(fd_);
  sigaction(SIGPIPE, &old_pipe_, nullptr);
  pthread_sigmask(SIG_SETMASK, &old_mask_, nullptr);
}

bool InterruptWatch::interrupted() {
  signalfd_siginfo info;
  return read(fd_, &info, sizeof info) == static_cast<ssize_t>(sizeof info);
}

bool write_all(int fd, std::string_view text) {
  while (!text.empty()) {
    const ssize_t written = write(fd, text.data(), text.size());
    if (written >= 0) {
      text.remove_prefix(static_cast<size_t>(written));
    } else if (errno == EAGAIN) {
      pollfd item{fd, POLLOUT, 0};
      poll(&item, 1, 1000);
    } else if (errno != EINTR) {
      return false;
    }
  }
  return true;
}

size_t whole_utf8(std::string_view text) {
  size_t start = text.size();
  for (int back = 0; back < 4 && start > 0; ++back) {
    const auto byte = static_cast<unsigned char>(text[--start]);
    if (byte < 0x80) return text.size();
    if (byte >= 0xC0) {
      const size_t length = byte >= 0xF0 ? 4 : byte >= 0xE0 ? 3 : 2;
      return start + length <= text.size() ? text.size() : start;
    }
  }
  return text.size();
}

bool sleep_or_interrupt(InterruptWatch& watch, Duration duration) {
  pollfd item{watch.fd(), POLLIN, 0};
  poll(&item, 1, static_cast<int>(duration_cast<milliseconds>(duration).count()));
  return watch.interrupted();
}

}  // namespace tailor::launch
