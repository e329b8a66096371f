#include "launch/worker_engine.h"
#include "parallel/engine_cpu.h"

namespace tailor::launch {

const char* worker_engine_name() { return "cpu"; }

Result<std::shared_ptr<kv::BlockStore>> make_worker_store(const std::string&,
                                                          const kv::BlockLayout& layout,
                                                          int32_t num_blocks) {
  return kv::make_block_pool(layout, num_blocks);
}

Result<std::unique_ptr<parallel::Engine>> make_worker_engine(
    const weights::WeightFiles& files, const parallel::TpContext& tp,
    const parallel::EngineOptions& options) {
  return parallel::make_cpu_engine(files, tp, options);
}

}  // namespace tailor::launch
