#include "parallel/engine.h"

#include "base/log.h"

namespace tailor::parallel {

void log_ready(const EngineInfo& info) { LOG_INFO("engine {}: {}", info.name, info.summary); }

}  // namespace tailor::parallel
