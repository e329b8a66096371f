// The field lists of base/fields.h are whole: a member that is added to a message, and to no list,
// does not compile here.
#include "base/fields.h"

#include <gtest/gtest.h>

#include <array>
#include <set>
#include <string>

#include "base/bytes_held.h"
#include "base/describe.h"
#include "tests/base/dump.h"
#include "tests/base/random_message.h"

namespace tailor {
namespace {

// ---- as many fields as members ----

/// What any member can be made of.
struct Anything {
  template <class T>
  operator T() const;  // NOLINT: never defined
};
template <class M, size_t... I>
constexpr bool made_of(std::index_sequence<I...>) {
  return requires { M{(static_cast<void>(I), Anything{})...}; };
}
/// The members of an aggregate; a base class counts as one.
template <class M, size_t N = 48>
constexpr size_t members() {
  static_assert(std::is_aggregate_v<M>);
  if constexpr (N == 0 || made_of<M>(std::make_index_sequence<N>())) {
    return N;
  } else {
    return members<M, N - 1>();
  }
}
struct Three {
  std::vector<std::string> a;
  std::array<float, 7> b;
  std::shared_ptr<const Request> c;
};
static_assert(members<Three>() == 3 && members<Drain>() == 0);

template <class M>
constexpr size_t kMembers = members<M>();
template <>
constexpr size_t kMembers<Request> = members<Request>() - 2;  // id and arrival do not travel
template <>
constexpr size_t kMembers<SamplingParams> = members<SamplingParams>() - 1 + members<AnswerParams>();

/// Compiles when the lists of M and of all that M holds are whole.
template <class T>
struct Whole {
  static constexpr bool value = true;
};
template <class T>
struct Whole<std::vector<T>> : Whole<T> {};
template <class T>
struct Whole<std::shared_ptr<const T>> : Whole<T> {};
template <class... Ts>
struct Whole<std::variant<Ts...>> {
  static constexpr bool value = (Whole<Ts>::value && ...);
};
template <Listed M>
struct Whole<M> {
  static constexpr auto list = Fields<M>::list;
  static constexpr size_t length = std::tuple_size_v<decltype(list)>;
  static_assert(length == kMembers<M>, "a member of M is in no field list (base/fields.h)");

  template <class F>
  using Of = std::remove_cvref_t<decltype(F::of(std::declval<M&>()))>;
  template <class... Fs>
  static constexpr bool all_whole(const std::tuple<Fs...>&) {
    return (Whole<Of<Fs>>::value && ...);
  }
  template <class... Fs>
  static constexpr bool numbered_apart(const std::tuple<Fs...>&) {
    const std::array<uint32_t, length> numbers{Fs::number...};
    for (size_t i = 0; i < length; ++i) {
      if (numbers[i] == 0) return false;
      for (size_t j = 0; j < i; ++j)
        if (numbers[j] == numbers[i]) return false;
    }
    return true;
  }
  static_assert(numbered_apart(list), "two fields of M have one number");
  static constexpr bool value = all_whole(list);
};
static_assert(Whole<WorkerCommand>::value && Whole<WorkerReport>::value);
static_assert(Whole<PredictorReport>::value && Whole<Predict>::value);
static_assert(Whole<DispatchPayload>::value && Whole<StepPayload>::value);
static_assert(Whole<Envelope>::value);

template <class... Ms>
std::multiset<uint32_t> numbers_of(const std::variant<Ms...>*) {
  return {Fields<Ms>::number...};
}
template <class... Variants>
void expect_numbered_apart(uint32_t payload) {
  std::multiset<uint32_t> numbers{payload};
  (numbers.merge(numbers_of(static_cast<const Variants*>(nullptr))), ...);
  for (const uint32_t number : numbers) {
    EXPECT_EQ(numbers.count(number), 1u) << number;
    EXPECT_GE(number, 10u) << "1..9 are the envelope's";
  }
}

TEST(Fields, TheMessagesOfALinkAreNumberedApart) {
  expect_numbered_apart<WorkerCommand, std::variant<Predict>>(Fields<DispatchPayload>::number);
  expect_numbered_apart<WorkerReport, PredictorReport>(Fields<StepPayload>::number);
}

// ---- what walks the lists ----

TEST(Fields, AreNamedAsTheirMembersAndInTheirOrder) {
  EXPECT_EQ(describe(Dispatch{RequestId{7}, Attempt{1}, 2, 20, 64}),
            "Dispatch request=7 attempt=1 samples=2 prompt_tokens=20 max_tokens=64");
  SamplingParams sampling;
  std::string names;
  for_each_field(sampling, [&](const auto& field, auto&) { names += field.name, names += ' '; });
  EXPECT_EQ(names.substr(0, 24), "temperature top_k top_p ");
}

TEST(Fields, TextOfOtherProcessesStaysOnItsLine) {
  Hello hello;
  hello.info.host = "a\nb\r\x1b[2J\x7f\xc2\x9b c\\x0a";
  hello.info.engine = "caf\xc3\xa9";
  EXPECT_EQ(on_one_line("\xff ä\xc3|\xe2\x82"), "\\xff ä\\xc3|\\xe2\\x82") << "no UTF-8";
  const std::string line = describe(hello);
  EXPECT_NE(line.find(" host='a\\x0ab\\x0d\\x1b[2J\\x7f\\xc2\\x9b c\\x5cx0a'"), std::string::npos)
      << line;
  EXPECT_NE(line.find(" engine='caf\xc3\xa9'"), std::string::npos) << line;
  for (const char c : line) EXPECT_GE(static_cast<unsigned char>(c), 0x20) << line;
}

TEST(Fields, EveryOneOfThemShowsInDescriptions) {
  test::RandomMessages random(1);
  const auto report = random.any<StepReport>();
  StepReport changed = report;
  for_each_field(changed, [&](const auto& field, auto& value) {
    const auto old = value;
    while (describe(changed) == describe(report))
      value = random.any<std::remove_cvref_t<decltype(value)>>();
    EXPECT_NE(test::Dump::of(changed), test::Dump::of(report)) << field.name;
    value = old;
  });
  EXPECT_EQ(test::Dump::of(changed), test::Dump::of(report));
}

TEST(Fields, EveryTextAndListOfAMessageCountsInItsBytes) {
  const std::string large(1 << 16, 'x');
  DispatchPayload dispatch;
  Request request;
  request.tenant = large;
  request.sampling.stop = {large, large};
  request.prompt.resize(1 << 14);
  dispatch.request = std::make_shared<const Request>(request);
  dispatch.generated = {std::vector<TokenId>(1 << 14), std::vector<TokenId>(1 << 14)};
  EXPECT_GE(bytes_outside(dispatch), 6 * large.size());
  EXPECT_LE(bytes_outside(dispatch), 6 * large.size() + 1024);
  StepPayload step;
  step.text = large;
  step.token_ids.resize(1 << 14);
  step.logprobs.resize(1);
  step.logprobs[0].top.resize(1 << 13);
  step.ends.resize(2);
  step.ends[0].stop_match = step.ends[1].error.message = large;
  EXPECT_GE(bytes_outside(step), 5 * large.size());
  EXPECT_LE(bytes_outside(step), 5 * large.size() + 1024);
  ReplicaInfo info;
  info.host = info.engine = large;
  EXPECT_GE(bytes_outside(WorkerReport(Hello{info})), 2 * large.size());
}

}  // namespace
}  // namespace tailor
