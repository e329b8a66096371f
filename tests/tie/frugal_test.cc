// What a scheduler does per request and step allocates nothing once its queues have grown.
#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "tests/base/allocation_counter.h"
#include "tie/law.h"
#include "tie/priority_queue.h"
#include "tie/rank_table.h"
#include "tie/score.h"

namespace tailor::tie {
namespace {

using tailor::testing::allocations;

TEST(Frugal, LawsRanksAndTheQueueAllocateNothing) {
  const LawMath math;
  std::vector<double> p(LengthLaw::kBins, 1);
  const LengthLaw laws[] = {log_t(5, 0.5), log_t(5, 0.5, 7), histogram(p, 1, 900), LengthLaw{}};
  constexpr uint32_t kWaiting = 1000;
  PriorityQueue queue;
  const auto key = [](const Moments& m, uint64_t id, double beta) {
    return time_invariant_key(score(m, beta), seconds(id), kTieTauSeconds);
  };
  const auto fill = [&] {
    for (uint32_t id = 0; id < kWaiting; ++id)
      queue.push(id, {key({100.0 + static_cast<double>(id % 37), 0, 500}, id, 0.1), 0, id});
  };
  fill();
  while (!queue.empty()) queue.pop();

  const int64_t before = allocations;
  fill();
  double sum = 0;
  for (const LengthLaw& law : laws) {
    const Moments m = math.moments(law, 2048, 3);
    sum += math.expected_inverse(law, 2048) + m.cvar;
    const LawGrid grid(math, law, 2048);
    for (const auto kind : {RankOptions::Kind::kGittins, RankOptions::Kind::kConditionalTie})
      sum += RankTable(math, law, grid, {.kind = kind}).rank(20);
    for (uint32_t id = 0; id < kWaiting; ++id) queue.rekey(id, key(m, id, 0.1));
  }
  queue.rekey_all([&](PriorityQueue::Handle, const PriorityQueue::Entry& entry) {
    return key({100.0, 0, 500}, entry.id, 0.3);
  });
  while (!queue.empty()) queue.pop();
  EXPECT_EQ(allocations - before, 0);
  EXPECT_GT(sum, 0);
  const auto counted_at_all = std::make_unique<int>(1);
  EXPECT_GT(allocations, before);  // the counter counts
}

}  // namespace
}  // namespace tailor::tie
