// The control link's bytes, made by hand: what another version or a vandal could send. What is
// unknown is skipped, what is missing has its default, what does not add up is refused, and nothing
// holds more memory than a multiple of its bytes.
#include <gtest/gtest.h>

#include <cmath>

#include "base/bytes_held.h"
#include "base/wire_reader.h"
#include "comm/codec_control.h"
#include "tests/comm/link_values.h"

namespace tailor::comm {
namespace {

using test::Dump;
using test::RandomValues;

constexpr int kRounds = 300;

/// Protobuf's wire format, by hand.
class Bytes {
 public:
  Bytes& varint(uint32_t field, uint64_t value) { return tag(field, 0).bare(value); }
  Bytes& fixed64(uint32_t field, uint64_t value) { return tag(field, 1).raw(&value, 8); }
  Bytes& fixed32(uint32_t field, float value) { return tag(field, 5).raw(&value, 4); }
  Bytes& bytes(uint32_t field, const std::string& content) {
    return tag(field, 2).bare(content.size()).raw(content.data(), content.size());
  }
  Bytes& bytes(uint32_t field, const Bytes& content) { return bytes(field, content.out_); }
  Bytes& packed(uint32_t field, const std::vector<uint64_t>& values) {
    Bytes list;
    for (const uint64_t value : values) list.bare(value);
    return bytes(field, list);
  }
  Bytes& ids(uint32_t field, const std::vector<uint64_t>& values) {
    return bytes(field, std::string(reinterpret_cast<const char*>(values.data()),
                                    values.size() * sizeof(uint64_t)));
  }
  Bytes& bare(uint64_t value) {
    for (; value >= 0x80; value >>= 7) out_.push_back(static_cast<char>(value | 0x80));
    out_.push_back(static_cast<char>(value));
    return *this;
  }
  /// Every kind of field, none of them known to any message.
  Bytes& unknown() {
    return varint(900, UINT64_MAX).fixed64(901, 7).fixed32(902, 7).bytes(903, Bytes().varint(1, 1));
  }
  const std::string& str() const { return out_; }

 private:
  Bytes& tag(uint32_t field, uint32_t type) { return bare(field << 3 | type); }
  Bytes& raw(const void* from, size_t size) {
    out_.append(static_cast<const char*>(from), size);
    return *this;
  }
  std::string out_;
};

constexpr uint32_t kDispatch = 11, kDrain = 13, kStepReport = 11, kPayload = 30;

Bytes versioned() { return Bytes().varint(1, kControlProtocolVersion); }
Bytes step_frame(const Bytes& step, const Bytes& payload) {
  return versioned().bytes(kStepReport, step).bytes(kPayload, payload);
}
/// Entries of `requests`, without a token; the other columns are missing.
Bytes progress_of(const std::vector<uint64_t>& requests) { return Bytes().ids(1, requests); }
/// The payload of so many entries without a token.
Bytes empty_texts(size_t entries) {
  return Bytes().bytes(2, Bytes().packed(2, std::vector<uint64_t>(entries, 0)));
}

ReportFrame taken(const Bytes& bytes) {
  auto frame = decode_report(bytes.str());
  EXPECT_TRUE(frame) << frame.error().message;
  return frame ? std::move(*frame) : ReportFrame{};
}
StepReport taken_step(const Bytes& bytes) {
  const ReportFrame frame = taken(bytes);
  const auto* step = std::get_if<StepReport>(&frame.from.report);
  EXPECT_NE(step, nullptr);
  return step != nullptr ? *step : StepReport{};
}
void expect_refused(const std::string& bytes, const char* what) {
  const auto frame = decode_report(bytes);
  ASSERT_FALSE(frame) << what;
  EXPECT_EQ(frame.error().code, ErrorCode::kProtocol) << what;
}
void expect_command_refused(const std::string& bytes, const char* what) {
  const auto frame = decode_command(bytes);
  ASSERT_FALSE(frame) << what;
  EXPECT_EQ(frame.error().code, ErrorCode::kProtocol) << what;
}

// ---- other versions ----

TEST(LinkWire, UnknownFieldsAreSkippedWhereverTheyStand) {
  const Bytes envelope = Bytes().varint(1, 3).unknown().varint(2, 4).varint(3, 5);
  const Bytes progress = progress_of({7, 8})
                             .packed(5, {0, 0})
                             .unknown()
                             .packed(40, {1, 2, 3})  // a column of a later version
                             .packed(6, {0, 1});
  const Bytes law = Bytes().varint(1, 1).fixed32(2, 5).unknown().fixed32(3, 1).fixed32(4, 3);
  const Bytes probed = Bytes().fixed64(1, 7).unknown().bytes(5, law);
  const Bytes step = Bytes().unknown().varint(1, 9).bytes(10, progress).bytes(13, probed).unknown();
  const Bytes payload = empty_texts(2).unknown().bytes(5, Bytes().varint(1, 1).unknown());
  const ReportFrame frame = taken(versioned()
                                      .unknown()
                                      .bytes(2, envelope)
                                      .bytes(kStepReport, step)
                                      .unknown()
                                      .bytes(kPayload, payload));
  EXPECT_EQ(frame.from.envelope, (Envelope{ReplicaId{3}, Epoch{4}, 5}));
  const auto& report = std::get<StepReport>(frame.from.report);
  EXPECT_EQ(report.step, 9u);
  ASSERT_EQ(report.progress.size(), 2u);
  EXPECT_EQ(report.progress[1].request, RequestId{8});
  EXPECT_EQ(report.progress[1].finish, FinishReason::kStop);
  ASSERT_EQ(report.laws.size(), 1u);
  EXPECT_EQ(report.laws[0].law.nu, 3.0f);
  ASSERT_EQ(frame.payload.ends.size(), 1u);
  EXPECT_EQ(frame.payload.ends[0].entry, 1u);

  const auto command = decode_command(versioned().unknown().bytes(kDrain, Bytes().unknown()).str());
  ASSERT_TRUE(command);
  EXPECT_TRUE(std::holds_alternative<Drain>(command->to.command));
}

TEST(LinkWire, FieldsOfAnotherTypeAreUnknownOnes) {
  const StepReport step = taken_step(
      versioned()
          .bytes(kStepReport, Bytes().bytes(1, "nine").fixed64(6, 9).varint(10, 9).varint(13, 9))
          .bytes(kPayload, Bytes().varint(3, 1)));
  EXPECT_EQ(Dump::of(step), Dump::of(StepReport{}));
  expect_command_refused(versioned().varint(kDrain, 1).str(), "a drain that is a number");
  expect_refused(versioned().varint(12, 1).str(), "a drained that is a number");
  EXPECT_FALSE(decode_predict(versioned().varint(20, 1).str()).has_value());
}

TEST(LinkWire, WhatIsMissingHasItsDefault) {
  const Bytes columns = Bytes().ids(1, {7, 8}).packed(3, {4, 5});
  const StepReport step = taken_step(
      step_frame(Bytes().bytes(10, columns).bytes(11, Bytes().packed(3, {6})), empty_texts(2)));
  ASSERT_EQ(step.progress.size(), 2u);
  EXPECT_EQ(Dump::of(step.progress[1]),
            Dump::of(SequenceProgress{.request = RequestId{8}, .attempt = Attempt{5}}));
  ASSERT_EQ(step.prefills.size(), 1u);
  EXPECT_EQ(Dump::of(step.prefills[0]), Dump::of(PrefillDone{{}, {}, 6}));
  EXPECT_EQ(Dump::of(taken_step(step_frame({}, {}))), Dump::of(StepReport{}));

  const Bytes said = Bytes().varint(5, 256);  // max_tokens, as the request's default
  const auto command = decode_command(
      versioned().bytes(kDispatch, said).bytes(kPayload, Bytes().bytes(1, Bytes())).str());
  ASSERT_TRUE(command);  // one sample of no prompt
  EXPECT_EQ(Dump::of(*command->payload.request), Dump::of(Request{}));
}

TEST(LinkWire, ListsOfNumbersMayComeOneByOneAndInPieces) {
  const Bytes columns =
      Bytes().fixed64(1, 7).varint(5, 1).ids(1, {8, 9}).varint(5, 0).packed(5, {2}).packed(2, {});
  const Bytes texts = Bytes().varint(2, 0).packed(2, {0, 0});
  const ReportFrame frame = taken(step_frame(
      Bytes().bytes(10, columns),
      Bytes().varint(1, 70).bytes(2, texts).packed(1, {80}).varint(1, static_cast<uint64_t>(-1))));
  const auto& progress = std::get<StepReport>(frame.from.report).progress;
  ASSERT_EQ(progress.size(), 3u);
  for (uint32_t i = 0; i < 3; ++i) EXPECT_EQ(progress[i].request, RequestId{7 + i});
  EXPECT_EQ(progress[0].num_tokens, 1u);
  EXPECT_EQ(progress[2].num_tokens, 2u);
  EXPECT_EQ(frame.payload.token_ids, (std::vector<TokenId>{70, 80, -1}));
}

// ---- what does not add up ----

TEST(LinkWire, ColumnsOfDifferentLengthsAreRefused) {
  for (const Bytes& columns :
       {Bytes().ids(1, {7, 8}).packed(5, {0}), Bytes().ids(1, {7}).packed(5, {0, 0}),
        Bytes().packed(5, {0, 0}).ids(1, {7}), Bytes().ids(1, {7}).varint(5, 0).varint(5, 0)}) {
    expect_refused(step_frame(Bytes().bytes(10, columns), empty_texts(1)).str(), "progress");
    expect_refused(step_frame(Bytes().bytes(10, columns), empty_texts(2)).str(), "progress");
  }
  expect_refused(
      step_frame(Bytes().bytes(11, Bytes().ids(1, {1, 2}).packed(2, {1})), Bytes()).str(),
      "prefills");
  expect_refused(step_frame({}, Bytes().bytes(2, Bytes().packed(2, {0}).packed(3, {0, 0}))).str(),
                 "texts");
}

TEST(LinkWire, TruncatedNumbersAreRefused) {
  const std::string cut(1, '\x80'), endless(11, '\x80');
  for (const std::string& wrong : {cut, endless, "\x01" + cut, endless + "\x01"}) {
    expect_refused(versioned().str() + wrong, "tag");
    expect_refused(step_frame(Bytes().bytes(10, Bytes().bytes(5, wrong)), empty_texts(1)).str(),
                   "column");
    expect_refused(step_frame({}, Bytes().bytes(1, wrong)).str(), "list");
  }
  expect_refused(
      step_frame(Bytes().bytes(10, Bytes().bytes(1, std::string(12, 'x'))), empty_texts(1)).str(),
      "half an id");
  expect_refused(versioned().str() + std::string("\x65\x05"
                                                 "abc"),
                 "fixed32 behind the end");
  expect_refused(versioned().str() + std::string("\x62\x05"
                                                 "abc"),
                 "bytes behind the end");
  expect_refused(versioned().bytes(12, "").str() + "\x0B", "a group");
  expect_refused(versioned().bytes(12, "").str() + std::string(2, '\0'), "field 0");
  expect_refused("", "nothing");
  expect_refused(versioned().str(), "no report");
  expect_refused(Bytes().bytes(12, "").str(), "no version");
}

/// Two entries: two tokens with log-probabilities and an end; one token.
ReportFrame two_entries() {
  StepReport step;
  step.progress.resize(2);
  step.progress[0].num_tokens = 2;
  step.progress[1].num_tokens = 1;
  StepPayload payload;
  payload.token_ids = {1, 2, 3};
  payload.texts = {{0, 3, 2}, {9, 1, 0}};
  payload.text = "abcd";
  payload.logprobs.resize(2);
  payload.ends = {{0, "stop", {}}, {1, "", {}}};
  return {{{}, step}, payload};
}

TEST(LinkWire, PayloadsWhosePartsDoNotAddUpAreRefused) {
  ASSERT_TRUE(decode_report(encode(two_entries())));
  const auto without = [](auto change) {
    ReportFrame frame = two_entries();
    change(std::get<StepReport>(frame.from.report), frame.payload);
    return encode(frame);
  };
#define REFUSED(change)                                                                          \
  expect_refused(without([](StepReport& step, StepPayload& p) { (void)step, (void)p, change; }), \
                 #change)
  REFUSED(p.token_ids.pop_back());
  REFUSED(p.token_ids.push_back(4));
  REFUSED(step.progress[1].num_tokens = 2);
  REFUSED(step.progress[1].num_tokens = UINT32_MAX);
  REFUSED(step.progress.pop_back());
  REFUSED(step.progress.clear());
  REFUSED(p.texts.pop_back());
  REFUSED(p.texts.push_back({}));
  REFUSED(p.texts.clear());
  REFUSED(p.text += "x");
  REFUSED(p.text.clear());
  REFUSED(p.texts[1].bytes = UINT32_MAX);
  REFUSED(p.logprobs.pop_back());
  REFUSED(p.logprobs.emplace_back());
  REFUSED(p.texts[0].num_logprobs = 1);
  REFUSED(p.texts[1].num_logprobs = 1);
  REFUSED((p.texts[0].num_logprobs = 0, p.texts[1].num_logprobs = 2));
  REFUSED(std::swap(p.ends[0], p.ends[1]));
  REFUSED(p.ends[0].entry = 1);
  REFUSED(p.ends[1].entry = 2);
  REFUSED(p.ends[1].entry = UINT32_MAX);
  REFUSED(p = {});
#undef REFUSED
  const std::string report = encode(two_entries());
  expect_refused(versioned().bytes(kStepReport, Bytes().bytes(10, progress_of({1}))).str(),
                 "no payload");
}

CommandFrame dispatch_of_three() {
  Request request;
  request.id = RequestId{5};
  request.prompt = {1, 2, 3};
  request.sampling.n = 2;
  request.sampling.max_tokens = 64;
  DispatchPayload payload;
  payload.request = std::make_shared<const Request>(request);
  payload.generated = {{4}, {}};
  return {{{}, Dispatch{RequestId{5}, Attempt{1}, 2, 3, 64}}, payload};
}

TEST(LinkWire, ADispatchWithoutItsRequestIsRefused) {
  const auto back = decode_command(encode(dispatch_of_three()));
  ASSERT_TRUE(back);
  EXPECT_EQ(back->payload.request->id, RequestId{5});
  const auto with = [](auto change) {
    CommandFrame frame = dispatch_of_three();
    Request request = *frame.payload.request;
    change(std::get<Dispatch>(frame.to.command), request);
    frame.payload.request = std::make_shared<const Request>(request);
    return encode(frame);
  };
  CommandFrame bare = dispatch_of_three();
  bare.payload = {};
  expect_command_refused(encode(bare), "an empty payload");
  expect_command_refused(versioned().bytes(kDispatch, Bytes()).str(), "no payload");
  expect_command_refused(with([](Dispatch& d, Request&) { d.prompt_tokens = 4; }), "longer");
  expect_command_refused(with([](Dispatch&, Request& r) { r.prompt.clear(); }), "no prompt");
  expect_command_refused(with([](Dispatch& d, Request&) { d.samples = 3; }), "more samples");
  expect_command_refused(with([](Dispatch& d, Request&) { d.samples = 0; }), "no samples");
  expect_command_refused(with([](Dispatch& d, Request& r) { d.samples = r.sampling.n = 0; }), "0");
  expect_command_refused(with([](Dispatch&, Request& r) { r.sampling.n = -2; }), "negative n");
  expect_command_refused(with([](Dispatch& d, Request&) { d.max_tokens = 65; }), "more tokens");
  expect_command_refused(
      with([](Dispatch& d, Request& r) { r.sampling.max_tokens = -1, d.max_tokens = UINT32_MAX; }),
      "max_tokens -1");
  expect_command_refused(
      with([](Dispatch& d, Request& r) { r.sampling.n = -1, d.samples = UINT32_MAX; }), "-1");
  CommandFrame more = dispatch_of_three();
  more.payload.generated.resize(3);
  expect_command_refused(encode(more), "more answers than samples");
}

// ---- values that are none ----

TEST(LinkWire, EnumsOutOfRange) {
  const auto finish = [](uint64_t value) {
    const Bytes columns = progress_of({1}).packed(6, {value});
    return taken_step(step_frame(Bytes().bytes(10, columns), empty_texts(1))).progress.at(0).finish;
  };
  EXPECT_EQ(finish(4), FinishReason::kFailed);
  EXPECT_EQ(finish(2), FinishReason::kLength);
  const auto code = [](uint64_t value) {
    const Bytes end = Bytes().bytes(3, Bytes().varint(1, value));
    const Bytes payload = empty_texts(1).bytes(5, end);
    return taken(step_frame(Bytes().bytes(10, progress_of({1})), payload))
        .payload.ends.at(0)
        .error.code;
  };
  EXPECT_EQ(code(0), ErrorCode::kOk);
  EXPECT_EQ(code(15), ErrorCode::kShutdown);
  const auto priority = [](uint64_t value) {
    const Bytes request = Bytes().varint(4, value), said = Bytes().varint(5, 256);
    return decode_command(
        versioned().bytes(kDispatch, said).bytes(kPayload, Bytes().bytes(1, request)).str());
  };
  ASSERT_TRUE(priority(0) && priority(2));
  EXPECT_EQ(priority(2)->payload.request->priority, PriorityClass::kBatch);
  for (const uint64_t unknown : {uint64_t{17}, uint64_t{256}, UINT64_MAX, uint64_t{1} << 32}) {
    EXPECT_EQ(finish(unknown), FinishReason::kFailed) << unknown;
    EXPECT_EQ(code(unknown), ErrorCode::kInternal) << unknown;
    EXPECT_FALSE(priority(unknown).has_value()) << unknown;
  }
  EXPECT_FALSE(priority(3).has_value());
}

TEST(LinkWire, ALawThatIsNoneCostsItselfOnly) {
  const auto laws_of = [](const Bytes& law) {
    const Bytes good = Bytes().varint(1, 1).fixed32(2, 5).fixed32(3, 1).fixed32(4, 3);
    const StepReport step =
        taken_step(step_frame(Bytes()
                                  .bytes(10, progress_of({1}))
                                  .bytes(13, Bytes().fixed64(1, 1).bytes(5, law))
                                  .bytes(13, Bytes().fixed64(1, 2).bytes(5, good)),
                              empty_texts(1)));
    EXPECT_EQ(step.progress.size(), 1u);
    EXPECT_FALSE(step.laws.empty() || step.laws.back().request != RequestId{2});
    return step.laws.size();
  };
  const auto bins = [](size_t count) {
    std::string floats;
    for (size_t i = 0; i < count; ++i) {
      const float bin = i == 3 ? 1.0f : 0.0f;
      floats.append(reinterpret_cast<const char*>(&bin), sizeof bin);
    }
    return floats;
  };
  const Bytes histogram = Bytes().varint(1, 2).fixed32(5, 1).fixed32(6, 100);
  EXPECT_EQ(laws_of(Bytes(histogram).bytes(7, bins(32))), 2u);
  for (const size_t count : {0u, 31u, 33u, 1000u})
    EXPECT_EQ(laws_of(Bytes(histogram).bytes(7, bins(count))), 1u) << count;
  EXPECT_EQ(laws_of(Bytes(histogram).bytes(7, bins(32).substr(1))), 1u);
  EXPECT_EQ(laws_of(histogram), 1u);
  EXPECT_EQ(laws_of(Bytes().varint(1, 1).fixed32(2, std::nanf("")).fixed32(3, 1)), 1u);
  for (const uint64_t kind : {uint64_t{3}, uint64_t{258}, UINT64_MAX}) {
    EXPECT_EQ(laws_of(Bytes().varint(1, kind).fixed32(2, 5).fixed32(3, 1)), 1u) << kind;
    const Bytes law = Bytes().varint(1, kind);
    EXPECT_FALSE(decode_control(versioned().bytes(18, Bytes().bytes(2, law)).str()).has_value());
  }
}

// What a file name or another's library says is not always UTF-8: nothing is refused for it.
TEST(LinkWire, TextThatIsNotUtf8ComesBackAsItWas) {
  const std::string wrong = "a\xFFz\xC3";
  ReportFrame frame = two_entries();
  frame.payload.text = wrong;
  frame.payload.ends[0] = {0, wrong, {ErrorCode::kInternal, wrong}};
  auto back = decode_report(encode(frame));
  ASSERT_TRUE(back);
  EXPECT_EQ(Dump::of(*back), Dump::of(frame));
  ReplicaInfo info;
  info.model_fingerprint = info.arithmetic_version = info.engine = info.host = wrong;
  frame = {{{}, Hello{info}}, {}};
  back = decode_report(encode(frame));
  ASSERT_TRUE(back);
  EXPECT_EQ(Dump::of(*back), Dump::of(frame));
  CommandFrame dispatch = dispatch_of_three();
  Request request = *dispatch.payload.request;
  request.tenant = wrong;
  request.sampling.stop = {wrong};
  dispatch.payload.request = std::make_shared<const Request>(request);
  const auto command = decode_command(encode(dispatch));
  ASSERT_TRUE(command);
  EXPECT_EQ(Dump::of(*command), Dump::of(dispatch));
  const PredictorReport hello = PredictorHello{wrong, wrong, wrong, {}, wrong, 1};
  const auto advice = decode_control(encode(hello));
  ASSERT_TRUE(advice);
  EXPECT_EQ(Dump::of(std::get<PredictorReport>(*advice)), Dump::of(hello));
}

// ---- harm ----

size_t most_memory(size_t bytes) {
  return WireReader::kMemoryPerByte * bytes + WireReader::kMemoryAnyway;
}
/// Decodes as anything, and looks at what that holds.
void expect_harmless(const std::string& bytes) {
  if (const auto control = decode_control(bytes)) {
    if (const auto* frame = std::get_if<ReportFrame>(&*control)) {
      ASSERT_LE(bytes_outside(frame->from.report) + bytes_outside(frame->payload),
                most_memory(bytes.size()));
    } else {
      ASSERT_LE(bytes_outside(std::get<PredictorReport>(*control)), most_memory(bytes.size()));
    }
  }
  if (const auto command = decode_command(bytes)) {
    ASSERT_LE(bytes_outside(command->payload), most_memory(bytes.size()));
    if (std::holds_alternative<Dispatch>(command->to.command)) {
      ASSERT_NE(command->payload.request, nullptr);
    }
  }
  (void)decode_predict(bytes).has_value();
  (void)decode_doorbell(bytes).has_value();
}

TEST(LinkWire, AnyPrefixIsHarmless) {
  RandomValues random(31);
  for (int i = 0; i < kRounds / 10; ++i)
    for (const std::string& bytes :
         {encode(random.report()), encode(random.command()), encode(random.any<PredictorReport>())})
      for (size_t size = 0; size < bytes.size(); ++size) expect_harmless(bytes.substr(0, size));
}

TEST(LinkWire, GarbageAndDamageAreHarmless) {
  RandomValues random(32);
  for (int i = 0; i < 20 * kRounds; ++i) {
    std::string bytes;
    if (i % 3 == 0) {  // behind a version that is ours, so that it is read
      bytes.resize(random.number(200));
      for (char& c : bytes) c = static_cast<char>(random.number(256));
      bytes = versioned().str() + bytes;
    } else {
      bytes = i % 3 == 1 ? encode(random.report()) : encode(random.command());
      for (uint64_t flips = 1 + random.number(4); flips > 0; --flips)
        bytes[2 + random.number(bytes.size() - 2)] = static_cast<char>(random.number(256));
    }
    expect_harmless(bytes);
  }
}

/// Whether `bytes` can be read as an M; what is read until then holds no more than is said.
template <class M>
bool can_be_read(const Bytes& bytes) {
  M message;
  WireReader in(bytes.str());
  in.fields(message);
  EXPECT_LE(bytes_outside(message), most_memory(bytes.str().size()));
  return in.good();
}

TEST(LinkWire, ListsOfEmptyMessagesAreRefusedBeforeTheyAreHeld) {
  constexpr size_t kEntries = 100'000;
  const auto repeat = [](uint32_t field, const std::string& entry) {
    Bytes all;
    for (size_t i = 0; i < kEntries; ++i) all.bytes(field, entry);
    return all;
  };
  const auto column = [](uint32_t field, uint32_t number) {
    return Bytes().bytes(field, Bytes().bytes(number, std::string(kEntries, 0)));
  };
  EXPECT_FALSE(can_be_read<StepReport>(repeat(13, "")));  // laws
  EXPECT_FALSE(can_be_read<StepReport>(column(10, 6)));   // progress by one column
  EXPECT_TRUE(can_be_read<StepPayload>(column(2, 2)));    // texts: 16 times the bytes
  EXPECT_FALSE(can_be_read<StepPayload>(repeat(5, "")));  // ends
  EXPECT_TRUE(can_be_read<StepPayload>(repeat(4, "")));   // log-probabilities: 16 times the bytes
  EXPECT_FALSE(can_be_read<DispatchPayload>(repeat(1, "")));  // one request after the other
  EXPECT_TRUE(can_be_read<SamplingParams>(repeat(14, "")));   // stop strings: 16 times the bytes
}

TEST(LinkWire, TheDearestReportsOfOursPass) {
  constexpr uint32_t kEntries = 50'000;
  ReportFrame frame;
  StepReport step;
  step.progress.resize(kEntries);
  step.prefills.resize(kEntries);
  step.preempted.resize(kEntries);
  step.laws.resize(kEntries);
  frame.payload.texts.resize(kEntries);
  for (uint32_t i = 0; i < kEntries; ++i) frame.payload.ends.push_back({i, "", {}});
  frame.from.report = step;
  std::string bytes = encode(frame);
  auto back = decode_report(bytes);
  ASSERT_TRUE(back);
  EXPECT_EQ(std::get<StepReport>(back->from.report).laws.size(), kEntries);
  EXPECT_EQ(back->payload.ends.size(), kEntries);
  expect_harmless(bytes);

  frame = {};
  frame.from.report = StepReport{};
  std::get<StepReport>(frame.from.report).progress.resize(1);
  std::get<StepReport>(frame.from.report).progress[0].num_tokens = kEntries;
  frame.payload.texts = {{0, 0, kEntries}};
  frame.payload.token_ids.resize(kEntries);
  frame.payload.logprobs.resize(kEntries);
  for (auto& entry : frame.payload.logprobs) entry.top.resize(2);
  bytes = encode(frame);
  ASSERT_TRUE(decode_report(bytes));
  expect_harmless(bytes);
}

}  // namespace
}  // namespace tailor::comm
