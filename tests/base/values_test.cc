#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "base/bytes_held.h"
#include "base/check.h"
#include "base/ids.h"
#include "base/json_text.h"
#include "base/numbers.h"
#include "base/request.h"
#include "base/result.h"

namespace tailor {
namespace {

Result<int> half(int x) {
  if (x % 2) return fail(ErrorCode::kInvalidArgument, "odd");
  return x / 2;
}
Result<int> quarter(int x) {
  TAILOR_ASSIGN(int h, half(x));
  TAILOR_ASSIGN(int q, half(h));
  return q;
}

TEST(Result, ErrorsTravelUpWithTheirCode) {
  EXPECT_EQ(*quarter(8), 2);
  auto bad = quarter(6);
  ASSERT_FALSE(bad);
  EXPECT_EQ(to_string(bad.error()), "InvalidArgument: odd");
  Result<int> wrapped = fail_with("reading x", bad.error());
  EXPECT_EQ(wrapped.error().message, "reading x: odd");
  EXPECT_EQ(wrapped.error().code, ErrorCode::kInvalidArgument);
}

TEST(BytesHeld, EveryTextOfAMessageCounts) {
  const std::string large(1 << 16, 'x');
  api::Submit tenant, stop;
  tenant.tenant = large;
  stop.sampling.stop = {large};
  for (const api::ClientMessage& message :
       {api::ClientMessage(api::Cancel{large, ""}), api::ClientMessage(api::Cancel{"", large}),
        api::ClientMessage(api::Resume{large, {}, ""}),
        api::ClientMessage(api::Resume{"", {}, large}), api::ClientMessage(tenant),
        api::ClientMessage(stop)})
    EXPECT_GE(api::bytes_held(message), large.size()) << message.index();
}

TEST(Check, BrokenInvariantAborts) {
  EXPECT_DEATH(TAILOR_CHECK(1 == 2, "one is two"), "broken invariant: one is two");
}

TEST(SamplingParams, DefaultsAreValid) { EXPECT_TRUE(validate(SamplingParams{}, 100)); }

TEST(SamplingParams, TheLeastAndLargestDocumentedValuesAreTaken) {
  SamplingParams p;
  for (const float penalty : {0.01f, 100.0f}) {
    p.repetition_penalty = penalty;
    EXPECT_TRUE(validate(p, 100)) << penalty;
  }
  p.repetition_penalty = std::nextafter(0.01f, 0.0f);
  EXPECT_EQ(validate(p, 100).error().message,
            "repetition_penalty must be a number in [0.01, 100], found 0.009999999");
  p.repetition_penalty = 1;
  p.n = 64;
  EXPECT_TRUE(validate(p, 100));
}

TEST(Numbers, AreDecimalWholeAndInRange) {
  EXPECT_EQ(parse_number<uint64_t>("18446744073709551615"), UINT64_MAX);
  EXPECT_EQ(parse_number<uint64_t>("010"), 10u);
  EXPECT_EQ(parse_number<int32_t>("-2147483648"), INT32_MIN);
  for (const char* text :
       {"", "-1", "18446744073709551616", "0x10", "1e3", "+5", " 5", "5 ", "5.0"})
    EXPECT_EQ(parse_number<uint64_t>(text), std::nullopt) << text;
  EXPECT_EQ(parse_number<int32_t>("4294967301"), std::nullopt);  // 2^32 + 5
  EXPECT_EQ(parse_number<double>("1e3"), 1000.0);
  for (const char* text : {"", "nan", "inf", "-inf", "1e999", "0x10", "1,5"})
    EXPECT_EQ(parse_number<double>(text), std::nullopt) << text;
}

TEST(JsonText, IsReadToADepthAndNoFurther) {
  const auto nested = [](int depth) {
    return std::string(static_cast<size_t>(depth), '[') +
           std::string(static_cast<size_t>(depth), ']');
  };
  EXPECT_TRUE(parse_json(nested(kMaxJsonDepth)));
  for (const int depth : {kMaxJsonDepth + 1, 100000, 3000000}) {
    EXPECT_EQ(parse_json(nested(depth)).error().message,
              "JSON nested deeper than 100 levels (at byte 100)");
  }
  EXPECT_FALSE(parse_json(std::string(100000, '[')));
  EXPECT_EQ((*parse_json(R"({"a": "[[[\"{{{", "b": [[1]]})"))["b"][0][0], 1);
  EXPECT_TRUE(check_json_depth("\"" + std::string(1000, '[') + "\""));
  EXPECT_EQ(parse_json("{\"a\": NaN}").error().message, "not valid JSON (at byte 6)");
  EXPECT_FALSE(parse_json("\"\xFF\""));
  EXPECT_FALSE(parse_json(""));
}

TEST(SamplingParams, EveryBadFieldIsNamedInOneSentence) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float inf = std::numeric_limits<float>::infinity();
  auto expect_bad = [](const char* field, auto change) {
    SamplingParams p;
    change(p);
    auto result = validate(p, 100);
    ASSERT_FALSE(result) << field;
    EXPECT_EQ(result.error().code, ErrorCode::kInvalidArgument);
    EXPECT_NE(result.error().message.find(field), std::string::npos) << result.error().message;
  };
  for (float bad : {nan, inf, -1.0f})
    expect_bad("temperature", [&](auto& p) { p.temperature = bad; });
  for (float bad : {nan, 0.0f, 1.5f, -0.1f}) expect_bad("top_p", [&](auto& p) { p.top_p = bad; });
  SamplingParams nothing;
  nothing.top_p = 0;
  EXPECT_EQ(validate(nothing, 100).error().message,
            "top_p must be above 0 (1 switches it off), found 0");
  for (float bad : {nan, 2.0f}) expect_bad("min_p", [&](auto& p) { p.min_p = bad; });
  expect_bad("top_k", [](auto& p) { p.top_k = -1; });
  expect_bad("repetition_penalty", [](auto& p) { p.repetition_penalty = 0; });
  expect_bad("presence_penalty", [&](auto& p) { p.presence_penalty = nan; });
  expect_bad("frequency_penalty", [&](auto& p) { p.frequency_penalty = inf; });
  for (int bad : {0, -1, 65}) expect_bad("n must", [&](auto& p) { p.n = bad; });
  expect_bad("max_tokens", [](auto& p) { p.max_tokens = 0; });
  expect_bad("min_tokens", [](auto& p) { p.min_tokens = 257; });
  expect_bad("logprobs", [](auto& p) { p.logprobs = 21; });
  expect_bad("stop string", [](auto& p) { p.stop = {""}; });
  expect_bad("stop string", [](auto& p) { p.stop = {std::string(257, 'x')}; });
  expect_bad("stop strings", [](auto& p) { p.stop.assign(17, "x"); });
  for (int bad : {-1, 100})
    expect_bad("stop_token_ids", [&](auto& p) { p.stop_token_ids = {bad}; });
  expect_bad("logit_bias", [](auto& p) { p.logit_bias = {{100, 1.0f}}; });
  expect_bad("logit_bias", [&](auto& p) { p.logit_bias = {{1, nan}}; });
}

TEST(Ids, SequenceIdsOrderByRequestThenSample) {
  EXPECT_LT((SequenceId{{1}, 5}), (SequenceId{{2}, 0}));
  EXPECT_LT((SequenceId{{1}, 0}), (SequenceId{{1}, 1}));
}

}  // namespace
}  // namespace tailor
