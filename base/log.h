// Logging: one line at the place that decides, with request and replica id, to stderr. spdlog
// writes; only log.cc sees it, for its templates cost a third of a second of compiling a call.
#pragma once

#include <fmt/core.h>

#include <cstdint>
#include <string>

namespace tailor {

enum class LogLevel : uint8_t { kDebug, kInfo, kWarn, kError };

/// Names the process in every line ("coordinator", "replica 0 rank 1") and sets the level
/// (trace, debug, info, warn, error, off). Call once, before any thread starts.
void init_logging(const std::string& process, const std::string& level);

/// Another name from now on: a rank learns its number only from MPI. Any thread.
void rename_logging(const std::string& process);

/// All that was logged is written when this returns: before _exit().
void flush_log();

bool log_enabled(LogLevel level);
void write_log(LogLevel level, fmt::string_view format, fmt::format_args args);

/// Any thread. `format` is checked when it is compiled; arguments are read only where the level is
/// enabled.
template <class... Args>
void log_at(LogLevel level, fmt::format_string<Args...> format, Args&&... args) {
  if (log_enabled(level)) write_log(level, format, fmt::make_format_args(args...));
}

}  // namespace tailor

#define LOG_DEBUG(...) ::tailor::log_at(::tailor::LogLevel::kDebug, __VA_ARGS__)
#define LOG_INFO(...) ::tailor::log_at(::tailor::LogLevel::kInfo, __VA_ARGS__)
#define LOG_WARN(...) ::tailor::log_at(::tailor::LogLevel::kWarn, __VA_ARGS__)
#define LOG_ERROR(...) ::tailor::log_at(::tailor::LogLevel::kError, __VA_ARGS__)
