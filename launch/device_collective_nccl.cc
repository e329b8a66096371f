// Built where NCCL was found.
#include "comm/collective_nccl.h"
#include "launch/device_collective.h"

namespace tailor::launch {

Result<std::string> device_of_rank(const std::string& device, int first, int local_rank) {
  if (device.rfind("cuda", 0) != 0) return device;
  const int index = (device.size() > 5 ? std::stoi(device.substr(5)) : first) + local_rank;
  const int count = comm::nccl_device_count();
  if (index >= count) {
    return fail(ErrorCode::kUnavailable, "this rank needs GPU " + std::to_string(index) +
                                             ", the host has " + std::to_string(count) +
                                             "; lower --replicas or --tp (one process per GPU)");
  }
  return "cuda:" + std::to_string(index);
}

Result<std::unique_ptr<comm::Collective>> make_device_collective(const std::string& device,
                                                                 comm::Collective& bootstrap) {
  if (device == "cpu" || bootstrap.size() == 1) return std::unique_ptr<comm::Collective>();
  comm::NcclCollectiveOptions options;
  options.device = std::stoi(device.substr(5));
  return comm::make_nccl_collective(bootstrap, options);
}

}  // namespace tailor::launch
