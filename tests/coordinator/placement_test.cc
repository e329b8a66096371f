#include "coordinator/placement.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <tuple>
#include <vector>

namespace tailor::coordinator {
namespace {

LiveRequest request_of(uint32_t samples) {
  LiveRequest request;
  request.num_samples = request.open_samples = samples;
  return request;
}

/// The rule as a reader would write it: list who may take the request, sort, take the first.
std::optional<ReplicaId> by_the_rule(const ReplicaBook& book, const LiveRequest& request) {
  std::vector<std::tuple<int64_t, double, uint32_t, uint32_t>> candidates;
  const auto count = static_cast<uint32_t>(book.all().size());
  for (uint32_t id = 0; id < count; ++id) {
    const Replica& r = book[ReplicaId{id}];
    if (!r.joined || r.draining) continue;
    const bool free_now = r.in_use == 0 || r.in_use + request.num_samples <= r.slots;
    const bool starts = r.ahead.empty() && free_now;
    if (!starts && r.ahead.size() >= book.ahead_limit()) continue;
    int64_t taken = r.in_use;
    for (const Replica::Ahead& next : r.ahead) taken += next.samples;
    candidates.emplace_back(taken - r.slots, r.kv_use(), (id + count - book.turn()) % count, id);
  }
  if (candidates.empty()) return std::nullopt;
  return ReplicaId{std::get<3>(*std::min_element(candidates.begin(), candidates.end()))};
}

TEST(Placement, IsTheRuleForAnyBook) {
  std::mt19937_64 random(1);
  const auto below = [&](uint64_t n) { return static_cast<uint32_t>(random() % n); };
  int placed = 0, nobody = 0;
  for (int world = 0; world < 300; ++world) {
    ReplicaBook book(below(3), 0);
    const uint32_t replicas = 1 + below(5);
    for (uint32_t id = 0; id < replicas; ++id) {
      if (below(8) == 0) continue;
      ReplicaInfo info;
      info.slots = 1 + below(4);
      info.num_blocks = below(5) == 0 ? 0 : 8;  // few values, so that shares are equal often
      book.join(ReplicaId{id}, info);
      StepReport report;
      report.free_blocks = below(9);
      book.take(ReplicaId{id}, report);
      if (below(8) == 0) book.drain(ReplicaId{id});
    }
    for (uint32_t slot = 0; slot < 20; ++slot) {
      const uint32_t samples = 1 + below(3);
      const auto chosen = choose_replica(book, request_of(samples));
      ASSERT_EQ(chosen, by_the_rule(book, request_of(samples)));
      ++(chosen ? placed : nobody);
      if (chosen) book.bind(*chosen, slot, samples);
    }
  }
  EXPECT_GT(placed, 1000);
  EXPECT_GT(nobody, 1000);
}

TEST(Placement, NobodyIsChosenWhereNobodyIs) {
  EXPECT_EQ(choose_replica(ReplicaBook(2, 0), request_of(1)), std::nullopt);
}

}  // namespace
}  // namespace tailor::coordinator
