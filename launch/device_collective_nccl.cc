// Built where NCCL was found.
#include "comm/collective_nccl.h"
#include "launch/device_collective.h"

namespace tailor::launch {

std::string device_of_rank(const std::string& device, int first, int local_rank) {
  if (device.rfind("cuda", 0) != 0) return device;
  if (device.size() > 5) return "cuda:" + std::to_string(std::stoi(device.substr(5)) + local_rank);
  const int count = comm::nccl_device_count();
  const int index = first + local_rank;
  return "cuda:" + std::to_string(count > 0 ? index % count : index);
}

Result<std::unique_ptr<comm::Collective>> make_device_collective(const std::string& device,
                                                                 comm::Collective& bootstrap) {
  if (device == "cpu" || bootstrap.size() == 1) return std::unique_ptr<comm::Collective>();
  comm::NcclCollectiveOptions options;
  options.device = std::stoi(device.substr(5));
  return comm::make_nccl_collective(bootstrap, options);
}

}  // namespace tailor::launch
