// Preemption: which request that runs gives way to the first of those that wait. So far nobody
// does: every request keeps what it has until it ends, Phase::kPaused is entered by none, and what
// is declared here has neither a body nor a caller.
//
// It will be asked in one place, SchedulerCore::dispatch_waiting(): where choose_replica() finds no
// room for the head of the queue. A rule may look at both books, phases and residencies among them,
// and at a policy's age-to-rank table (PolicyRow::ranks). With the first one come preemption.cc,
// the core's transition to kPaused (Pause, Resume), a second look at integrity's "no request waits
// while a replica has room" and, where the KV of a paused request is kept off the device, the tiers
// of its residency.
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
