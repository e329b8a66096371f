// What the device's sampler is told of a request when its slot is opened (parallel/cuda/kernels.h).
#pragma once

#include <cstdint>
#include <span>

#include "base/request.h"
#include "parallel/cuda/kernels.h"

namespace tailor::parallel::gpu {

/// The lists beside a slot's state. Fixed sizes, so that one copy takes them to their place.
struct SlotLists {
  std::span<int32_t> bias_ids;   ///< [kMaxBiases]
  std::span<float> bias_values;  ///< [kMaxBiases]
  std::span<int32_t> stop_ids;   ///< [kMaxStops]
};

/// The state of sample `sample` of a request that has `emitted` tokens of its answer; fills the
/// lists. Biases of one token that is named twice are added up. The request is a valid one
/// (checked: its lists fit).
SlotState slot_state(const Request& request, uint32_t sample, int64_t emitted,
                     const SlotLists& lists);

}  // namespace tailor::parallel::gpu
