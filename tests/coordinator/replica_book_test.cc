#include "coordinator/replica_book.h"

#include <gtest/gtest.h>

#include <deque>
#include <map>
#include <random>

namespace tailor::coordinator {
namespace {

ReplicaInfo info(uint32_t slots, uint32_t blocks = 100) {
  ReplicaInfo info;
  info.slots = slots;
  info.num_blocks = blocks;
  return info;
}
constexpr ReplicaId kZero{0}, kTwo{2};

TEST(ReplicaBook, EachLifeHasAnEpochOfItsOwnAboveTheBase) {
  ReplicaBook book(2, 1000);
  book.join(kTwo, info(4));
  EXPECT_EQ(book[kTwo].epoch, Epoch{1001});
  EXPECT_TRUE(book.is_current(kTwo, Epoch{1001}));
  EXPECT_FALSE(book.knows(kZero));
  EXPECT_FALSE(book.is_current(kZero, Epoch{0}));
  EXPECT_FALSE(book.is_current(ReplicaId{9}, Epoch{1001}));
  EXPECT_EQ(book.usable_slots(), 4u);
  book.drain(kTwo);
  EXPECT_EQ(book.usable_slots(), 0u);
  EXPECT_EQ(book.joined(), 1u);
  book.leave(kTwo, true);
  EXPECT_FALSE(book.is_current(kTwo, Epoch{1001}));
  book.join(kTwo, info(8));
  EXPECT_EQ(book[kTwo].epoch, Epoch{1002});
  EXPECT_EQ(book.usable_slots(), 8u) << "a new life does not drain";
}

TEST(ReplicaBook, CountsTheCommandsSaidAndThoseThatReportsKnowOf) {
  ReplicaBook book(2, 0);
  book.join(kZero, info(4));
  for (uint64_t n = 1; n <= 5; ++n) EXPECT_EQ(book.address(kZero), (Envelope{kZero, Epoch{1}, n}));
  const auto in_flight_after = [&](uint64_t applied, uint32_t free_blocks = 7) {
    StepReport report;
    report.applied_seq = applied;
    report.free_blocks = free_blocks;
    book.take(kZero, report);
    return book[kZero].commands - book[kZero].applied;
  };
  EXPECT_EQ(in_flight_after(2), 3u);
  EXPECT_EQ(in_flight_after(1), 3u) << "what was applied stays applied";
  EXPECT_EQ(in_flight_after(99), 0u) << "nobody applies what was never said";
  EXPECT_EQ(book[kZero].free_blocks, 7u);
  in_flight_after(5, 1000);
  EXPECT_EQ(book[kZero].free_blocks, 100u) << "more than all is all";
  book.leave(kZero, true);
  book.join(kZero, info(4));
  EXPECT_EQ(book.address(kZero), (Envelope{kZero, Epoch{2}, 1})) << "a new life counts anew";
}

TEST(ReplicaBook, MoreSamplesThanSlotsHaveTheReplicaToThemselves) {
  ReplicaBook book(2, 0);
  book.join(kZero, info(2));
  EXPECT_FALSE(book.bind(kZero, 7, 5)) << "nobody is there: it starts";
  EXPECT_TRUE(book.bind(kZero, 8, 1)) << "ahead";
  EXPECT_EQ(book.promote(kZero), std::nullopt);
  for (int i = 0; i < 4; ++i) book.sample_ended(kZero);
  EXPECT_EQ(book.promote(kZero), 8u);
  EXPECT_EQ(book[kZero].in_use, 2u);
  EXPECT_EQ(book.promote(kZero), std::nullopt);
}

/// One replica, and who has what there by the rules as they are written.
class RandomReplica {
 public:
  explicit RandomReplica(uint64_t seed) : random_(seed) {
    book_.join(kZero, info(slots_ = 1 + below(6)));
  }

  void step() {
    const uint32_t choice = below(4);
    if (choice == 0 || (running_.empty() && ahead_.empty())) return bind();
    if (choice == 1 && !running_.empty()) return end_sample();
    if (choice == 2 && !ahead_.empty() && below(3) == 0) return start();
    unbind();
  }
  void compare() const {
    const Replica& r = book_[kZero];
    uint32_t in_use = 0, behind = 0;
    for (const auto& [slot, samples] : running_) in_use += samples;
    for (const auto& [slot, samples] : ahead_) behind += samples;
    ASSERT_EQ(r.in_use, in_use);
    ASSERT_EQ(r.requests, running_.size() + ahead_.size());
    ASSERT_EQ(r.free_slots(), static_cast<int64_t>(slots_) - in_use - behind);
    ASSERT_EQ(r.ahead.size(), ahead_.size());
    for (size_t i = 0; i < ahead_.size(); ++i) {
      ASSERT_EQ(r.ahead[i].slot, ahead_[i].first);
      ASSERT_EQ(r.ahead[i].samples, ahead_[i].second);
    }
  }

 private:
  uint32_t below(uint32_t n) { return static_cast<uint32_t>(random_() % n); }
  bool room(uint32_t samples) const {
    uint32_t in_use = 0;
    for (const auto& [slot, count] : running_) in_use += count;
    return in_use == 0 || in_use + samples <= slots_;
  }
  void bind() {
    const uint32_t slot = next_++, samples = 1 + below(4);
    const bool starts = ahead_.empty() && room(samples);
    ASSERT_EQ(book_[kZero].starts(samples), starts);
    ASSERT_EQ(book_.bind(kZero, slot, samples), !starts);
    if (starts)
      running_[slot] = samples;
    else
      ahead_.emplace_back(slot, samples);
  }
  void start() {  // reports may run before the book gives them slots
    const size_t at = below(static_cast<uint32_t>(ahead_.size()));
    const auto [slot, samples] = ahead_[at];
    book_.start(kZero, slot, samples);
    running_[slot] = samples;
    ahead_.erase(ahead_.begin() + static_cast<std::ptrdiff_t>(at));
  }
  void end_sample() {
    const auto it = std::next(running_.begin(), below(static_cast<uint32_t>(running_.size())));
    if (it->second == 0) return;
    --it->second;
    book_.sample_ended(kZero);
    promote();
  }
  void unbind() {
    const uint32_t at = below(static_cast<uint32_t>(running_.size() + ahead_.size()));
    if (at < running_.size()) {
      const auto it = std::next(running_.begin(), at);
      book_.unbind(kZero, it->first, it->second, false);
      running_.erase(it);
    } else {
      const auto it = ahead_.begin() + static_cast<std::ptrdiff_t>(at - running_.size());
      book_.unbind(kZero, it->first, it->second, true);
      ahead_.erase(it);
    }
    promote();
  }
  void promote() {
    while (!ahead_.empty() && room(ahead_.front().second)) {
      ASSERT_EQ(book_.promote(kZero), ahead_.front().first) << "the oldest first";
      running_.insert(ahead_.front());
      ahead_.pop_front();
    }
    ASSERT_EQ(book_.promote(kZero), std::nullopt);
  }

  std::mt19937_64 random_;
  ReplicaBook book_{1000, 0};
  uint32_t slots_ = 0, next_ = 0;
  std::map<uint32_t, uint32_t> running_;  // slot of the request -> open samples
  std::deque<std::pair<uint32_t, uint32_t>> ahead_;
};

TEST(ReplicaBook, EqualsANaiveModelUnderRandomOperations) {
  for (uint64_t seed = 1; seed <= 50; ++seed) {
    RandomReplica world(seed);
    for (int i = 0; i < 1000 && !testing::Test::HasFatalFailure(); ++i) {
      world.step();
      world.compare();
    }
  }
}

TEST(ReplicaBookDeathTest, RefusesALifeInsideALife) {
  ReplicaBook book(2, 0);
  book.join(kZero, info(4));
  EXPECT_DEATH(book.join(kZero, info(4)), "before the next begins");
  EXPECT_DEATH(book.join(kTwo, info(0)), "sensible");
}

TEST(ReplicaBook, NobodyComesOnceAllDrainOrHaveDrained) {
  ReplicaBook book(2, 0);
  EXPECT_FALSE(book.nobody_comes(2)) << "none has joined yet";
  book.join(kZero, info(4));
  book.drain(kZero);
  EXPECT_FALSE(book.nobody_comes(2)) << "one is still to join";
  EXPECT_TRUE(book.nobody_comes(1));
  EXPECT_TRUE(ReplicaBook(2, 0).nobody_comes(0)) << "all had drained before";
  book.join(kTwo, info(4));
  EXPECT_TRUE(book.is_last(kTwo));
  EXPECT_FALSE(book.is_last(kZero));
  book.drain(kTwo);
  EXPECT_TRUE(book.nobody_comes(2));
  book.leave(kZero, false);
  EXPECT_TRUE(book.nobody_comes(2));
  EXPECT_EQ(book.leaving(), 2u);
  book.leave(kTwo, true);
  EXPECT_FALSE(book.nobody_comes(1)) << "a lost one is expected back";
  EXPECT_EQ(book[kZero].drained, Epoch{1});
  EXPECT_EQ(book[kTwo].drained, Epoch{0});
}

}  // namespace
}  // namespace tailor::coordinator
