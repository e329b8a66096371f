#include "coordinator/predictor_link.h"

#include <gtest/gtest.h>

namespace tailor::coordinator {
namespace {

constexpr comm::LinkId kOne{1}, kTwo{2};

TEST(PredictorLink, AsksOnlyAPredictorThatIsThereAndCountsTheRest) {
  PredictorLink link({2, seconds(4)});
  EXPECT_EQ(link.describe(), "none");
  EXPECT_FALSE(link.ask(RequestId{1}));
  const Time now{seconds(10)};
  EXPECT_TRUE(link.hello(kOne, {"p", "minilm", "head", {}, "1", 7}, now));
  EXPECT_FALSE(link.hello(kOne, {}, now)) << "a sign of life is no news";
  EXPECT_EQ(link.describe(), "ready: p (minilm, head, pid 7)");
  EXPECT_EQ(link.ask(RequestId{2}), kOne);
  EXPECT_EQ(link.ask(RequestId{3}), kOne);
  EXPECT_FALSE(link.ask(RequestId{4})) << "two are open";
  EXPECT_TRUE(link.answered(kOne, RequestId{2}));
  EXPECT_FALSE(link.answered(kOne, RequestId{2})) << "said twice";
  EXPECT_EQ(link.ask(RequestId{5}), kOne);
  EXPECT_EQ(link.counters().unasked, 1u);
  EXPECT_EQ(link.counters().dropped, 1u);
  EXPECT_EQ(link.counters().asked, 3u);
  EXPECT_EQ(link.counters().strays, 1u);
}

TEST(PredictorLink, SilenceLosesItOnceAndAHelloBringsItBack) {
  PredictorLink link({16, seconds(4)});
  Time now{seconds(10)};
  link.hello(kOne, {}, now);
  link.ask(RequestId{1});
  now += milliseconds(3999);
  EXPECT_FALSE(link.fell_silent(now));
  link.forgive(seconds(1));  // we slept
  now += seconds(1);
  EXPECT_FALSE(link.fell_silent(now));
  now += milliseconds(1);
  EXPECT_TRUE(link.fell_silent(now));
  EXPECT_FALSE(link.fell_silent(now)) << "told once";
  EXPECT_EQ(link.counters().unanswered, 1u);
  EXPECT_EQ(link.open(), 0u);
  EXPECT_FALSE(link.ask(RequestId{2}));
  EXPECT_FALSE(link.answered(kOne, RequestId{1})) << "too late: it was lost meanwhile";
  EXPECT_TRUE(link.hello(kOne, {}, now));
  EXPECT_EQ(link.ask(RequestId{3}), kOne);
}

TEST(PredictorLink, TheNewestPredictorCounts) {
  PredictorLink link({16, seconds(4)});
  const Time now{seconds(10)};
  link.hello(kOne, {}, now);
  link.ask(RequestId{1});
  EXPECT_TRUE(link.hello(kTwo, {}, now));
  EXPECT_FALSE(link.answered(kOne, RequestId{1}));
  EXPECT_FALSE(link.gone(kOne)) << "that is old news";
  EXPECT_EQ(link.ask(RequestId{2}), kTwo);
  EXPECT_TRUE(link.gone(kTwo));
  EXPECT_FALSE(link.present());
  EXPECT_EQ(link.counters().losses, 2u);
}

}  // namespace
}  // namespace tailor::coordinator
