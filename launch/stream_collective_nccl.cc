#include "comm/collective_nccl.h"
#include "launch/stream_collective.h"

namespace tailor::launch {

Result<std::unique_ptr<comm::Collective>> make_stream_collective(parallel::gpu::Device& device,
                                                                 comm::Collective& control,
                                                                 comm::Collective&,
                                                                 Duration deadline) {
  return comm::make_nccl_collective(control, {.device = device.properties().index,
                                              .stream = device.stream(),
                                              .deadline = deadline,
                                              .wait_for_data = false});
}

}  // namespace tailor::launch
