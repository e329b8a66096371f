// The event log: every (now, event) the scheduler core was told, in a compact binary file. A fresh
// core fed the log gives identical commands, so an odd decision of last night can be looked at on a
// laptop. It holds numbers only, and what replicas and predictors say of themselves: no prompt, no
// text, no client's name.
//
// File: "TAILORLG", then records [u32 length][u32 checksum][length bytes], little endian; the first
// holds the version and the core's options, the others an event each. A record is a message in
// protobuf's wire format, by the field lists: what a later version adds keeps this one's logs
// readable. A file that breaks off inside a record (the process was killed) is good up to there;
// the reader says so. Owner: one thread.
#pragma once

#include <cstdio>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "coordinator/core_messages.h"
#include "coordinator/scheduler_core.h"

namespace tailor::coordinator {

inline constexpr uint32_t kEventLogVersion = 3;
inline constexpr int kMaxKeptEventLogs = 9999;

struct FileCloser {
  void operator()(std::FILE* file) const { std::fclose(file); }
};
using File = std::unique_ptr<std::FILE, FileCloser>;

class EventLogWriter {
 public:
  /// Begins a new file, as PATH.new until it can be written. One of this name that holds events (an
  /// earlier run's, or a coordinator's before its restart) is kept then: as PATH.1, PATH.2, ...,
  /// the first that is free. Errors, where the older one stays as it was: DataLoss (the disk is
  /// full or broken), Unavailable (anything else); both name the file and why.
  static Result<EventLogWriter> create(const std::string& path, const CoreOptions& options);

  /// Appends one record to the buffer. Cost: O(entries), no allocation once the buffer has grown.
  /// Errors: DataLoss (the disk is full: names the file); nothing more is written then.
  Result<void> append(Time now, const CoreEvent& event);
  /// Hands what is buffered to the system, so that it survives this process.
  Result<void> flush();

 private:
  EventLogWriter(std::string path, File file) : path_(std::move(path)), file_(std::move(file)) {}
  std::string path_;
  File file_;
  std::string record_;
};

class EventLogReader {
 public:
  /// Errors: NotFound, Protocol (another version: names both), DataLoss (not an event log).
  static Result<EventLogReader> open(const std::string& path);

  const CoreOptions& options() const { return options_; }
  /// Reads the next record; false at the end, or where the rest makes no sense: what it gives can
  /// be told to a core of these options.
  bool next(Time& now, CoreEvent& event);
  /// After the end: empty, or one sentence on why the rest of the file could not be read.
  const std::string& damage() const { return damage_; }

 private:
  EventLogReader(std::string path, File file) : path_(std::move(path)), file_(std::move(file)) {}
  bool stop(std::string why);
  std::string path_;
  File file_;
  CoreOptions options_;
  uint64_t records_ = 0;
  Time last_{};        // when the last event was,
  RequestId last_id_;  // and which request arrived last
  std::string damage_;
  std::string record_;
};

struct ReplaySummary {
  CoreOptions options;
  uint64_t events = 0, commands = 0;
  Duration span{};            ///< from the first event to the last
  CoreCounters counters;      ///< of the core at the end
  uint32_t live_at_end = 0;   ///< requests that had not ended
  uint64_t command_hash = 0;  ///< of describe() of all commands in order: equal for equal decisions
  std::string damage;         ///< why the rest of the file could not be read; empty when all was
};

/// Feeds the log to a fresh core. `each` (optional) sees every event with the commands it led to;
/// `at` counts from the first event. Errors: as EventLogReader::open.
Result<ReplaySummary> replay_log(
    const std::string& path,
    const std::function<void(Duration at, const CoreEvent&, const std::vector<CoreCommand>&)>&
        each = nullptr);

}  // namespace tailor::coordinator
