// Lines for a person on a stream that perhaps nobody reads: a pager that is paused, a terminal
// after Ctrl-S, a pipe that is full. A write never blocks; what the stream does not take waits here
// up to a bound, and what is beyond it is counted and said once there is room again. Owner: one
// thread.
#pragma once

#include <cstddef>
#include <string>

namespace tailor::launch {

class LineOutput {
 public:
  static constexpr size_t kMaxWaitingBytes = 64 << 10;

  /// `fd` stays the caller's and keeps its flags, which other programs may share: pipes and
  /// terminals are opened a second time, without blocking.
  explicit LineOutput(int fd);
  ~LineOutput();  ///< what still waits is dropped
  LineOutput(const LineOutput&) = delete;
  LineOutput& operator=(const LineOutput&) = delete;

  /// Whole lines, each with its end; a bar that is redrawn counts as one. Never blocks, never
  /// fails: text that finds no room is lost and counted.
  void write(const std::string& text);
  /// Tries what waits. True when nothing waits any more.
  bool flush();

 private:
  enum class Kind { kReopened, kSocket, kPolled, kFile };
  void send_waiting();

  const int given_;
  int fd_;
  Kind kind_;
  std::string waiting_;
  size_t lost_lines_ = 0;
};

}  // namespace tailor::launch
