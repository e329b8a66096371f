#include "coordinator/request_book.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <optional>
#include <random>
#include <set>

namespace tailor::coordinator {
namespace {

using Verdict = RequestBook::Verdict;

Arrived arrived(uint64_t id, uint32_t samples = 1, uint32_t prompt_tokens = 10) {
  Arrived e;
  e.id = RequestId{id};
  e.samples = samples;
  e.prompt_tokens = prompt_tokens;
  e.max_tokens = 64;
  return e;
}
SequenceProgress tokens(uint64_t id, uint32_t attempt, uint32_t first, uint32_t count,
                        FinishReason finish = FinishReason::kNone, uint32_t sample = 0) {
  return {RequestId{id}, sample, Attempt{attempt}, first, count, finish};
}
constexpr ReplicaId kZero{0}, kOne{1};

/// As the core does it: a replica's word on a request, if it is of the attempt that runs there.
template <class Message>
void tell(RequestBook& book, ReplicaId from, const Message& message) {
  const uint32_t slot = book.find(from, message.request, message.attempt);
  if (slot != RequestBook::kNone) book.take(slot, message);
}

TEST(RequestBook, GivesTheLastFreeSlotAgainAsNew) {
  RequestBook book;
  EXPECT_EQ(book.open(arrived(1, 3)), 0u);
  EXPECT_EQ(book.open(arrived(2)), 1u);
  EXPECT_EQ(book.open(arrived(3)), 2u);
  book.bind(1, kOne);
  tell(book, kOne, tokens(2, 1, 0, 5));
  book.unbind(1);
  book.close(1);
  book.close(0);
  EXPECT_EQ(book.find(RequestId{2}), RequestBook::kNone);
  EXPECT_EQ(book.open(arrived(4)), 0u);
  EXPECT_EQ(book.open(arrived(5, 2)), 1u);
  EXPECT_EQ(book.slots(), 3u);
  EXPECT_EQ(book.live(), 3u);
  const LiveRequest& again = book[1];
  EXPECT_TRUE(again.waiting());
  EXPECT_EQ(again.attempt, Attempt{0});
  EXPECT_EQ(again.generated, 0u);
  EXPECT_EQ(again.samples.size(), 2u);
  EXPECT_EQ(again.samples[0].residency, Residency{});
  book.check_integrity();
}

TEST(RequestBook, PrefillEndsWithItsReportOrWithTheFirstToken) {
  RequestBook book;
  book.open(arrived(1, 2));
  book.open(arrived(2));
  for (const uint32_t slot : {0u, 1u}) {
    EXPECT_EQ(book[slot].phase, Phase::kWaiting);
    book.bind(slot, kOne);
    EXPECT_EQ(book[slot].phase, Phase::kPrefilling);
  }
  tell(book, kOne, PrefillDone{RequestId{1}, Attempt{2}, 0});   // another attempt
  tell(book, kZero, PrefillDone{RequestId{1}, Attempt{1}, 0});  // another replica
  tell(book, kOne, tokens(2, 1, 0, 0));                         // says nothing
  EXPECT_EQ(book[0].phase, Phase::kPrefilling);
  EXPECT_EQ(book[1].phase, Phase::kPrefilling);
  tell(book, kOne, PrefillDone{RequestId{1}, Attempt{1}, 0});
  tell(book, kOne, tokens(2, 1, 0, 1));
  EXPECT_EQ(book[0].phase, Phase::kRunning);
  EXPECT_EQ(book[1].phase, Phase::kRunning);
  book.unbind(0);
  EXPECT_TRUE(book[0].waiting());
  book.bind(0, kZero);
  EXPECT_EQ(book[0].phase, Phase::kPrefilling) << "each attempt computes its prompt";
  book.check_integrity();
}

TEST(RequestBook, KnowsWhereTheKvOfEachSequenceIs) {
  RequestBook book;
  book.open(arrived(1, 2, 100));
  book.bind(0, kOne);
  const auto& samples = book[0].samples;
  tell(book, kOne, tokens(1, 1, 0, 1, FinishReason::kNone, 0));
  tell(book, kOne, tokens(1, 1, 0, 4, FinishReason::kNone, 1));
  EXPECT_EQ(samples[0].residency, (Residency{kOne, kDeviceTier, 100}));
  EXPECT_EQ(samples[1].residency, (Residency{kOne, kDeviceTier, 103}));
  tell(book, kOne, SequencePreempted{RequestId{1}, 1, Attempt{1}, 103});
  EXPECT_EQ(samples[1].residency, Residency{});
  tell(book, kOne, SequencePreempted{RequestId{1}, 0, Attempt{7}, 100});  // another attempt
  tell(book, kOne, SequencePreempted{RequestId{1}, 9, Attempt{1}, 100});  // no such sample
  EXPECT_EQ(samples[0].residency.tokens, 100u);
  tell(book, kOne, tokens(1, 1, 4, 1, FinishReason::kNone, 1));  // computed again
  EXPECT_EQ(samples[1].residency.tokens, 104u);
  tell(book, kOne, tokens(1, 1, 1, 1, FinishReason::kStop, 0));
  EXPECT_EQ(samples[0].residency, Residency{}) << "an end frees its blocks";
  book.unbind(0);
  EXPECT_EQ(samples[1].residency, Residency{});
  book.check_integrity();
}

/// A request as a reader of the rules would keep it, found by its id.
struct Naive {
  std::optional<ReplicaId> replica;
  uint32_t attempt = 0, prompt_tokens = 0;
  bool prefilled = false;
  struct Sample {
    uint32_t tokens = 0, held = 0;
    bool ended = false;
  };
  std::vector<Sample> samples;
};

class RandomBook {
 public:
  explicit RandomBook(uint64_t seed) : random_(seed) {}

  void step() {
    const auto choice = below(10);
    if (choice < 2 || model_.empty()) return open();
    const uint64_t id = any_id();
    const auto it = model_.find(id);
    if (choice < 4 && it != model_.end()) return bind_or_not(it->first, it->second);
    if (choice < 8) return tell(id);
    const ReplicaId from{static_cast<uint32_t>(below(2))};
    const Attempt attempt{attempt_of(id)};
    const bool current =
        it != model_.end() && it->second.replica == from && it->second.attempt == attempt.value;
    if (choice < 9) {
      coordinator::tell(book_, from, PrefillDone{RequestId{id}, attempt, 0});
      if (current) it->second.prefilled = true;
      return;
    }
    const auto sample = static_cast<uint32_t>(below(4)), lost = static_cast<uint32_t>(below(30));
    coordinator::tell(book_, from, SequencePreempted{RequestId{id}, sample, attempt, lost});
    if (current && sample < it->second.samples.size()) {
      uint32_t& held = it->second.samples[sample].held;
      held -= std::min(held, lost);
    }
  }

  void compare() const {
    book_.check_integrity();
    ASSERT_EQ(book_.live(), model_.size());
    std::set<uint32_t> slots;
    for (const auto& [id, naive] : model_) {
      const uint32_t slot = book_.find(RequestId{id});
      ASSERT_TRUE(slot < book_.slots() && slots.insert(slot).second);
      const LiveRequest& r = book_[slot];
      ASSERT_EQ(r.attempt.value, naive.attempt);
      ASSERT_EQ(r.bound(), naive.replica.has_value());
      ASSERT_EQ(r.phase, !naive.replica    ? Phase::kWaiting
                         : naive.prefilled ? Phase::kRunning
                                           : Phase::kPrefilling);
      ASSERT_EQ(r.samples.size(), naive.samples.size());
      for (size_t s = 0; s < naive.samples.size(); ++s) {
        ASSERT_EQ(r.samples[s].tokens, naive.samples[s].tokens);
        ASSERT_EQ(r.samples[s].finish != FinishReason::kNone, naive.samples[s].ended);
        const uint32_t held = naive.samples[s].held;
        ASSERT_EQ(r.samples[s].residency,
                  held > 0 ? (Residency{*naive.replica, kDeviceTier, held}) : Residency{});
      }
    }
  }

 private:
  uint64_t below(uint64_t n) { return random_() % n; }
  uint64_t any_id() { return last_id_ - below(std::min<uint64_t>(last_id_, 16)); }
  uint32_t attempt_of(uint64_t id) {
    const auto it = model_.find(id);
    return (it == model_.end() ? 1 : it->second.attempt) + (below(8) == 0);
  }

  void open() {
    if (model_.size() == 12) close(model_.begin()->first);
    const auto samples = 1 + static_cast<uint32_t>(below(3));
    const auto prompt = 1 + static_cast<uint32_t>(below(50));
    book_.open(arrived(++last_id_, samples, prompt));
    Naive& naive = model_[last_id_];
    naive.prompt_tokens = prompt;
    naive.samples.resize(samples);
  }
  void bind_or_not(uint64_t id, Naive& naive) {
    const uint32_t slot = book_.find(RequestId{id});
    if (!naive.replica) {
      if (below(4) == 0) return close(id);
      naive.replica = ReplicaId{static_cast<uint32_t>(below(2))};
      naive.prefilled = false;
      ++naive.attempt;
      book_.bind(slot, *naive.replica);
      return;
    }
    naive.replica.reset();
    for (auto& sample : naive.samples) sample.held = 0;
    book_.unbind(slot);
  }
  void close(uint64_t id) {
    if (model_.at(id).replica) book_.unbind(book_.find(RequestId{id}));
    book_.close(book_.find(RequestId{id}));
    model_.erase(id);
  }
  void tell(uint64_t id) {
    const ReplicaId from{static_cast<uint32_t>(below(2))};
    const SequenceProgress p = tokens(
        id, attempt_of(id), static_cast<uint32_t>(below(12)), static_cast<uint32_t>(below(4)),
        below(6) == 0 ? FinishReason::kStop : FinishReason::kNone, static_cast<uint32_t>(below(3)));
    const auto it = model_.find(id);
    const bool current =
        it != model_.end() && it->second.replica == from && it->second.attempt == p.attempt.value;
    const uint32_t slot = book_.find(from, p.request, p.attempt);
    ASSERT_EQ(slot, current ? book_.find(p.request) : RequestBook::kNone);
    if (!current) return;
    Naive& naive = it->second;
    const bool joins =
        p.sample < naive.samples.size() && p.first_index <= naive.samples[p.sample].tokens;
    ASSERT_EQ(book_.judge(slot, p), !joins                          ? Verdict::kGap
                                    : naive.samples[p.sample].ended ? Verdict::kStale
                                                                    : Verdict::kCounts);
    if (!joins || naive.samples[p.sample].ended) return;
    Naive::Sample& sample = naive.samples[p.sample];
    uint32_t fresh = 0;  // token by token
    for (uint32_t i = 0; i < p.num_tokens; ++i) fresh += p.first_index + i >= sample.tokens;
    ASSERT_EQ(book_.take(slot, p), p.num_tokens - fresh);
    sample.tokens += fresh;
    sample.ended = p.finish != FinishReason::kNone;
    if (p.num_tokens > 0) {
      naive.prefilled = true;
      sample.held = naive.prompt_tokens + sample.tokens - 1;
    }
    if (sample.ended) sample.held = 0;
    bool open = false;
    for (const auto& each : naive.samples) open |= !each.ended;
    if (!open) close(id);
  }

  std::mt19937_64 random_;
  RequestBook book_;
  uint64_t last_id_ = 0;
  std::map<uint64_t, Naive> model_;
};

TEST(RequestBook, EqualsANaiveModelUnderRandomOperations) {
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    RandomBook world(seed);
    for (int i = 0; i < 2000 && !testing::Test::HasFatalFailure(); ++i) {
      world.step();
      world.compare();
    }
  }
}

TEST(RequestBookDeathTest, RefusesWhatCannotFollow) {
  RequestBook book;
  book.open(arrived(1));
  EXPECT_DEATH(book.unbind(0), "bound to nobody");
  book.bind(0, kOne);
  EXPECT_DEATH(book.bind(0, kOne), "bound once");
  EXPECT_DEATH(book.close(0), "off its replica");
  book.unbind(0);
  book.close(0);
  EXPECT_DEATH(book.close(0), "finishes once");
}

}  // namespace
}  // namespace tailor::coordinator
