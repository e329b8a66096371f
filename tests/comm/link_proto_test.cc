// proto/control.proto says to other programs what the field lists of base/fields.h and the
// envelopes of comm/codec_control say here: number, name and type of every field, by protobuf's
// descriptors, and the very bytes, by the classes that protoc makes of it.
#include <google/protobuf/descriptor.h>
#include <google/protobuf/message.h>
#include <gtest/gtest.h>

#include <cctype>
#include <set>

#include "base/wire_reader.h"
#include "comm/codec_control.h"
#include "proto/control.pb.h"
#include "tests/comm/link_values.h"

namespace tailor::comm {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;
using test::Dump;
using test::RandomValues;

/// "StepReport" is "step_report" in a oneof.
std::string field_name(const std::string& message) {
  std::string out;
  for (const char c : message) {
    if (std::isupper(static_cast<unsigned char>(c)) && !out.empty()) out += '_';
    out += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  }
  return out;
}

// ---- the lists and the descriptors ----

template <class T>
constexpr FieldDescriptor::Type number_type() {
  if constexpr (std::is_same_v<T, RequestId>) return FieldDescriptor::TYPE_FIXED64;
  if constexpr (std::is_same_v<T, double>) return FieldDescriptor::TYPE_DOUBLE;
  if constexpr (std::is_same_v<T, float>) return FieldDescriptor::TYPE_FLOAT;
  if constexpr (std::is_same_v<T, bool>) return FieldDescriptor::TYPE_BOOL;
  if constexpr (std::is_same_v<T, Duration>) return FieldDescriptor::TYPE_INT64;
  if constexpr (std::is_same_v<T, int32_t>) return FieldDescriptor::TYPE_INT32;
  if constexpr (std::is_same_v<T, uint64_t>) return FieldDescriptor::TYPE_UINT64;
  if constexpr (std::is_same_v<T, FinishReason> || std::is_same_v<T, ErrorCode>)
    return FieldDescriptor::TYPE_ENUM;
  return FieldDescriptor::TYPE_UINT32;  // the other ids and enums
}
static_assert(std::is_same_v<Attempt::rep, uint32_t> && std::is_same_v<ReplicaId::rep, uint32_t> &&
              std::is_same_v<Epoch::rep, uint32_t>);

template <class M>
void expect_lists(const Descriptor& described, const std::string& name = Fields<M>::name);

/// A value of the field's own kind, or one entry of its list.
template <class T>
void expect_kind(const FieldDescriptor& field, const T*) {
  if constexpr (WireNumber<T>) {
    EXPECT_EQ(field.type(), number_type<T>()) << field.full_name();
    if (field.is_repeated()) {
      EXPECT_TRUE(field.is_packed()) << field.full_name();
    }
  } else {
    ASSERT_EQ(field.type(), FieldDescriptor::TYPE_MESSAGE) << field.full_name();
    expect_lists<T>(*field.message_type());
  }
}
void expect_kind(const FieldDescriptor& field, const std::string*) {
  // Of the public API are only texts that clients gave as such.
  EXPECT_EQ(field.type(), field.full_name() == "tailor.v1.SamplingParams.stop"
                              ? FieldDescriptor::TYPE_STRING
                              : FieldDescriptor::TYPE_BYTES)
      << field.full_name();
}
template <size_t N>
void expect_kind(const FieldDescriptor& field, const std::array<float, N>*) {
  EXPECT_TRUE(field.is_repeated()) << field.full_name();
  expect_kind(field, static_cast<const float*>(nullptr));
}
template <class T>
void expect_kind(const FieldDescriptor& field, const std::shared_ptr<const T>*) {
  expect_kind(field, static_cast<const T*>(nullptr));
}
void expect_kind(const FieldDescriptor& field, const std::pair<TokenId, float>*) {
  ASSERT_EQ(field.type(), FieldDescriptor::TYPE_MESSAGE) << field.full_name();
  EXPECT_EQ(field.message_type()->full_name(), "tailor.v1.LogitBias");
}
void expect_kind(const FieldDescriptor& field, const std::vector<TokenId>*) {
  ASSERT_EQ(field.type(), FieldDescriptor::TYPE_MESSAGE) << field.full_name();
  EXPECT_EQ(field.message_type()->full_name(), "tailor.v1.TokenIds");
}

template <class T>
bool is_default_zero(const T& value) {
  if constexpr (WireNumber<T>) {
    return value == T{};
  } else {
    return true;
  }
}

/// A field whose default is not zero is `optional`: else a zero that protobuf leaves out would be
/// read as the default.
template <class T>
void expect_field(const FieldDescriptor& field, const T& by_default) {
  EXPECT_FALSE(field.is_repeated() && !is_default_zero(by_default));
  EXPECT_TRUE(is_default_zero(by_default) || field.has_presence()) << field.full_name();
  expect_kind(field, &by_default);
}
template <class T>
void expect_field(const FieldDescriptor& field, const std::vector<T>&) {
  EXPECT_TRUE(field.is_repeated()) << field.full_name();
  expect_kind(field, static_cast<const T*>(nullptr));
}

template <class M>
void expect_columns(const FieldDescriptor& field, const std::vector<M>&) {
  ASSERT_EQ(field.type(), FieldDescriptor::TYPE_MESSAGE) << field.full_name();
  EXPECT_FALSE(field.is_repeated()) << field.full_name();
  const Descriptor& columns = *field.message_type();
  EXPECT_EQ(columns.name(), std::string(Fields<M>::name) + "Columns");
  const M entry{};
  size_t count = 0;
  for_each_field(entry, [&](const auto& listed, const auto& value) {
    const FieldDescriptor* column = columns.FindFieldByNumber(static_cast<int>(listed.number));
    ASSERT_NE(column, nullptr) << columns.name() << "." << listed.name;
    EXPECT_EQ(column->name(), listed.name) << columns.name();
    EXPECT_TRUE(column->is_repeated()) << column->full_name();
    EXPECT_TRUE(is_default_zero(value)) << column->full_name();
    expect_kind(*column, &value);
    ++count;
  });
  EXPECT_EQ(columns.field_count(), static_cast<int>(count)) << columns.name();
}

template <class M>
void expect_lists(const Descriptor& described, const std::string& name) {
  EXPECT_EQ(described.name(), name);
  const M message{};
  size_t count = 0;
  for_each_field(message, [&](const auto& listed, const auto& value) {
    const FieldDescriptor* field = described.FindFieldByNumber(static_cast<int>(listed.number));
    ASSERT_NE(field, nullptr) << name << "." << listed.name;
    EXPECT_EQ(field->name(), listed.name) << name;
    if constexpr (std::remove_cvref_t<decltype(listed)>::layout == Layout::kColumns) {
      expect_columns(*field, value);
    } else {
      expect_field(*field, value);
    }
    ++count;
  });
  EXPECT_EQ(described.field_count(), static_cast<int>(count)) << name << " has more than listed";
}

template <class... Ms>
size_t expect_alternatives(const Descriptor& envelope, const std::variant<Ms...>*) {
  const auto expect_one = [&envelope](auto number, const char* name, auto expect) {
    const FieldDescriptor* field = envelope.FindFieldByNumber(static_cast<int>(number));
    ASSERT_NE(field, nullptr) << name;
    EXPECT_EQ(field->name(), field_name(name));
    EXPECT_NE(field->real_containing_oneof(), nullptr) << name;
    ASSERT_EQ(field->type(), FieldDescriptor::TYPE_MESSAGE) << name;
    expect(*field->message_type());
  };
  (expect_one(Fields<Ms>::number, Fields<Ms>::name,
              [](const Descriptor& described) { expect_lists<Ms>(described); }),
   ...);
  return sizeof...(Ms);
}
void expect_envelope(const Descriptor& described, size_t alternatives, uint32_t payload_number) {
  EXPECT_EQ(described.real_oneof_decl_count(), 1);
  EXPECT_EQ(described.oneof_decl(0)->field_count(), static_cast<int>(alternatives));
  EXPECT_EQ(described.field_count(), static_cast<int>(alternatives) + 3);
  EXPECT_EQ(described.FindFieldByNumber(1)->name(), "protocol_version");
  EXPECT_EQ(described.FindFieldByNumber(1)->type(), FieldDescriptor::TYPE_UINT32);
  EXPECT_EQ(described.FindFieldByNumber(2)->name(), "envelope");
  expect_lists<Envelope>(*described.FindFieldByNumber(2)->message_type());
  EXPECT_EQ(described.FindFieldByNumber(static_cast<int>(payload_number))->name(), "payload");
}

TEST(LinkProto, DescribesEveryCommand) {
  const Descriptor& command = *v2::Command::descriptor();
  const size_t count =
      expect_alternatives(command, static_cast<const WorkerCommand*>(nullptr)) +
      expect_alternatives(command, static_cast<const std::variant<Predict>*>(nullptr));
  expect_envelope(command, count, Fields<DispatchPayload>::number);
  expect_lists<DispatchPayload>(*v2::DispatchPayload::descriptor());
  EXPECT_EQ(command.FindFieldByName("payload")->message_type(), v2::DispatchPayload::descriptor());
}

TEST(LinkProto, DescribesEveryReport) {
  const Descriptor& report = *v2::Report::descriptor();
  const size_t count = expect_alternatives(report, static_cast<const WorkerReport*>(nullptr)) +
                       expect_alternatives(report, static_cast<const PredictorReport*>(nullptr));
  expect_envelope(report, count, Fields<StepPayload>::number);
  expect_lists<StepPayload>(*v2::StepPayload::descriptor());
  EXPECT_EQ(report.FindFieldByName("payload")->message_type(), v2::StepPayload::descriptor());
}

/// Adds the names of the messages of `file` that `described` reaches.
void reach(const Descriptor& described, std::set<std::string>& names) {
  if (described.file() != v2::Report::descriptor()->file()) return;
  if (!names.insert(described.name()).second) return;
  for (int i = 0; i < described.field_count(); ++i)
    if (described.field(i)->message_type() != nullptr)
      reach(*described.field(i)->message_type(), names);
}

TEST(LinkProto, DescribesNothingElse) {
  std::set<std::string> names;
  for (const Descriptor* root :
       {v2::Command::descriptor(), v2::Report::descriptor(), v2::DoorbellWord::descriptor()})
    reach(*root, names);
  EXPECT_EQ(names.size(),
            static_cast<size_t>(v2::Report::descriptor()->file()->message_type_count()))
      << "a message of control.proto that nobody sends";
}

// ---- the bytes ----

template <class M>
void expect_same(const M& value, const Message& read);

/// Whether entry `at` of a list (or the field itself, at < 0) is `value`.
template <class T>
void expect_value(const T& value, const Message& in, const FieldDescriptor& field, int at) {
  const Reflection& r = *in.GetReflection();
  if constexpr (WireNumber<T>) {
    const auto is = [&](auto expected, auto single, auto repeated) {
      EXPECT_EQ(at < 0 ? (r.*single)(in, &field) : (r.*repeated)(in, &field, at), expected)
          << field.full_name();
    };
    uint64_t bits = 0;
    if constexpr (WireId<T>) {
      bits = value.value;
    } else if constexpr (std::is_same_v<T, Duration>) {
      bits = static_cast<uint64_t>(value.count());
    } else if constexpr (!std::is_floating_point_v<T>) {
      bits = static_cast<uint64_t>(value);
    }
    switch (field.cpp_type()) {
      case FieldDescriptor::CPPTYPE_UINT64:
        return is(bits, &Reflection::GetUInt64, &Reflection::GetRepeatedUInt64);
      case FieldDescriptor::CPPTYPE_INT64:
        return is(static_cast<int64_t>(bits), &Reflection::GetInt64, &Reflection::GetRepeatedInt64);
      case FieldDescriptor::CPPTYPE_UINT32:
        return is(static_cast<uint32_t>(bits), &Reflection::GetUInt32,
                  &Reflection::GetRepeatedUInt32);
      case FieldDescriptor::CPPTYPE_INT32:
        return is(static_cast<int32_t>(bits), &Reflection::GetInt32, &Reflection::GetRepeatedInt32);
      case FieldDescriptor::CPPTYPE_ENUM:
        return is(static_cast<int>(bits), &Reflection::GetEnumValue,
                  &Reflection::GetRepeatedEnumValue);
      case FieldDescriptor::CPPTYPE_BOOL:
        return is(bits != 0, &Reflection::GetBool, &Reflection::GetRepeatedBool);
      default:
        break;
    }
    if constexpr (std::is_same_v<T, float>) {
      const float read = at < 0 ? r.GetFloat(in, &field) : r.GetRepeatedFloat(in, &field, at);
      EXPECT_EQ(std::bit_cast<uint32_t>(read), std::bit_cast<uint32_t>(value)) << field.full_name();
      return;
    }
    FAIL() << field.full_name();
  } else if constexpr (std::is_same_v<T, std::string>) {
    EXPECT_EQ(at < 0 ? r.GetString(in, &field) : r.GetRepeatedString(in, &field, at), value)
        << field.full_name();
  } else {
    const Message& inner = at < 0 ? r.GetMessage(in, &field) : r.GetRepeatedMessage(in, &field, at);
    if constexpr (std::is_same_v<T, std::pair<TokenId, float>>) {
      expect_value(value.first, inner, *inner.GetDescriptor()->FindFieldByNumber(1), -1);
      expect_value(value.second, inner, *inner.GetDescriptor()->FindFieldByNumber(2), -1);
    } else if constexpr (std::is_same_v<T, std::vector<TokenId>>) {
      const FieldDescriptor& ids = *inner.GetDescriptor()->FindFieldByNumber(1);
      ASSERT_EQ(inner.GetReflection()->FieldSize(inner, &ids), static_cast<int>(value.size()));
      for (size_t i = 0; i < value.size(); ++i)
        expect_value(value[i], inner, ids, static_cast<int>(i));
    } else if constexpr (requires { *value; }) {
      expect_same(*value, inner);
    } else {
      expect_same(value, inner);
    }
  }
}
template <class List>
void expect_list(const List& values, const Message& in, const FieldDescriptor& field) {
  const int size = in.GetReflection()->FieldSize(in, &field);
  const bool absent = size == 0 && Dump::of(values) == Dump::of(List{});  // bins that are all zero
  ASSERT_TRUE(absent || size == static_cast<int>(values.size())) << field.full_name();
  for (int i = 0; i < size; ++i) expect_value(values[static_cast<size_t>(i)], in, field, i);
}

template <class M>
void expect_same_columns(const std::vector<M>& entries, const Message& columns) {
  EXPECT_TRUE(columns.GetReflection()->GetUnknownFields(columns).empty());
  std::apply(
      [&](const auto&... listed) {
        const auto expect_column = [&](const auto& field) {
          const FieldDescriptor& column =
              *columns.GetDescriptor()->FindFieldByNumber(static_cast<int>(field.number));
          ASSERT_EQ(columns.GetReflection()->FieldSize(columns, &column),
                    static_cast<int>(entries.size()));
          for (size_t i = 0; i < entries.size(); ++i)
            expect_value(field.of(entries[i]), columns, column, static_cast<int>(i));
        };
        (expect_column(listed), ...);
      },
      Fields<M>::list);
}

template <class T>
constexpr bool kIsList = false;
template <class T>
constexpr bool kIsList<std::vector<T>> = true;
template <class T, size_t N>
constexpr bool kIsList<std::array<T, N>> = true;

template <class M>
void expect_same(const M& value, const Message& read) {
  EXPECT_TRUE(read.GetReflection()->GetUnknownFields(read).empty()) << Fields<M>::name;
  for_each_field(value, [&](const auto& listed, const auto& member) {
    const FieldDescriptor& field =
        *read.GetDescriptor()->FindFieldByNumber(static_cast<int>(listed.number));
    if constexpr (std::remove_cvref_t<decltype(listed)>::layout == Layout::kColumns) {
      expect_same_columns(member, read.GetReflection()->GetMessage(read, &field));
    } else if constexpr (kIsList<std::remove_cvref_t<decltype(member)>>) {
      expect_list(member, read, field);
    } else {
      expect_value(member, read, field, -1);
    }
  });
}
template <class Variant>
void expect_same_alternative(const Variant& value, const Message& envelope) {
  std::visit(
      [&](const auto& message) {
        using M = std::remove_cvref_t<decltype(message)>;
        const FieldDescriptor& field =
            *envelope.GetDescriptor()->FindFieldByNumber(static_cast<int>(Fields<M>::number));
        ASSERT_TRUE(envelope.GetReflection()->HasField(envelope, &field)) << Fields<M>::name;
        expect_same(message, envelope.GetReflection()->GetMessage(envelope, &field));
      },
      value);
}

constexpr int kRounds = 1000;

TEST(LinkProto, ReadsOurCommandsAndWritesThemAsWeRead) {
  RandomValues random(41);
  random.any_laws = true;
  for (int i = 0; i < kRounds; ++i) {
    const CommandFrame frame = random.command();
    v2::Command read;
    ASSERT_TRUE(read.ParseFromString(encode(frame)));
    EXPECT_TRUE(read.GetReflection()->GetUnknownFields(read).empty());
    EXPECT_EQ(read.protocol_version(), kControlProtocolVersion);
    expect_same(frame.to.envelope, read.envelope());
    expect_same_alternative(frame.to.command, read);
    ASSERT_EQ(read.has_payload(), frame.payload.request != nullptr);
    if (read.has_payload()) expect_same(frame.payload, read.payload());
    const auto back = decode_command(read.SerializeAsString());
    ASSERT_TRUE(back) << back.error().message;
    ASSERT_EQ(Dump::of(*back), Dump::of(frame));
  }
}

TEST(LinkProto, ReadsOurReportsAndWritesThemAsWeRead) {
  RandomValues random(42);
  for (int i = 0; i < kRounds; ++i) {
    const ReportFrame frame = random.report();
    v2::Report read;
    ASSERT_TRUE(read.ParseFromString(encode(frame)));
    EXPECT_TRUE(read.GetReflection()->GetUnknownFields(read).empty());
    EXPECT_EQ(read.protocol_version(), kControlProtocolVersion);
    expect_same(frame.from.envelope, read.envelope());
    expect_same_alternative(frame.from.report, read);
    ASSERT_EQ(read.has_payload(), std::holds_alternative<StepReport>(frame.from.report));
    if (read.has_payload()) expect_same(frame.payload, read.payload());
    const auto back = decode_report(read.SerializeAsString());
    ASSERT_TRUE(back) << back.error().message;
    ASSERT_EQ(Dump::of(*back), Dump::of(frame));
  }
}

TEST(LinkProto, ReadsOurQuestionsAndAdviceAndWritesThemAsWeRead) {
  RandomValues random(43);
  for (int i = 0; i < kRounds; ++i) {
    const auto advice = random.any<PredictorReport>();
    v2::Report report;
    ASSERT_TRUE(report.ParseFromString(encode(advice)));
    expect_same_alternative(advice, report);
    const auto advised = decode_control(report.SerializeAsString());
    ASSERT_TRUE(advised) << advised.error().message;
    ASSERT_EQ(Dump::of(std::get<PredictorReport>(*advised)), Dump::of(advice));
    const auto question = random.any<Predict>();
    v2::Command command;
    ASSERT_TRUE(command.ParseFromString(encode(question)));
    expect_same(question, command.predict());
    const auto asked = decode_predict(command.SerializeAsString());
    ASSERT_TRUE(asked) << asked.error().message;
    ASSERT_EQ(Dump::of(*asked), Dump::of(question));
  }
}

TEST(LinkProto, TheLargestAndTheLeastNumbersCross) {
  CommandFrame frame;
  auto request = std::make_shared<Request>();
  request->id = RequestId{UINT64_MAX};
  request->prompt = {INT32_MIN, -1, INT32_MAX};
  request->deadline = Duration::min();
  request->priority = PriorityClass::kInteractive;  // 0, which protobuf leaves out
  request->sampling.logprobs = -1;
  request->sampling.seed = UINT64_MAX;
  request->sampling.max_tokens = INT32_MAX;
  frame.to.envelope = {ReplicaId{UINT32_MAX}, Epoch{UINT32_MAX}, UINT64_MAX};
  frame.to.command = Dispatch{request->id, Attempt{UINT32_MAX}, 1, 3, INT32_MAX};
  frame.payload = {request, {{INT32_MIN}}};
  v2::Command read;
  ASSERT_TRUE(read.ParseFromString(encode(frame)));
  EXPECT_EQ(read.dispatch().request(), UINT64_MAX);
  EXPECT_EQ(read.payload().request().prompt(0), INT32_MIN);
  EXPECT_EQ(read.payload().request().deadline(), INT64_MIN);
  EXPECT_EQ(read.payload().request().sampling().logprobs(), -1);
  const auto back = decode_command(read.SerializeAsString());
  ASSERT_TRUE(back);
  EXPECT_EQ(Dump::of(*back), Dump::of(frame));
}

TEST(LinkProto, DoorbellWordsCross) {
  v2::DoorbellWord read;
  ASSERT_TRUE(read.ParseFromString(encode(DoorbellWord{3, UINT64_MAX})));
  EXPECT_EQ(read.rank(), 3u);
  EXPECT_EQ(read.rings(), UINT64_MAX);
  read.set_rank(0);
  const auto back = decode_doorbell(read.SerializeAsString());
  ASSERT_TRUE(back);
  EXPECT_EQ(back->rank, 0u);
  EXPECT_EQ(back->rings, UINT64_MAX);
}

}  // namespace
}  // namespace tailor::comm
