#include "launch/stream_collective.h"
#include "parallel/cuda/collective_staged.h"

namespace tailor::launch {

Result<std::unique_ptr<comm::Collective>> make_stream_collective(parallel::gpu::Device& device,
                                                                 comm::Collective&,
                                                                 comm::Collective& transport,
                                                                 Duration deadline) {
  return parallel::gpu::make_staged_collective(device, transport, deadline);
}

}  // namespace tailor::launch
