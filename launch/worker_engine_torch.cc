#include "launch/device_collective.h"
#include "launch/worker_engine.h"
#include "parallel/block_store_torch.h"
#include "parallel/engine_torch.h"

namespace tailor::launch {

const char* worker_engine_name() { return "torch"; }

Result<WorkerEngine> make_worker_engine(const WorkerEngineParts& parts,
                                        parallel::EngineOptions options) {
  WorkerEngine out;
  TAILOR_ASSIGN(out.collective, make_device_collective(options.device, parts.control));
  options.make_store = [&](const kv::BlockLayout& layout, int32_t num_blocks) {
    auto store = options.device == "cpu"
                     ? kv::make_block_pool(layout, num_blocks)
                     : parallel::make_tensor_store(options.device, layout, num_blocks);
    if (store) out.store = *store;
    return store;
  };
  const parallel::TpContext tp{parts.control.rank(), parts.control.size(),
                               out.collective ? out.collective.get() : &parts.transport};
  TAILOR_ASSIGN(out.engine, parallel::make_torch_engine(parts.files, tp, options));
  return out;
}

}  // namespace tailor::launch
