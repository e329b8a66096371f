#include "client/answer.h"

#include <gtest/gtest.h>

namespace tailor::client {
namespace {

api::Submit submit_of(int n) {
  api::Submit submit;
  submit.request_id = "r";
  submit.sampling.n = n;
  return submit;
}

api::TokenChunk chunk(uint32_t sample, uint32_t first, std::vector<TokenId> ids, uint64_t offset,
                      std::string text) {
  return {"r", sample, first, std::move(ids), offset, std::move(text), {}};
}

TEST(Answer, DropsRepeatsByTokenIndexAndTextOffset) {
  Answer answer(submit_of(1));
  EXPECT_EQ(answer.add(chunk(0, 0, {1, 2}, 0, "ab")).value(), "ab");
  EXPECT_EQ(answer.add(chunk(0, 0, {1, 2}, 0, "ab")).value(), "");
  EXPECT_EQ(answer.add(chunk(0, 1, {2, 3}, 1, "bc")).value(), "c");
  EXPECT_EQ(answer.samples()[0].token_ids, (std::vector<TokenId>{1, 2, 3}));
  EXPECT_EQ(answer.samples()[0].text, "abc");
}

TEST(Answer, RefusesAHoleAndASampleNobodyAskedFor) {
  Answer answer(submit_of(1));
  EXPECT_EQ(answer.add(chunk(0, 1, {2}, 0, "b")).error().code, ErrorCode::kProtocol);
  EXPECT_EQ(answer.add(chunk(1, 0, {2}, 0, "b")).error().code, ErrorCode::kProtocol);
}

TEST(Answer, WritesOneObjectWithTimingsInSecondsAndAllSamples) {
  Answer answer(submit_of(2));
  answer.accept({"r", {7, 8}, 5, 16});
  ASSERT_TRUE(answer.add(chunk(0, 0, {1}, 0, "a")).has_value());
  ASSERT_TRUE(answer.add(chunk(1, 0, {2, 3}, 0, "\xFF")).has_value());
  api::Finished finished;
  finished.samples = {{FinishReason::kStop, "", 1}, {FinishReason::kLength, "", 2}};
  finished.prompt_tokens = 2;
  finished.cached_tokens = 1;
  finished.timings.first_token = milliseconds(250);
  finished.error.code = ErrorCode::kOk;
  answer.finish(finished);

  const nlohmann::json out = nlohmann::json::parse(dump_line(answer.to_json()));
  EXPECT_EQ(out["prompt_token_ids"], nlohmann::json({7, 8}));
  EXPECT_EQ(out["token_ids"], nlohmann::json::array({1}));
  EXPECT_EQ(out["text"], "a");
  EXPECT_EQ(out["finish_reason"], "stop");
  EXPECT_EQ(out["seed"], 5);
  EXPECT_DOUBLE_EQ(out["timings"]["first_token"].get<double>(), 0.25);
  EXPECT_EQ(out["samples"][1]["finish_reason"], "length");
  EXPECT_EQ(out["samples"][1]["text"], "\xEF\xBF\xBD");
  EXPECT_EQ(out["usage"]["completion_tokens"], 3);
  EXPECT_EQ(out["usage"]["prompt_tokens_details"]["cached_tokens"], 1);
  EXPECT_FALSE(out.contains("error"));
}

TEST(Answer, ARejectedRequestIsAnErrorObject) {
  Answer answer(submit_of(1));
  answer.fail({ErrorCode::kQueueFull, "the queue is full"});
  const nlohmann::json out = answer.to_json();
  EXPECT_EQ(out["error"]["code"], "QueueFull");
  EXPECT_FALSE(out.contains("token_ids"));
}

TEST(Answer, OneWhoseAcceptanceWasLostIsStillShown) {
  Answer begun(submit_of(1));
  ASSERT_TRUE(begun.add(chunk(0, 0, {1}, 0, "a")).has_value());
  EXPECT_TRUE(begun.accepted());
  EXPECT_EQ(begun.to_json()["text"], "a");

  Answer ended(submit_of(1));
  api::Finished finished;
  finished.samples = {{FinishReason::kStop, "", 0}};
  finished.error.code = ErrorCode::kOk;
  ended.finish(finished);
  EXPECT_EQ(ended.to_json()["finish_reason"], "stop");

  Answer failed(submit_of(1));
  finished.error = {ErrorCode::kUnavailable, "gone"};
  failed.finish(finished);
  EXPECT_FALSE(failed.accepted());
}

}  // namespace
}  // namespace tailor::client
