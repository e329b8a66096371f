// What the commands need of a terminal: interrupts as something one can poll, and writes that
// survive a pipe that closes. Owner: the command's thread.
#pragma once

#include <csignal>
#include <string_view>

#include "base/time.h"

namespace tailor::launch {

/// Blocks SIGINT and SIGTERM for this thread (and threads it starts later) and lets the command ask
/// for them; ignores SIGPIPE. Restores all of it on destruction. Make one before any thread starts.
class InterruptWatch {
 public:
  InterruptWatch();
  ~InterruptWatch();
  InterruptWatch(const InterruptWatch&) = delete;
  InterruptWatch& operator=(const InterruptWatch&) = delete;

  /// True once per signal that has arrived.
  bool interrupted();
  /// Readable while a signal is pending: for poll(2).
  int fd() const { return fd_; }

 private:
  int fd_;
  sigset_t old_mask_;
  struct sigaction old_pipe_;
};

/// Writes all of `text`. False when the reader is gone (EPIPE) or the write fails otherwise.
bool write_all(int fd, std::string_view text);

/// Length of the longest prefix of `text` that ends on a whole UTF-8 character.
size_t whole_utf8(std::string_view text);

/// Sleeps; wakes early and returns true when interrupted.
bool sleep_or_interrupt(InterruptWatch& watch, Duration duration);

}  // namespace tailor::launch
