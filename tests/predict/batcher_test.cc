#include "predict/process/batcher.h"

#include <gtest/gtest.h>

namespace tailor::predict {
namespace {

Predict question(uint64_t id) { return {RequestId{id}, "p", 8}; }

TEST(PredictorBatcher, AFullBatchIsDueAtOnceAndAnOldQuestionAfterItsWait) {
  PredictorBatcher batcher({4, milliseconds(3), 100});
  Time now{seconds(1)};
  EXPECT_EQ(batcher.due(), Time::max());
  EXPECT_TRUE(batcher.take(now).empty());
  batcher.add(question(1), now);
  now += milliseconds(2);
  batcher.add(question(2), now);
  EXPECT_EQ(batcher.due(), Time(seconds(1)) + milliseconds(3)) << "the oldest counts";
  EXPECT_TRUE(batcher.take(now).empty());
  now += milliseconds(1);
  auto batch = batcher.take(now);
  ASSERT_EQ(batch.size(), 2u);
  EXPECT_EQ(batch[0].request, RequestId{1});
  for (uint64_t id = 3; id <= 8; ++id) batcher.add(question(id), now);
  EXPECT_LE(batcher.due(), now);
  batch = batcher.take(now);
  ASSERT_EQ(batch.size(), 4u) << "never more";
  EXPECT_EQ(batch[3].request, RequestId{6});
  EXPECT_TRUE(batcher.take(now).empty()) << "two left, and young";
  EXPECT_EQ(batcher.take(now + milliseconds(3)).size(), 2u);
}

TEST(PredictorBatcher, DropsWhatFindsTheQueueFull) {
  PredictorBatcher batcher({4, milliseconds(3), 6});
  const Time now{seconds(1)};
  for (uint64_t id = 1; id <= 9; ++id) batcher.add(question(id), now);
  EXPECT_EQ(batcher.waiting(), 6u);
  EXPECT_EQ(batcher.dropped(), 3u);
  EXPECT_EQ(batcher.take(now).size(), 4u);
  batcher.add(question(10), now);
  EXPECT_EQ(batcher.waiting(), 3u);
}

}  // namespace
}  // namespace tailor::predict
