#include "bench/summary.h"

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
  const auto json = nlohmann::json::parse(summary_json(two_rows()));
  EXPECT_DOUBLE_EQ(json["ttft_s"]["mean"], 0.5);
  EXPECT_DOUBLE_EQ(json["tpot_s"]["p99"], 0.5);                // (2.5 - 0.5) / 4
  EXPECT_DOUBLE_EQ(json["per_token_latency_s"]["mean"], 0.5);  // 2.5 / 5
  EXPECT_DOUBLE_EQ(json["tokens_per_s"], 2.0);
  EXPECT_EQ(json["rows"].size(), 2u);
  EXPECT_NE(summary_table(two_rows()).find("1 requests failed"), std::string::npos);
}

}  // namespace
}  // namespace tailor::bench
