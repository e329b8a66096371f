#include "launch/worker_engine.h"
#include "parallel/engine_cpu.h"

namespace tailor::launch {

const char* worker_engine_name() { return "cpu"; }

Result<WorkerEngine> make_worker_engine(const WorkerEngineParts& parts,
                                        parallel::EngineOptions options) {
  WorkerEngine out;
  options.make_store = [&](const kv::BlockLayout& layout, int32_t num_blocks) {
    auto store = kv::make_block_pool(layout, num_blocks);
    if (store) out.store = *store;
    return store;
  };
  const parallel::TpContext tp{parts.control.rank(), parts.control.size(), &parts.transport};
  TAILOR_ASSIGN(out.engine, parallel::make_cpu_engine(parts.files, tp, options));
  return out;
}

}  // namespace tailor::launch
