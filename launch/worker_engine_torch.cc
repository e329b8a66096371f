#include "launch/worker_engine.h"
#include "parallel/block_store_torch.h"
#include "parallel/engine_torch.h"

namespace tailor::launch {

const char* worker_engine_name() { return "torch"; }

Result<std::shared_ptr<kv::BlockStore>> make_worker_store(const std::string& device,
                                                          const kv::BlockLayout& layout,
                                                          int32_t num_blocks) {
  return device == "cpu" ? kv::make_block_pool(layout, num_blocks)
                         : parallel::make_tensor_store(device, layout, num_blocks);
}

Result<std::unique_ptr<parallel::Engine>> make_worker_engine(
    const weights::WeightFiles& files, const parallel::TpContext& tp,
    const parallel::EngineOptions& options) {
  return parallel::make_torch_engine(files, tp, options);
}

}  // namespace tailor::launch
