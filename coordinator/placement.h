// Placement: which replica a request goes to. A pure function of what the books hold; it changes
// nothing. Rules beside this one (where its prefix is cached, where its KV was moved) become rows
// of a table here, as policies are rows in ranking.h.
#pragma once

#include <optional>

#include "coordinator/replica_book.h"
#include "coordinator/request_book.h"

namespace tailor::coordinator {

/// Of the replicas that have joined, do not drain and have room (a free slot for each sample, or no
/// other request, when n is above its slots; or a place ahead): the one with most slots free once
/// those ahead have theirs, then the one with the smaller share of KV blocks in use, then the next
/// in turn. nullopt: nobody has room. Cost: O(replicas).
std::optional<ReplicaId> choose_replica(const ReplicaBook& replicas, const LiveRequest& request);

}  // namespace tailor::coordinator
