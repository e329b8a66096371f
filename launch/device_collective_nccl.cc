// Of programs with CUDA.
#include "comm/collective_nccl.h"
#include "launch/device_collective.h"
#include "launch/device_place.h"

namespace tailor::launch {

std::vector<std::array<uint8_t, 16>> visible_gpus() { return comm::cuda_device_ids(); }

Result<std::unique_ptr<comm::Collective>> make_device_collective(const std::string& device,
                                                                 comm::Collective& bootstrap) {
  if (device == "cpu" || bootstrap.size() == 1) return std::unique_ptr<comm::Collective>();
  comm::NcclCollectiveOptions options;
  options.device = std::stoi(device.substr(5));
  return comm::make_nccl_collective(bootstrap, options);
}

}  // namespace tailor::launch
