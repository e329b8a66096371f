#include "launch/worker_engine.h"
#include "parallel/engine_torch.h"

namespace tailor::launch {

const char* worker_engine_name() { return "torch"; }

Result<std::unique_ptr<parallel::Engine>> make_worker_engine(
    const weights::WeightFiles& files, const parallel::TpContext& tp,
    const parallel::EngineOptions& options) {
  return parallel::make_torch_engine(files, tp, options);
}

}  // namespace tailor::launch
