// The wire codec: what goes in comes out, and nothing that comes in can do harm.
#include <gtest/gtest.h>

#include <cmath>

#include "base/utf8.h"
#include "comm/codec_api.h"
#include "comm/codec_control.h"
#include "comm/codec_shared.h"
#include "tests/comm/link_values.h"

namespace tailor::comm {
namespace {

using test::Dump;
using test::RandomValues;

constexpr size_t kLimit = 1 << 20;
constexpr int kRounds = 3000;

TEST(LinkCodec, ClientMessagesComeBackAsTheyWere) {
  RandomValues random(1);
  for (int i = 0; i < kRounds; ++i) {
    const api::ClientMessage value = random.client_message();
    const auto back = decode_client_message(encode(value), kLimit);
    ASSERT_TRUE(back) << back.error().error.message;
    ASSERT_EQ(Dump::of(value), Dump::of(*back));
  }
}

TEST(LinkCodec, ServerEventsComeBackAsTheyWere) {
  RandomValues random(2);
  for (int i = 0; i < kRounds; ++i) {
    const auto events = random.list([&] { return random.server_event(); });
    const auto back = decode_server_message(encode(events));
    ASSERT_TRUE(back) << back.error().message;
    ASSERT_EQ(Dump::of(events), Dump::of(*back));
  }
}

TEST(LinkCodec, CommandsComeBackAsTheyWere) {
  RandomValues random(3);
  for (int i = 0; i < kRounds; ++i) {
    const CommandFrame value = random.command();
    const auto back = decode_command(encode(value));
    ASSERT_TRUE(back) << back.error().message;
    ASSERT_EQ(Dump::of(value), Dump::of(*back));
  }
}

TEST(LinkCodec, ReportsComeBackAsTheyWere) {
  RandomValues random(4);
  for (int i = 0; i < kRounds; ++i) {
    const ReportFrame value = random.report();
    const auto back = decode_report(encode(value));
    ASSERT_TRUE(back) << back.error().message;
    ASSERT_EQ(Dump::of(value), Dump::of(*back));
  }
}

TEST(LinkCodec, WhatThePredictorIsAskedAndSaysComesBackAsItWas) {
  RandomValues random(14);
  for (int i = 0; i < kRounds; ++i) {
    const PredictorReport value = random.any<PredictorReport>();
    const auto back = decode_control(encode(value));
    ASSERT_TRUE(back) << back.error().message;
    ASSERT_TRUE(std::holds_alternative<PredictorReport>(*back));
    ASSERT_EQ(Dump::of(value), Dump::of(std::get<PredictorReport>(*back)));
    const Predict question{RequestId{random.u64()}, random.text() + '\xFF', random.u32()};
    const auto asked = decode_predict(encode(question));
    ASSERT_TRUE(asked) << asked.error().message;
    ASSERT_EQ(Dump::of(question), Dump::of(*asked));
  }
}

TEST(LinkCodec, AWorkerIsAskedNothingAndAPredictorCommandedNothing) {
  EXPECT_FALSE(decode_command(encode(Predict{RequestId{1}, "why?", 5})).has_value());
  EXPECT_FALSE(decode_predict(encode(CommandFrame{{{}, Drain{}}, {}})).has_value());
  EXPECT_FALSE(decode_report(encode(PredictorReport(Predicted{}))).has_value());
  const auto worker = decode_control(encode(ReportFrame{{{}, Drained{}}, {}}));
  ASSERT_TRUE(worker.has_value());
  EXPECT_TRUE(std::holds_alternative<ReportFrame>(*worker));
}

LengthLaw log_t(float mu, float sigma, float nu) {
  LengthLaw law;
  law.kind = LengthLaw::Kind::kLogT;
  law.mu = mu, law.sigma = sigma, law.nu = nu;
  return law;
}

TEST(LinkCodec, NumbersThatAreNoLawAreRefused) {
  const float nan = std::nanf(""), inf = HUGE_VALF;
  LengthLaw histogram;
  histogram.kind = LengthLaw::Kind::kHistogram;
  histogram.low = 1, histogram.high = 100;
  histogram.bins[3] = 1;
  ASSERT_TRUE(well_formed(histogram));
  std::vector<LengthLaw> wrong = {
      log_t(nan, 1, 3),  log_t(5, 0, 3),   log_t(5, -1, 3),   log_t(inf, 1, 3),    log_t(5, 1, 0),
      log_t(5, inf, 3),  log_t(5, 1, nan), histogram,         histogram,           histogram,
      histogram,         histogram,        log_t(5, 1, 0.4f), log_t(5, 1, 20'000), log_t(101, 1, 3),
      log_t(-101, 1, 3), log_t(5, 101, 3)};
  wrong[7].bins[4] = 1;  // sum 2
  wrong[8].bins[3] = nan;
  wrong[9].high = 1;
  wrong[10].bins[3] = -1;
  wrong[11].high = 2e9f;
  for (const LengthLaw& law : wrong) {
    EXPECT_FALSE(well_formed(law));
    EXPECT_FALSE(decode_control(encode(PredictorReport(Predicted{RequestId{1}, law}))).has_value());
    PredictorHello hello;
    hello.population = law;
    EXPECT_FALSE(decode_control(encode(PredictorReport(hello))).has_value());
    // On a report it costs only itself.
    StepReport report;
    report.step = 7;
    report.laws = {LawProbed{RequestId{1}, Attempt{1}, 0, 0, law},
                   LawProbed{RequestId{2}, Attempt{1}, 0, 0, histogram}};
    report.prefills = {PrefillDone{RequestId{1}, Attempt{1}, 3}};
    const auto back = decode_report(encode(ReportFrame{{{}, report}, {}}));
    ASSERT_TRUE(back.has_value());
    const auto& step = std::get<StepReport>(back->from.report);
    EXPECT_EQ(step.prefills.size(), 1u);
    ASSERT_EQ(step.laws.size(), 1u);
    EXPECT_EQ(step.laws[0].request, RequestId{2});
  }
}

TEST(LinkCodec, DamagedBytesNeverDoMoreThanFail) {
  quiet_protobuf_log();
  RandomValues random(5);
  int refused = 0;
  for (int i = 0; i < kRounds; ++i) {
    std::string bytes = i % 3 == 0   ? encode(random.client_message())
                        : i % 3 == 1 ? encode(random.report())
                                     : encode(random.any<PredictorReport>());
    for (int flips = 1 + static_cast<int>(random.number(4)); flips > 0 && !bytes.empty(); --flips)
      bytes[random.number(bytes.size())] = static_cast<char>(random.number(256));
    if (random.coin()) bytes.resize(random.number(bytes.size() + 1));
    const auto client = decode_client_message(bytes, kLimit);
    refused += client ? 0 : 1;
    if (!client) {
      EXPECT_LE(client.error().request_id.size(), kMaxRequestIdBytes);
      EXPECT_EQ(find_invalid_utf8(client.error().request_id), std::string_view::npos);
      EXPECT_FALSE(client.error().error.message.empty());
    }
    (void)decode_report(bytes).has_value();
    const auto control = decode_control(bytes);
    const auto* predictor = control ? std::get_if<PredictorReport>(&*control) : nullptr;
    const auto* predicted = predictor ? std::get_if<Predicted>(predictor) : nullptr;
    if (predicted) {
      EXPECT_TRUE(well_formed(predicted->law));
    }
    (void)decode_predict(bytes).has_value();
    (void)decode_command(bytes).has_value();
    (void)decode_server_message(bytes).has_value();
    (void)decode_doorbell(bytes).has_value();
  }
  EXPECT_GT(refused, kRounds / 4);
}

TEST(LinkCodec, RandomGarbageIsRefused) {
  RandomValues random(6);
  for (int i = 0; i < kRounds; ++i) {
    std::string bytes(random.number(200), '\0');
    for (char& c : bytes) c = static_cast<char>(random.number(256));
    (void)decode_client_message(bytes, kLimit).has_value();
  }
  EXPECT_FALSE(decode_client_message(std::string(1000, '\xFF'), kLimit).has_value());
  EXPECT_FALSE(decode_client_message("", kLimit).has_value());
}

api::Submit submit_of(std::string text) {
  api::Submit s;
  s.request_id = "r1";
  s.prompt = std::move(text);
  return s;
}

BadClientMessage refusal(const std::string& bytes, size_t limit = kLimit) {
  const auto back = decode_client_message(bytes, limit);
  EXPECT_FALSE(back.has_value());
  return back ? BadClientMessage{} : back.error();
}

TEST(LinkCodec, LargePromptIsLimitExceededWithBothNumbers) {
  for (size_t bytes : {1001u, 2000u, 10u << 20}) {
    const auto bad = refusal(encode(api::ClientMessage(submit_of(std::string(bytes, 'x')))), 1000);
    EXPECT_TRUE(bad.answerable);
    EXPECT_EQ(bad.request_id, "r1");
    EXPECT_EQ(bad.error.code, ErrorCode::kLimitExceeded);
    EXPECT_NE(bad.error.message.find("1000"), std::string::npos) << bad.error.message;
  }
  EXPECT_TRUE(
      decode_client_message(encode(api::ClientMessage(submit_of(std::string(1000, 'x')))), 1000));
}

TEST(LinkCodec, TokenIdsCountFourBytes) {
  api::Submit s = submit_of("");
  s.prompt = std::vector<TokenId>(251, 7);
  EXPECT_EQ(refusal(encode(api::ClientMessage(s)), 1000).error.code, ErrorCode::kLimitExceeded);
  s.prompt = std::vector<TokenId>(250, 7);
  EXPECT_TRUE(decode_client_message(encode(api::ClientMessage(s)), 1000));
}

TEST(LinkCodec, TextThatIsNotUtf8IsAnsweredByItsRequestId) {
  std::string bytes = encode(api::ClientMessage(submit_of("abcdef")));
  bytes[bytes.find("abc") + 1] = '\xFF';
  const auto bad = refusal(bytes);
  EXPECT_TRUE(bad.answerable);
  EXPECT_EQ(bad.request_id, "r1");
  EXPECT_EQ(bad.error.code, ErrorCode::kProtocol);
}

TEST(LinkCodec, HalfAMessageIsAnsweredByItsRequestId) {
  const std::string bytes = encode(api::ClientMessage(submit_of(std::string(500, 'x'))));
  const auto bad = refusal(bytes.substr(0, bytes.size() / 2));
  EXPECT_TRUE(bad.answerable);
  EXPECT_EQ(bad.request_id, "r1");
}

TEST(LinkCodec, RequestIdMustHave1To128Bytes) {
  api::Submit s = submit_of("x");
  s.request_id = std::string(128, 'i');
  EXPECT_TRUE(decode_client_message(encode(api::ClientMessage(s)), kLimit));
  s.request_id = std::string(127, 'i') + "\xC3\xBC";  // cut before the half character
  auto bad = refusal(encode(api::ClientMessage(s)));
  EXPECT_EQ(bad.error.code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(bad.request_id, std::string(127, 'i'));
  bad = refusal(encode(api::ClientMessage(api::Cancel{""})));
  EXPECT_EQ(bad.error.code, ErrorCode::kInvalidArgument);
}

// Raw wire bytes of fields that this version's encoder never writes.
std::string field(int number, const std::string& content) {
  std::string out(1, static_cast<char>(number << 3 | 2));
  size_t size = content.size();
  for (; size >= 0x80; size >>= 7) out.push_back(static_cast<char>(size | 0x80));
  out.push_back(static_cast<char>(size));
  return out + content;
}
std::string varint_field(int number, char value) { return {static_cast<char>(number << 3), value}; }

TEST(LinkCodec, AKindOfMessageFromALaterVersionIsAnsweredWithOurVersion) {
  const auto bad =
      refusal(varint_field(1, 1) + field(15, field(1, "later-7") + varint_field(2, 3)));
  EXPECT_TRUE(bad.answerable);
  EXPECT_EQ(bad.request_id, "later-7");
  EXPECT_EQ(bad.error.code, ErrorCode::kProtocol);
  EXPECT_NE(bad.error.message.find("speaks version 1"), std::string::npos);
  EXPECT_FALSE(refusal(varint_field(1, 1)).answerable);  // no body at all
}

TEST(LinkCodec, AnotherProtocolVersionIsRefusedAndZeroIsOne) {
  const std::string body = field(3, field(1, "r9"));
  const auto bad = refusal(varint_field(1, 2) + body);
  EXPECT_EQ(bad.request_id, "r9");
  EXPECT_EQ(bad.error.code, ErrorCode::kProtocol);
  EXPECT_TRUE(decode_client_message(body, kLimit));
}

// Sizes of parts, in messages that would be many times as large once decoded.
TEST(LinkCodec, EachPartOfASubmitHasItsOwnLimitAndIsNamed) {
  struct Case {
    std::string fields;  // of Submit, behind request_id and text
    std::string words;
  };
  std::string empty_biases, many_messages, unknown;
  for (int i = 0; i < 100'000; ++i) empty_biases += field(8, "");
  for (int i = 0; i < 21'000; ++i) many_messages += field(1, "");
  for (int i = 0; i < 40'000; ++i) unknown += varint_field(15, 1);
  const Case cases[] = {
      {field(8, std::string(6'000'000, 't')), "tenant has 6000000 bytes, the limit is 256"},
      {field(8, std::string(200, 't')) + field(8, std::string(57, 't')), "tenant has 257 bytes"},
      {field(6, empty_biases), "beside its prompt"},
      {field(6, field(14, std::string(70'000, 's'))), "beside its prompt"},
      {unknown, "beside its prompt"},
      {field(13, std::string(70'000, '?')), "beside its prompt"},
      {field(3, many_messages), "the prompt has 1092002 bytes"},
      {field(2, std::string(kLimit, 'x')), "the prompt has 1048578 bytes"},
  };
  for (const Case& c : cases) {
    const std::string bytes = field(2, field(1, "r1") + field(2, "Hi") + c.fields);
    for (const std::string& said : {bytes, bytes.substr(0, max_client_message_bytes(kLimit) + 1)}) {
      const auto bad = refusal(said);
      EXPECT_TRUE(bad.answerable);
      EXPECT_EQ(bad.request_id, "r1");
      EXPECT_EQ(bad.error.code, ErrorCode::kLimitExceeded) << bad.error.message;
      EXPECT_NE(bad.error.message.find(c.words), std::string::npos) << bad.error.message;
    }
  }
  const auto resume = refusal(field(5, field(1, "r2") + field(2, std::string(70'000, 1))));
  EXPECT_EQ(resume.request_id, "r2");
  EXPECT_EQ(resume.error.code, ErrorCode::kLimitExceeded);
}

TEST(LinkCodec, TheLargestOfEveryPartPasses) {
  api::Submit s = submit_of(std::string(kLimit, 'x'));
  s.tenant = std::string(kMaxTenantBytes, 't');
  s.sampling.stop.assign(16, std::string(256, 's'));
  s.sampling.stop_token_ids.assign(64, (1 << 30) + 1);
  for (int i = 0; i < 1024; ++i) s.sampling.logit_bias.emplace_back((1 << 30) + i, 1.f);
  EXPECT_TRUE(decode_client_message(encode(api::ClientMessage(s)), kLimit));
  s.prompt = std::vector<TokenId>(kLimit / 4, (1 << 30) + 1);
  EXPECT_TRUE(decode_client_message(encode(api::ClientMessage(s)), kLimit));
  s.prompt = std::vector<api::ChatMessage>(
      64, {std::string(8, 'r'), std::string(kLimit / 64 - 8 - kChatMessageBytes, 'c')});
  EXPECT_TRUE(decode_client_message(encode(api::ClientMessage(s)), kLimit));
}

TEST(LinkCodec, UnknownFieldsAreIgnored) {
  const auto message = decode_client_message(
      field(3, field(1, "r9") + field(14, "new")) + varint_field(14, 1), kLimit);
  ASSERT_TRUE(message);
  EXPECT_EQ(std::get<api::Cancel>(*message).request_id, "r9");
}

TEST(LinkCodec, EnumsOutOfRangeAndDeadlinesThatAreNoneAreInvalid) {
  auto bad = refusal(field(2, field(1, "r") + field(2, "x") + varint_field(7, 4)));
  EXPECT_EQ(bad.error.code, ErrorCode::kInvalidArgument);
  bad = refusal(field(2, field(1, "r") + field(2, "x") + varint_field(9, 0)));
  EXPECT_EQ(bad.error.code, ErrorCode::kInvalidArgument);
  bad = refusal(field(2, field(1, "r")));
  EXPECT_EQ(bad.error.code, ErrorCode::kInvalidArgument) << "no prompt";
}

TEST(LinkCodec, AbsentFieldsTakeTheDefaultsOfTheValues) {
  const auto message = decode_client_message(field(2, field(1, "r") + field(2, "x")), kLimit);
  ASSERT_TRUE(message);
  api::Submit expected = submit_of("x");
  expected.request_id = "r";
  EXPECT_EQ(Dump::of(std::get<api::Submit>(*message)), Dump::of(expected));
}

TEST(LinkCodec, ANeutralValueThatIsGivenIsNotAnAbsentOne) {
  api::Submit s = submit_of("x");
  s.sampling = api::Sampling(SamplingParams{});
  const auto back = decode_client_message(encode(api::ClientMessage(s)), kLimit);
  ASSERT_TRUE(back);
  const api::Sampling& given = std::get<api::Submit>(*back).sampling;
  EXPECT_EQ(given.temperature, 1.0f);
  EXPECT_EQ(given.top_k, 0);
  EXPECT_EQ(given.top_p, 1.0f);
  EXPECT_EQ(given.min_p, 0.0f);
  EXPECT_EQ(given.repetition_penalty, 1.0f);
}

TEST(LinkCodec, NanTemperatureReachesValidation) {
  api::Submit s = submit_of("x");
  s.sampling.temperature = std::nanf("");
  const auto back = decode_client_message(encode(api::ClientMessage(s)), kLimit);
  ASSERT_TRUE(back);
  EXPECT_FALSE(validate(std::get<api::Submit>(*back).sampling.resolved({}), 100));
}

TEST(LinkCodec, AnEndlessDeadlineIsNone) {
  api::Submit s = submit_of("x");
  s.deadline = Duration::max();
  const auto back = decode_client_message(encode(api::ClientMessage(s)), kLimit);
  ASSERT_TRUE(back);
  EXPECT_FALSE(std::get<api::Submit>(*back).deadline.has_value());
}

TEST(LinkCodec, ServerTextIsMadeUtf8ByteForByte) {
  const auto back = decode_server_message(encode(std::vector<api::ServerEvent>{
      api::TokenChunk{"r", 0, 0, {1}, 0, "a\xE2\x82\xFFz\xE2\x82\xAC\xC3", {}}}));
  ASSERT_TRUE(back);
  EXPECT_EQ(std::get<api::TokenChunk>(back->at(0)).text, "a???z\xE2\x82\xAC?");
}

TEST(LinkCodec, ControlMessagesOfAnotherVersionAreRefusedWithBothNumbers) {
  std::string bytes = encode(ReportFrame{{{}, Drained{}}, {}});
  bytes[1] = 9;  // protocol_version is the first field
  const auto back = decode_report(bytes);
  ASSERT_FALSE(back);
  EXPECT_NE(back.error().message.find("version 9"), std::string::npos) << back.error().message;
}

}  // namespace
}  // namespace tailor::comm
