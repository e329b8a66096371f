#include "launch/worker_engine.h"
#include "parallel/engine_cpu.h"

namespace tailor::launch {

const char* worker_engine_name() { return "cpu"; }

Result<std::unique_ptr<parallel::Engine>> make_worker_engine(
    const weights::WeightFiles& files, const parallel::TpContext& tp,
    const parallel::EngineOptions& options) {
  return parallel::make_cpu_engine(files, tp, options);
}

}  // namespace tailor::launch
