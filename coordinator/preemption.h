// Preemption: which request that runs gives way to the first of those that wait. The core asks
// whenever that one finds no room; a rule may look at both books, phases and residencies among
// them, and at a policy's age-to-rank table (PolicyRow::ranks).
//
// So far nobody gives way: every request keeps what it has until it ends, and Phase::kPaused is
// entered by none. With the first rule comes the core's transition to it (Pause, Resume) and, where
// the KV of a paused request is kept off the device, the tiers of its residency.
#pragma once

#include <cstdint>
#include <optional>

#include "coordinator/replica_book.h"
#include "coordinator/request_book.h"

namespace tailor::coordinator {

/// The slot of the request that gives way to the one at `waiting`; nullopt: nobody.
std::optional<uint32_t> choose_victim(const RequestBook& requests, const ReplicaBook& replicas,
                                      uint32_t waiting);

}  // namespace tailor::coordinator
