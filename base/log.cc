#include "base/log.h"

#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>

namespace tailor {
namespace {

std::string pattern_of(const std::string& process) {
  return "%Y-%m-%d %H:%M:%S.%e %^%l%$ [" + process + "] %v";
}

spdlog::level::level_enum of(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug:
      return spdlog::level::debug;
    case LogLevel::kInfo:
      return spdlog::level::info;
    case LogLevel::kWarn:
      return spdlog::level::warn;
    case LogLevel::kError:
      break;
  }
  return spdlog::level::err;
}

}  // namespace

void init_logging(const std::string& process, const std::string& level) {
  auto logger = spdlog::stderr_color_mt(process);
  logger->set_pattern(pattern_of(process));
  logger->set_level(spdlog::level::from_str(level));
  logger->flush_on(spdlog::level::info);
  spdlog::set_default_logger(std::move(logger));
}

void rename_logging(const std::string& process) {
  spdlog::default_logger_raw()->set_pattern(pattern_of(process));
}

void flush_log() { spdlog::default_logger_raw()->flush(); }

bool log_enabled(LogLevel level) { return spdlog::should_log(of(level)); }

void write_log(LogLevel level, fmt::string_view format, fmt::format_args args) {
  spdlog::default_logger_raw()->log(of(level), fmt::vformat(format, args));
}

}  // namespace tailor
