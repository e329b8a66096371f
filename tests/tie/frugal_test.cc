// What a scheduler does per request and step allocates nothing once its queues have grown.
#include <gtest/gtest.h>

#include <vector>

#include "tests/base/allocation_counter.h"
#include "tie/law.h"
#include "tie/rank_table.h"
#include "tie/score_queue.h"

namespace tailor::tie {
namespace {

using tailor::testing::allocations;

TEST(Frugal, LawsRanksAndTheQueueAllocateNothing) {
  const LawMath math;
  std::vector<double> p(LengthLaw::kBins, 1);
  const LengthLaw laws[] = {log_t(5, 0.5), log_t(5, 0.5, 7), histogram(p, 1, 900), LengthLaw{}};
  ScoreQueue queue;
  std::vector<ScoreQueue::Handle> handles;
  const auto fill = [&] {
    for (uint64_t id = 0; id < 1000; ++id)
      handles.push_back(queue.push({100.0 + static_cast<double>(id % 37), 500, seconds(id), id}));
  };
  fill();
  while (!queue.empty()) queue.pop();
  handles.clear();

  const int64_t before = allocations;
  fill();
  double sum = 0;
  for (const LengthLaw& law : laws) {
    const Moments m = math.moments(law, 2048, 3);
    sum += math.expected_inverse(law, 2048) + m.cvar;
    const LawGrid grid(math, law, 2048);
    for (const auto kind : {RankOptions::Kind::kGittins, RankOptions::Kind::kConditionalTie})
      sum += RankTable(math, law, grid, {.kind = kind}).rank(20);
    for (const auto handle : handles) queue.predict(handle, m.expected, m.cvar);
  }
  queue.set_beta(0.3);
  while (!queue.empty()) queue.pop();
  EXPECT_EQ(allocations - before, 0);
  EXPECT_GT(sum, 0);
  handles = std::vector<ScoreQueue::Handle>(10);
  EXPECT_GT(allocations, before);  // the counter counts
}

}  // namespace
}  // namespace tailor::tie
