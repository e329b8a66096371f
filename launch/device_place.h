// Which GPU a rank takes: one of those that it sees, by its number among the ranks of its launch
// that stand on the same host and see the same ones. So a launch over several hosts begins anew on
// each, and where a batch system shows every rank a GPU of its own each takes that.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "comm/collective.h"

namespace tailor::launch {

/// What a rank tells the others. Bytes on the wire.
struct RankView {
  static constexpr size_t kMostGpus = 32;
  std::array<char, 64> host{};
  uint32_t num_gpus = 0;
  std::array<std::array<uint8_t, 16>, kMostGpus> gpus{};  ///< UUIDs, in CUDA's order
};

/// The index, among the GPUs that rank `me` sees, of the one it takes, counted from `first`.
/// Without any (a device that is none of CUDA's) the number itself. Errors: Unavailable (fewer GPUs
/// than ranks, or two ranks would share one: names host and numbers).
Result<int> choose_device(std::span<const RankView> ranks, int me, int first);

/// The GPUs this process sees; none where this program knows no CUDA (launch/device_collective.h).
std::vector<std::array<uint8_t, 16>> visible_gpus();

/// "cpu" as it is; "cuda" becomes "cuda:N", and "cuda:F" the same counted from F. `launch` is of
/// all workers that one mpirun started; all of them call it. Errors: as choose_device, and those of
/// `launch`.
Result<std::string> device_of_rank(const std::string& device, comm::Collective& launch);

}  // namespace tailor::launch
