#include "base/mailbox.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include "base/check.h"

namespace tailor {

WakeFd::WakeFd() : fd_(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) {
  TAILOR_CHECK(fd_ >= 0, "no file descriptor left for a mailbox");
}

WakeFd::~WakeFd() { close(fd_); }

void WakeFd::signal() {
  uint64_t one = 1;
  [[maybe_unused]] ssize_t n = write(fd_, &one, sizeof one);
}

void WakeFd::clear() {
  uint64_t count;
  [[maybe_unused]] ssize_t n = read(fd_, &count, sizeof count);
}

}  // namespace tailor
