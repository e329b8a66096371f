#include "launch/commands/terminal.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <clocale>
#include <cstdio>
#include <cstring>
#include <cwchar>
#include <utility>

#include "base/check.h"

namespace tailor::launch {
namespace {

int poll_ms(Duration duration) {
  return static_cast<int>(duration_cast<milliseconds>(duration).count());
}

constexpr size_t kTabColumns = 8;

/// The first character of `text`; a byte that begins none stands for itself.
std::string_view first_character(std::string_view text) {
  size_t size = 1;
  while (size < text.size() && size < 4 && (static_cast<unsigned char>(text[size]) & 0xC0) == 0x80)
    ++size;
  return text.substr(0, static_cast<unsigned char>(text[0]) < 0xC0 ? 1 : size);
}

/// Columns that a terminal gives it, whatever locale the user has.
size_t width_of(std::string_view character) {
  if (character.size() == 1) return 1;
  static const locale_t kUtf8 = newlocale(LC_CTYPE_MASK, "C.UTF-8", locale_t{});
  if (kUtf8 == locale_t{}) return 1;
  const locale_t before = uselocale(kUtf8);
  wchar_t wide = 0;
  std::mbstate_t state{};
  const size_t read = std::mbrtowc(&wide, character.data(), character.size(), &state);
  const int width = read == character.size() ? wcwidth(wide) : 1;
  uselocale(before);
  return width < 0 ? 0 : static_cast<size_t>(width);
}

}  // namespace

PipeSignalIgnored::PipeSignalIgnored() {
  struct sigaction ignore = {};
  ignore.sa_handler = SIG_IGN;
  sigaction(SIGPIPE, &ignore, &before_);
}

PipeSignalIgnored::~PipeSignalIgnored() { sigaction(SIGPIPE, &before_, nullptr); }

InterruptWatch::InterruptWatch() {
  sigset_t mask;
  sigemptyset(&mask);
  sigaddset(&mask, SIGINT);
  sigaddset(&mask, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &mask, &old_mask_);
  fd_ = signalfd(-1, &mask, SFD_NONBLOCK | SFD_CLOEXEC);
  TAILOR_CHECK(fd_ >= 0, "signalfd");
}

InterruptWatch::~InterruptWatch() {
  close(fd_);
  pthread_sigmask(SIG_SETMASK, &old_mask_, nullptr);
}

int InterruptWatch::interrupted() {
  signalfd_siginfo info;
  const bool arrived = read(fd_, &info, sizeof info) == static_cast<ssize_t>(sizeof info);
  return arrived ? static_cast<int>(info.ssi_signo) : 0;
}

bool write_all(int fd, std::string_view text, const InterruptWatch* watch) {
  while (!text.empty()) {
    pollfd items[2] = {{fd, POLLOUT, 0}, {watch != nullptr ? watch->fd() : -1, POLLIN, 0}};
    if (poll(items, 2, -1) < 0) continue;
    if (items[1].revents != 0) return false;
    // A pipe that says POLLOUT takes this much without blocking.
    const ssize_t written = write(fd, text.data(), std::min<size_t>(text.size(), PIPE_BUF));
    if (written >= 0) {
      text.remove_prefix(static_cast<size_t>(written));
    } else if (errno != EAGAIN && errno != EINTR) {
      // A reader that has left wants no more; a full disk is news.
      if (errno != EPIPE)
        std::fprintf(stderr, "tailor: cannot write its output: %s\n", std::strerror(errno));
      return false;
    }
  }
  return true;
}

InputLines::~InputLines() { close(fd_); }

std::optional<std::string> InputLines::next() {
  while (true) {
    if (const size_t end = text_.find('\n', searched_); end != std::string::npos) {
      std::string line = text_.substr(begin_, end - begin_);
      begin_ = searched_ = end + 1;
      return line;
    }
    text_.erase(0, std::exchange(begin_, 0));
    searched_ = text_.size();
    if (closed_) {
      if (text_.empty()) return std::nullopt;
      searched_ = 0;
      return std::exchange(text_, {});
    }
    pollfd items[2] = {{fd_, POLLIN, 0}, {watch_.fd(), POLLIN, 0}};
    if (poll(items, 2, 0) <= 0 || items[1].revents != 0) return std::nullopt;
    char buffer[65536];
    const ssize_t got = read(fd_, buffer, sizeof buffer);
    if (got > 0) {
      text_.append(buffer, static_cast<size_t>(got));
    } else if (got == 0 || (errno != EAGAIN && errno != EINTR)) {
      closed_ = true;
    } else {
      return std::nullopt;
    }
  }
}

void InputLines::wait(Duration timeout) const {
  pollfd items[2] = {{fd_, POLLIN, 0}, {watch_.fd(), POLLIN, 0}};
  poll(items, 2, poll_ms(timeout));
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

size_t terminal_columns(int fd) {
  winsize size{};
  return isatty(fd) && ioctl(fd, TIOCGWINSZ, &size) == 0 ? size.ws_col : 0;
}

std::string WordWrap::add(std::string_view piece, size_t columns) {
  columns_ = columns;
  std::string out;
  for (size_t at = 0; at < piece.size();) {
    const std::string_view character = first_character(piece.substr(at));
    at += character.size();
    if (character == "\n") {
      end_word(out);
      out += '\n';
      spaces_.clear();
      spaces_width_ = column_ = 0;
    } else if (character == " " || character == "\t") {
      end_word(out);
      spaces_ += character;
      spaces_width_ += character == " " ? 1 : kTabColumns;
    } else {
      const size_t width = width_of(character);
      if (width > 1) end_word(out);  // scripts of wide characters break between any two
      word_ += character;
      word_width_ += width;
      if (width <= 1 && word_width_ < columns_) continue;
      end_word(out);
      continues_ = width <= 1;  // longer than a line: the terminal breaks it
    }
  }
  return out;
}

void WordWrap::end_word(std::string& out) {
  const bool may_break = !std::exchange(continues_, false) && column_ > 0;
  if (word_.empty()) return;
  if (columns_ > 0 && may_break && column_ + spaces_width_ + word_width_ > columns_) {
    out += '\n';
    column_ = 0;
  } else {
    out += spaces_;
    column_ += spaces_width_;
  }
  out += word_;
  column_ += word_width_;
  if (columns_ > 0 && column_ > columns_) column_ = (column_ - 1) % columns_ + 1;
  spaces_.clear();
  word_.clear();
  spaces_width_ = word_width_ = 0;
}

std::string WordWrap::rest() {
  std::string out;
  end_word(out);
  out += spaces_;
  *this = WordWrap();
  return out;
}

bool sleep_or_interrupt(InterruptWatch& watch, Duration duration) {
  pollfd item{watch.fd(), POLLIN, 0};
  poll(&item, 1, poll_ms(duration));
  return watch.interrupted() != 0;
}

}  // namespace tailor::launch
