// Built where NCCL was not found.
#include "launch/device_collective.h"

namespace tailor::launch {

Result<std::string> device_of_rank(const std::string& device, int first, int local_rank) {
  if (device.rfind("cuda", 0) != 0) return device;
  const int base = device.size() > 5 ? std::stoi(device.substr(5)) : first;
  return "cuda:" + std::to_string(base + local_rank);
}

Result<std::unique_ptr<comm::Collective>> make_device_collective(const std::string& device,
                                                                 comm::Collective& bootstrap) {
  if (device == "cpu" || bootstrap.size() == 1) return std::unique_ptr<comm::Collective>();
  return fail(ErrorCode::kUnavailable,
              "tensor parallelism on " + device +
                  " needs NCCL, which was not found when this program was built");
}

}  // namespace tailor::launch
