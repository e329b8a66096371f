#include "tie/score.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "tie/score_queue.h"

namespace tailor::tie {
namespace {

TEST(Score, BetaFollowsTheQueueBetweenOneAndFiveTimesTheSlots) {
  EXPECT_DOUBLE_EQ(beta(0, 32), 0.1);
  EXPECT_DOUBLE_EQ(beta(32, 32), 0.1);
  EXPECT_DOUBLE_EQ(beta(80, 32), 0.25);
  EXPECT_DOUBLE_EQ(beta(160, 32), 0.5);
  EXPECT_DOUBLE_EQ(beta(1e6, 32), 0.5);
  EXPECT_DOUBLE_EQ(beta(3, 0), 0.5);
  EXPECT_DOUBLE_EQ(beta(0, 0), 0.1);
}

TEST(Score, IsExpectedPlusBetaTail) { EXPECT_DOUBLE_EQ(score({200, 300, 600}, 0.25), 350); }

TEST(Score, WaitingAnEFoldTakes285Seconds) {
  // The published decay, 0.9 per 30 s: a score e times larger is passed after 30 / ln(1 / 0.9) s.
  const double key = time_invariant_key(100, seconds(0), kTieTauSeconds);
  EXPECT_GT(time_invariant_key(100 / std::exp(1), seconds(285), kTieTauSeconds), key);
  EXPECT_LT(time_invariant_key(100 / std::exp(1), seconds(284), kTieTauSeconds), key);
  const double never = std::numeric_limits<double>::infinity();
  EXPECT_EQ(time_invariant_key(100, seconds(500), never), std::log(100));
  EXPECT_TRUE(std::isfinite(time_invariant_key(0, seconds(0), 30)));
}

TEST(BetaLevel, MovesInStepsThatAreHeldForASecond) {
  BetaLevel level;
  const Time start{};
  EXPECT_DOUBLE_EQ(level.update(start, 80, 32), 0.25);
  EXPECT_DOUBLE_EQ(level.update(start + milliseconds(999), 160, 32), 0.25);
  EXPECT_DOUBLE_EQ(level.update(start + seconds(1), 160, 32), 0.5);
  // A second of nothing but the same level does not have to pass again.
  EXPECT_DOUBLE_EQ(level.update(start + milliseconds(2500), 160, 32), 0.5);
  EXPECT_DOUBLE_EQ(level.update(start + milliseconds(2501), 37, 32), 0.125);
  EXPECT_DOUBLE_EQ(level.update(start + milliseconds(2502), 160, 32), 0.125);
  for (double waiting = 0; waiting < 200; ++waiting) {
    BetaLevel fresh;
    const double value = fresh.update(start, waiting, 32);
    EXPECT_NEAR(value, beta(waiting, 32), BetaLevel::kStep / 2 + 1e-12);
    EXPECT_NEAR(value / BetaLevel::kStep, std::round(value / BetaLevel::kStep), 1e-9);
  }
}

/// The formula as it is written, for everybody, at one instant.
struct BruteForce {
  double tau;
  long double value(const ScoreQueue::Request& r, double beta, double now) const {
    const long double waited = now - to_seconds(r.arrival);
    const long double decay = std::isinf(tau) ? 1.0L : powl(kDecayPerTau, waited / tau);
    return (r.expected + static_cast<long double>(beta) * r.cvar) * decay;
  }
};

/// One random queue under random predictions, departures and levels; at every instant the top must
/// be the brute-force minimum.
class RandomQueue {
 public:
  explicit RandomQueue(uint64_t seed)
      : random_(seed),
        tau_(seed % 4 == 0   ? std::numeric_limits<double>::infinity()
             : seed % 4 == 1 ? 1
                             : 30),
        queue_(tau_),
        brute_{tau_} {}

  void run() {
    for (int step = 0; step < 30; ++step) {
      now_ += std::chrono::milliseconds(random_() % 1500);
      queue_.set_beta(
          level_.update(Time{} + now_, static_cast<double>(random_() % 60), 1 + random_() % 8));
      ASSERT_EQ(queue_.beta(), level_.value());
      const auto choice = random_() % 8;
      if (inside_.empty() || choice < 4) {
        add();
      } else if (choice < 6) {
        const size_t at = random_() % inside_.size();
        inside_[at].second.expected = tokens();
        inside_[at].second.cvar = tokens() * 3;
        queue_.predict(inside_[at].first, inside_[at].second.expected, inside_[at].second.cvar);
      } else if (choice < 7) {
        const size_t at = random_() % inside_.size();
        queue_.erase(inside_[at].first);
        inside_.erase(inside_.begin() + static_cast<ptrdiff_t>(at));
      } else {
        check_pop();
      }
      ASSERT_EQ(queue_.size(), inside_.size());
    }
    queue_.check_integrity();
    while (!inside_.empty() && !testing::Test::HasFatalFailure()) check_pop();
    EXPECT_TRUE(queue_.empty());
  }

 private:
  // Few distinct numbers, so that ties happen.
  double tokens() { return static_cast<double>(1 + random_() % 6) * 40; }
  void add() {
    ScoreQueue::Request r;
    r.expected = tokens();
    r.cvar = tokens() * 3;
    r.arrival = std::chrono::milliseconds(random_() % (now_.count() + 1) / 500 * 500);
    r.id = next_id_++;
    inside_.emplace_back(queue_.push(r), r);
  }
  void check_pop() {
    const double now = to_seconds(now_), beta = level_.value();
    long double least = std::numeric_limits<long double>::infinity();
    for (const auto& each : inside_) least = std::min(least, brute_.value(each.second, beta, now));
    // Of those whose values are equal but for rounding, the earliest and then the lowest id.
    const auto first =
        std::min_element(inside_.begin(), inside_.end(), [&](const auto& a, const auto& b) {
          const bool a_least = brute_.value(a.second, beta, now) <= least * (1 + 1e-12L);
          const bool b_least = brute_.value(b.second, beta, now) <= least * (1 + 1e-12L);
          if (a_least != b_least) return a_least;
          if (a.second.arrival != b.second.arrival) return a.second.arrival < b.second.arrival;
          return a.second.id < b.second.id;
        });
    const ScoreQueue::Handle handle = queue_.top_handle();
    const ScoreQueue::Request top = queue_.pop();
    ASSERT_EQ(top.id, first->second.id) << "beta " << beta << " tau " << tau_ << " now " << now;
    ASSERT_EQ(handle, first->first);
    inside_.erase(first);
  }

  std::mt19937_64 random_;
  const double tau_;
  ScoreQueue queue_;
  BetaLevel level_;
  BruteForce brute_;
  std::chrono::milliseconds now_{0};
  uint64_t next_id_ = 0;
  std::vector<std::pair<ScoreQueue::Handle, ScoreQueue::Request>> inside_;
};

TEST(ScoreQueue, OrderEqualsTheFormulaInTwentyThousandRandomQueues) {
  for (uint64_t seed = 1; seed <= 20000; ++seed) {
    RandomQueue queue(seed);
    queue.run();
    ASSERT_FALSE(HasFatalFailure()) << "seed " << seed;
  }
}

TEST(ScoreQueue, ALevelThatMovesTurnsTheOrder) {
  ScoreQueue queue;
  queue.push({100, 900, seconds(0), 1});
  queue.push({150, 200, seconds(0), 2});
  EXPECT_EQ(queue.top().id, 2u);  // 170 against 190
  EXPECT_FALSE(queue.set_beta(0.1));
  EXPECT_TRUE(queue.set_beta(0.025));
  EXPECT_EQ(queue.top().id, 1u);  // 122.5 against 155
}

}  // namespace
}  // namespace tailor::tie
