#include "coordinator/preemption.h"

namespace tailor::coordinator {

std::optional<uint32_t> choose_victim(const RequestBook&, const ReplicaBook&, uint32_t) {
  return std::nullopt;
}

}  // namespace tailor::coordinator
