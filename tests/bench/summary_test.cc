#include "bench/summary.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace tailor::bench {
namespace {

TEST(Statistics, PercentilesInterpolateLikeNumpy) {
  // numpy.percentile([4, 1, 3, 2], [50, 90, 99]) = [2.5, 3.7, 3.97]
  const Statistics s = statistics({4, 1, 3, 2});
  EXPECT_DOUBLE_EQ(s.mean, 2.5);
  EXPECT_DOUBLE_EQ(s.p50, 2.5);
  EXPECT_NEAR(s.p90, 3.7, 1e-12);
  EXPECT_NEAR(s.p99, 3.97, 1e-12);
  EXPECT_EQ(statistics({}).p99, 0);
  EXPECT_EQ(statistics({7}).p90, 7);
}

LoadResult two_rows() {
  RequestRow good;
  good.first_token_s = 0.5;
  good.finished_s = 2.5;
  good.output_tokens = 5;
  good.queue_wait_s = 0.25;
  RequestRow bad;
  bad.index = 1;
  bad.finished_s = 0.1;
  bad.error = "QueueFull: later";
  LoadResult result;
  result.rows = {good, bad};
  result.wall_s = 2.5;
  return result;
}

TEST(Summary, FailedRequestsAreCountedAndKeptOutOfTheTimes) {
  const auto json = nlohmann::json::parse(summary_json(two_rows(), "fcfs"));
  EXPECT_DOUBLE_EQ(json["ttft_s"]["mean"], 0.5);
  EXPECT_DOUBLE_EQ(json["tpot_s"]["p99"], 0.5);                // (2.5 - 0.5) / 4
  EXPECT_DOUBLE_EQ(json["per_token_latency_s"]["mean"], 0.5);  // 2.5 / 5
  EXPECT_DOUBLE_EQ(json["tokens_per_s"], 2.0);
  EXPECT_EQ(json["rows"].size(), 2u);
  EXPECT_NE(summary_table(two_rows()).find("1 requests failed"), std::string::npos);
}

TEST(Comparison, GivesTheRatioOfBothRunsAndCountsEqualAnswers) {
  LoadResult before = two_rows(), after = two_rows();
  before.rows[1].error.clear();
  after.rows[1].error.clear();
  after.rows[0].first_token_s = 0.25;
  after.rows[1].tokens_hash = 7;
  const auto table = comparison_table(summary_json(before, "fcfs"), after, "tie");
  ASSERT_TRUE(table) << table.error().message;
  // (0.25 + 0) / (0.5 + 0); the second request gave other tokens.
  EXPECT_THAT(*table, testing::ContainsRegex("time to first token +mean +250.0 +125.0 +0.50"));
  EXPECT_THAT(*table, testing::HasSubstr("the same tokens in both runs: 1 of 2 answers"));
}

TEST(Comparison, OfOtherRequestsOrOfNoRunIsRefused) {
  LoadResult one = two_rows();
  one.rows.pop_back();
  const auto other = comparison_table(summary_json(one, "fcfs"), two_rows(), "tie");
  ASSERT_FALSE(other);
  EXPECT_EQ(other.error().message, "the former run had 1 requests, this one 2");
  for (const char* text : {"", "{}", R"({"label": "fcfs", "rows": [1, 2]})",
                           R"({"label": 1, "rows": [1, 2], "ttft_s": {"mean": 1}})"})
    EXPECT_EQ(comparison_table(text, two_rows(), "tie").error().code, ErrorCode::kInvalidArgument)
        << text;
}

}  // namespace
}  // namespace tailor::bench
