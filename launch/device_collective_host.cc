// Of programs without CUDA.
#include "launch/device_collective.h"
#include "launch/device_place.h"

namespace tailor::launch {

std::vector<std::array<uint8_t, 16>> visible_gpus() { return {}; }

Result<std::unique_ptr<comm::Collective>> make_device_collective(const std::string& device,
                                                                 comm::Collective& bootstrap) {
  if (device == "cpu" || bootstrap.size() == 1) return std::unique_ptr<comm::Collective>();
  return fail(ErrorCode::kUnavailable, "tensor parallelism on " + device +
                                           " needs NCCL, which this program was built without");
}

}  // namespace tailor::launch
