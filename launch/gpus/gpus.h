// The NVIDIA GPUs of this host that children of ours can compute on: what nvidia-smi tells, seen
// through CUDA_VISIBLE_DEVICES as CUDA would. No CUDA in here: `tailor` runs on every machine.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/result.h"

namespace tailor::launch {

struct Gpu {
  int index = 0;  ///< nvidia-smi's
  std::string uuid, name, driver;
  int capability = 0;  ///< compute capability times ten: 90 is 9.0
  uint64_t memory_bytes = 0, free_bytes = 0;
  bool mig = false;                    ///< cut into instances; only those can be used then
  std::vector<std::string> instances;  ///< UUIDs
};

struct Gpus {
  std::vector<Gpu> all;
  /// UUIDs of what one rank each can be given, in the order of CUDA_VISIBLE_DEVICES, else of
  /// nvidia-smi: GPUs, or MIG instances.
  std::vector<std::string> usable;
  /// One sentence where there is a GPU or a driver that cannot be used, with what to change. Empty
  /// where there is none, or where the user hid them all (CUDA_VISIBLE_DEVICES empty or -1).
  std::string trouble;

  const Gpu* of(const std::string& uuid) const;  ///< that is it, or has that instance; or null
};

/// The driver that this build's CUDA needs: 580 for 13.x, 525 for 12.x.
int least_driver();
/// The CUDA version of this build, "13.0"; of one without CUDA what launch/setup would fetch.
const char* cuda_version();

/// Pure: what nvidia-smi printed for `kGpuQuery` and for -L, and the value of CUDA_VISIBLE_DEVICES.
inline constexpr const char* kGpuQuery =
    "--query-gpu=index,uuid,name,driver_version,compute_cap,mig.mode.current,memory.total,"
    "memory.free";
Gpus read_gpus(const std::string& query, const std::string& list,
               const std::optional<std::string>& visible);

/// Asks nvidia-smi. Cost: up to some seconds where the driver was not loaded. From the main thread.
Gpus find_gpus();

}  // namespace tailor::launch
