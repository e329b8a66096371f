// What the commands need of a terminal: interrupts as something one can poll, and writes that
// survive a pipe that closes. Owner: the command's thread.
#pragma once

#include <csignal>
#include <optional>
#include <string>
#include <string_view>

#include "base/time.h"

namespace tailor::launch {

/// A pipe that closes is an error of write(2), not a signal; as it was before on destruction.
class PipeSignalIgnored {
 public:
  PipeSignalIgnored();
  ~PipeSignalIgnored();
  PipeSignalIgnored(const PipeSignalIgnored&) = delete;
  PipeSignalIgnored& operator=(const PipeSignalIgnored&) = delete;

 private:
  struct sigaction before_;
};

/// Blocks SIGINT and SIGTERM for this thread (and threads it starts later) and lets the command ask
/// for them; ignores SIGPIPE. Restores all of it on destruction. Make one before any thread starts.
class InterruptWatch {
 public:
  InterruptWatch();
  ~InterruptWatch();
  InterruptWatch(const InterruptWatch&) = delete;
  InterruptWatch& operator=(const InterruptWatch&) = delete;

  /// The number of a signal that has arrived, once for each; 0 = none.
  int interrupted();
  /// Readable while a signal is pending: for poll(2).
  int fd() const { return fd_; }

 private:
  const PipeSignalIgnored no_pipe_signal_;
  int fd_;
  sigset_t old_mask_;
};

/// Writes all of `text`. False when the reader is gone (EPIPE), the write fails otherwise, or a
/// signal waits in `watch`, which stays there to be asked for: a reader that stands still does not
/// keep Ctrl-C away.
bool write_all(int fd, std::string_view text, const InterruptWatch* watch = nullptr);

/// The lines of a file, pipe or terminal, read only when that does not block.
class InputLines {
 public:
  /// Owns `fd`.
  InputLines(int fd, const InterruptWatch& watch) : fd_(fd), watch_(watch) {}
  ~InputLines();
  InputLines(const InputLines&) = delete;
  InputLines& operator=(const InputLines&) = delete;

  /// The next line without its end. Nothing: no whole line is there yet, a signal waits, or the
  /// input has ended.
  std::optional<std::string> next();
  /// Everything has been read and given out.
  bool at_end() const { return closed_ && begin_ == text_.size(); }
  /// Until there is something to read or a signal, at most `timeout`.
  void wait(Duration timeout) const;

 private:
  const int fd_;
  const InterruptWatch& watch_;
  std::string text_;  // read; given out up to begin_, without a line's end up to searched_
  size_t begin_ = 0, searched_ = 0;
  bool closed_ = false;
};

/// Columns of the terminal behind `fd`; 0 where it is none.
size_t terminal_columns(int fd);

/// Text that comes in pieces of whole characters, with line breaks where a terminal would cut a
/// word. A word is kept until its end is known.
class WordWrap {
 public:
  /// What can be written now; with `columns` 0 all of it, unchanged.
  std::string add(std::string_view piece, size_t columns);
  /// What was kept, where nothing follows; then as new.
  std::string rest();

 private:
  void end_word(std::string& out);

  std::string spaces_, word_;  // not written yet, in this order
  size_t spaces_width_ = 0, word_width_ = 0;
  size_t column_ = 0;  // of what was written
  size_t columns_ = 0;
  bool continues_ = false;  // the word that was written last has not ended
};

/// Length of the longest prefix of `text` that ends on a whole UTF-8 character.
size_t whole_utf8(std::string_view text);

/// Sleeps; wakes early and returns true when interrupted.
bool sleep_or_interrupt(InterruptWatch& watch, Duration duration);

}  // namespace tailor::launch
