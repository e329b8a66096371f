#include "coordinator/placement.h"

namespace tailor::coordinator {

std::optional<ReplicaId> choose_replica(const ReplicaBook& replicas, const LiveRequest& request) {
  const auto all = replicas.all();
  const Replica* best = nullptr;
  int64_t best_free = 0;
  for (size_t i = 0; i < all.size(); ++i) {
    const Replica& replica = all[(replicas.turn() + i) % all.size()];
    if (!replica.usable()) continue;
    if (!replica.starts(request.num_samples) && replica.ahead.size() >= replicas.ahead_limit())
      continue;
    const int64_t free = replica.free_slots();
    if (!best || free > best_free || (free == best_free && replica.kv_use() < best->kv_use())) {
      best = &replica;
      best_free = free;
    }
  }
  if (!best) return std::nullopt;
  return ReplicaId{static_cast<uint32_t>(best - all.data())};
}

}  // namespace tailor::coordinator
