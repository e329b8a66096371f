#include "base/log.h"

#include <spdlog/sinks/stdout_color_sinks.h>

namespace tailor {
namespace {

std::string pattern_of(const std::string& process) {
  return "%Y-%m-%d %H:%M:%S.%e %^%l%$ [" + process + "] %v";
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

}  // namespace tailor
