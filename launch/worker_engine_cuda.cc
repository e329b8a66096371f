#include "launch/stream_collective.h"
#include "launch/worker_engine.h"
#include "parallel/cuda/block_store_cuda.h"
#include "parallel/cuda/device.h"
#include "parallel/cuda/engine_cuda.h"

namespace tailor::launch {

const char* worker_engine_name() { return "cuda"; }

Result<WorkerEngine> make_worker_engine(const WorkerEngineParts& parts,
                                        parallel::EngineOptions options) {
  TAILOR_ASSIGN(std::shared_ptr<parallel::gpu::Device> device,
                parallel::gpu::Device::open(options.device));
  WorkerEngine out;
  out.device = device;
  if (parts.control.size() > 1) {
    TAILOR_ASSIGN(out.collective, make_stream_collective(*device, parts.control, parts.transport,
                                                         options.device_deadline));
  }
  options.make_store = [&](const kv::BlockLayout& layout, int32_t num_blocks) {
    auto store = parallel::gpu::make_cuda_store(*device, {.deadline = options.device_deadline},
                                                layout, num_blocks);
    if (store) out.store = *store;
    return store;
  };
  const parallel::TpContext tp{parts.control.rank(), parts.control.size(), out.collective.get()};
  TAILOR_ASSIGN(out.engine, parallel::make_cuda_engine(*device, parts.files, tp, options));
  return out;
}

}  // namespace tailor::launch
