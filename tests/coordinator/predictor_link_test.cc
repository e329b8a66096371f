#include "coordinator/predictor_link.h"

#include <gtest/gtest.h>

namespace tailor::coordinator {
namespace {

constexpr comm::LinkId kOne{1}, kTwo{2};

TEST(PredictorLink, AsksOnlyAPredictorThatIsThereAndCountsTheRest) {
  PredictorLink link({2, seconds(4)});
  EXPECT_EQ(link.describe(), "none");
  const Time now{seconds(10)};
  EXPECT_FALSE(link.ask(RequestId{1}, now));
  EXPECT_TRUE(link.hello(kOne, {"p", "minilm", "head", {}, "1", 7}, now));
  EXPECT_FALSE(link.hello(kOne, {}, now)) << "a sign of life is no news";
  EXPECT_EQ(link.describe(), "ready: p (minilm, head, pid 7)");
  EXPECT_EQ(link.ask(RequestId{2}, now), kOne);
  EXPECT_EQ(link.ask(RequestId{3}, now), kOne);
  EXPECT_FALSE(link.ask(RequestId{4}, now)) << "two are open";
  EXPECT_TRUE(link.answered(kOne, RequestId{2}));
  EXPECT_FALSE(link.answered(kOne, RequestId{2})) << "said twice";
  EXPECT_EQ(link.ask(RequestId{5}, now), kOne);
  EXPECT_EQ(link.counters().unasked, 1u);
  EXPECT_EQ(link.counters().dropped, 1u);
  EXPECT_EQ(link.counters().asked, 3u);
  EXPECT_EQ(link.counters().strays, 1u);
}

TEST(PredictorLink, SilenceLosesItOnceAndAHelloBringsItBack) {
  PredictorLink link({16, seconds(4)});
  Time now{seconds(10)};
  link.hello(kOne, {}, now);
  link.ask(RequestId{1}, now);
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
  EXPECT_FALSE(link.ask(RequestId{2}, now));
  EXPECT_FALSE(link.answered(kOne, RequestId{1})) << "too late: it was lost meanwhile";
  EXPECT_TRUE(link.hello(kOne, {}, now));
  EXPECT_EQ(link.ask(RequestId{3}, now), kOne);
}

TEST(PredictorLink, AMutePredictorIsLostButForOneQuestionAtATimeUntilItAnswers) {
  PredictorLink link({16, seconds(4), seconds(30)});
  Time now{seconds(10)};
  link.hello(kOne, {"p", "minilm", "head", {}, "1", 7}, now);
  link.ask(RequestId{1}, now);
  link.ask(RequestId{2}, now + seconds(10));
  // its io thread says hello whatever its main thread does
  const auto live_until = [&](Time time) {
    now = time;
    link.hello(kOne, {}, now);
    EXPECT_FALSE(link.fell_silent(now));
  };
  live_until(Time{seconds(40) - Duration(1)});
  EXPECT_FALSE(link.fell_mute(now));
  link.forgive(seconds(1));  // we slept
  live_until(Time{seconds(40)});
  EXPECT_FALSE(link.fell_mute(now));
  live_until(Time{seconds(41)});
  EXPECT_TRUE(link.fell_mute(now));
  EXPECT_FALSE(link.fell_mute(now)) << "told once";
  EXPECT_FALSE(link.present());
  EXPECT_EQ(link.describe(), "lost: p (minilm, head, pid 7)");
  EXPECT_EQ(link.counters().unanswered, 2u);
  EXPECT_EQ(link.ask(RequestId{3}, now), kOne);
  EXPECT_FALSE(link.ask(RequestId{4}, now)) << "one at a time";
  live_until(Time{seconds(71)});
  EXPECT_FALSE(link.fell_mute(now));
  EXPECT_EQ(link.open(), 0u);
  EXPECT_EQ(link.ask(RequestId{5}, now), kOne);
  EXPECT_FALSE(link.answered(kTwo, RequestId{5}));
  EXPECT_FALSE(link.present()) << "that was another one";
  EXPECT_FALSE(link.answered(kOne, RequestId{1})) << "too late, but it answers";
  EXPECT_TRUE(link.present());
  EXPECT_TRUE(link.answered(kOne, RequestId{5}));
  EXPECT_EQ(link.counters().losses, 1u);
}

TEST(PredictorLink, AQuestionThatIsNeverAnsweredIsClosedWhileOthersAre) {
  PredictorLink link({2, seconds(4), seconds(30)});
  Time now{seconds(10)};
  link.hello(kOne, {}, now);
  link.ask(RequestId{1}, now);
  link.ask(RequestId{2}, now);
  EXPECT_TRUE(link.answered(kOne, RequestId{2}));
  now += seconds(30);
  EXPECT_FALSE(link.fell_mute(now));
  EXPECT_EQ(link.open(), 0u);
  EXPECT_TRUE(link.present());
  EXPECT_EQ(link.counters().unanswered, 1u);
}

TEST(PredictorLink, TheNewestPredictorCounts) {
  PredictorLink link({16, seconds(4)});
  const Time now{seconds(10)};
  link.hello(kOne, {}, now);
  link.ask(RequestId{1}, now);
  EXPECT_TRUE(link.hello(kTwo, {}, now));
  EXPECT_FALSE(link.answered(kOne, RequestId{1}));
  EXPECT_FALSE(link.gone(kOne)) << "that is old news";
  EXPECT_EQ(link.ask(RequestId{2}, now), kTwo);
  EXPECT_TRUE(link.gone(kTwo));
  EXPECT_FALSE(link.present());
  EXPECT_EQ(link.counters().losses, 2u);
}

}  // namespace
}  // namespace tailor::coordinator
