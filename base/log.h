// Logging: one line at the place that decides, with request and replica id. A thin face over
// spdlog, to stderr.
#pragma once

#include <spdlog/spdlog.h>

#include <string>

namespace tailor {

/// Names the process in every line ("coordinator", "replica 0 rank 1") and sets the level
/// (trace, debug, info, warn, error, off). Call once, before any thread starts.
void init_logging(const std::string& process, const std::string& level);

/// Another name from now on: a rank learns its number only from MPI. Any thread.
void rename_logging(const std::string& process);

}  // namespace tailor

#define LOG_DEBUG(...) spdlog::debug(__VA_ARGS__)
#define LOG_INFO(...) spdlog::info(__VA_ARGS__)
#define LOG_WARN(...) spdlog::warn(__VA_ARGS__)
#define LOG_ERROR(...) spdlog::error(__VA_ARGS__)
