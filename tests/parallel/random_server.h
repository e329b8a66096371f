// The leader's end of a replica in few lines, for tests of engines: random steps in random company,
// sequences that end late, are cancelled, given up and begun again, as many steps in flight as the
// engine takes. Whatever is in flight when, the tokens must be the same.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <thread>
#include <utility>
#include <vector>

#include "comm/collective_inprocess.h"
#include "parallel/engine.h"
#include "tests/parallel/delayed_engine.h"
#include "tests/worker/hash_engine.h"

namespace tailor::parallel::testing {

inline constexpr int32_t kSlots = 5;

struct RandomAnswer {
  std::vector<TokenId> tokens;
  bool failed = false;
  friend bool operator==(const RandomAnswer&, const RandomAnswer&) = default;
};
using Jobs = std::vector<std::shared_ptr<const Request>>;

/// The leader's end of a replica in few lines: random steps, random company. Every rank runs it.
class RandomServer {
 public:
  RandomServer(Engine& engine, comm::Collective* collective, uint32_t seed)
      : engine_(engine), collective_(collective), random_(seed) {
    for (int32_t b = 0; b < engine.info().num_blocks; ++b) blocks_.push_back(b);
    for (SlotId slot = 0; slot < kSlots; ++slot) slots_.push_back(slot);
  }

  std::vector<RandomAnswer> run(const Jobs& jobs) {
    answers_.resize(jobs.size());
    for (size_t j = jobs.size(); j-- > 0;) waiting_.push_back(j);
    jobs_ = &jobs;
    while (!waiting_.empty() || !running_.empty() || !flying_.empty()) {
      while (!waiting_.empty() && !slots_.empty()) begin();
      if (chance(10) && !running_.empty()) give_up(random_() % running_.size());
      const bool full = flying_.size() == static_cast<size_t>(engine_.depth());
      if (!flying_.empty() && (full || chance(3) || !submit())) collect();
      if (flying_.empty()) submit();
    }
    say(kEnd, {});
    return answers_;
  }

  void follow() {
    int32_t drawing_rows = 0;
    for (;;) {
      uint64_t word = 0;
      ASSERT_TRUE(collective_->broadcast(std::as_writable_bytes(std::span(&word, 1)), 0));
      if (word == kEnd) return;
      if (word == kCollect) {
        ASSERT_TRUE(engine_.collect().has_value());
        continue;
      }
      std::vector<std::byte> bytes(word);
      ASSERT_TRUE(collective_->broadcast(bytes, 0));
      StepInput input;
      ASSERT_TRUE(decode(bytes, input, drawing_rows).has_value());
      drawing_rows = input.num_logits();
      ASSERT_TRUE(engine_.submit(input, {}).has_value());
    }
  }

 private:
  static constexpr uint64_t kEnd = 0, kCollect = 1;

  struct Running {
    size_t job = 0;
    int life = 0;  // of the job: given up and begun again
    SlotId slot = 0;
    std::vector<int32_t> blocks;
    int32_t done = 0;              // rows submitted
    std::optional<int32_t> drawn;  // in this wanted row of the last submission, not collected yet
    int32_t unknown = 0;           // tokens drawn and not collected
  };
  /// A submission: whose token each wanted row draws, and blocks that are free behind it.
  struct Flight {
    std::vector<std::pair<size_t, int>> drawing;
    std::vector<int32_t> freed;
  };

  bool chance(uint32_t one_of) { return random_() % one_of == 0; }

  void begin() {
    Running s;
    s.job = waiting_.back();
    s.life = ++lives_[s.job];
    s.slot = slots_.back();
    waiting_.pop_back();
    slots_.pop_back();
    engine_.open_slot({s.slot, (*jobs_)[s.job], 0, answers_[s.job].tokens});
    running_.push_back(std::move(s));
  }

  /// Leaves its slot at once; its blocks when the last step that names them is collected.
  void leave(size_t place) {
    Running& s = running_[place];
    engine_.close_slot(s.slot);
    slots_.insert(slots_.begin() + static_cast<int64_t>(random_() % (slots_.size() + 1)), s.slot);
    std::vector<int32_t>& freed = flying_.empty() ? blocks_ : flying_.back().freed;
    freed.insert(freed.end(), s.blocks.begin(), s.blocks.end());
    running_.erase(running_.begin() + static_cast<int64_t>(place));
  }
  void give_up(size_t place) {
    waiting_.push_back(running_[place].job);
    leave(place);
  }

  bool submit() {
    StepInput input;
    input.step = ++steps_;
    Flight flight;
    std::vector<SlotId> drawing;
    std::map<size_t, int32_t> rows;
    for (Running& s : running_) {
      if (chance(4)) continue;
      const Request& request = *(*jobs_)[s.job];
      const std::vector<TokenId>& answer = answers_[s.job].tokens;
      const auto prompt = static_cast<int32_t>(request.prompt.size());
      const auto known = prompt + static_cast<int32_t>(answer.size());
      if (s.done > known || (s.done == known && !s.drawn)) continue;
      const bool ahead = s.done == known;
      const int32_t most = ahead ? 1 : known - s.done;
      const int32_t take = std::min<int32_t>(most, 1 + static_cast<int32_t>(random_() % 20));
      const auto needed = static_cast<size_t>((s.done + take + 15) / 16);
      if (needed - std::min(needed, s.blocks.size()) > blocks_.size()) continue;
      while (s.blocks.size() < needed) {
        s.blocks.push_back(blocks_.back());
        blocks_.pop_back();
      }
      const bool wants = ahead || s.done + take == known;
      input.chunks.push_back({.first_row = input.num_rows(),
                              .num_rows = take,
                              .first_position = s.done,
                              .first_block = static_cast<int32_t>(input.block_ids.size()),
                              .num_blocks = static_cast<int32_t>(needed),
                              .wants_logits = wants});
      input.block_ids.insert(input.block_ids.end(), s.blocks.begin(),
                             s.blocks.begin() + static_cast<int64_t>(needed));
      for (int32_t p = s.done; p < s.done + take; ++p)
        input.token_ids.push_back(ahead        ? drawn_in_row(*s.drawn)
                                  : p < prompt ? request.prompt[static_cast<size_t>(p)]
                                               : answer[static_cast<size_t>(p - prompt)]);
      s.done += take;
      if (!wants) continue;
      rows[s.job] = static_cast<int32_t>(drawing.size());
      drawing.push_back(s.slot);
      flight.drawing.emplace_back(s.job, s.life);
      ++s.unknown;
    }
    if (input.num_rows() == 0) return false;
    // Nothing older can be named from now on.
    for (Running& s : running_) {
      s.drawn.reset();
      if (const auto row = rows.find(s.job); row != rows.end()) s.drawn = row->second;
    }
    std::vector<std::byte> bytes;
    encode(input, bytes);
    say(bytes.size(), bytes);
    EXPECT_TRUE(engine_.submit(input, {.slots = drawing}).has_value());
    flying_.push_back(std::move(flight));
    ahead_most = std::max(ahead_most, flying_.size());
    return true;
  }

  void collect() {
    say(kCollect, {});
    const auto outcome = engine_.collect();
    ASSERT_TRUE(outcome.has_value()) << to_string(outcome.error());
    Flight flight = std::move(flying_.front());
    flying_.erase(flying_.begin());
    ASSERT_EQ(outcome->tokens.size(), flight.drawing.size());
    for (size_t row = 0; row < flight.drawing.size(); ++row) {
      const auto [job, life] = flight.drawing[row];
      const auto s = std::find_if(running_.begin(), running_.end(), [&](const Running& each) {
        return each.job == job && each.life == life;
      });
      if (s == running_.end()) {
        ++discarded;  // it has ended, or was given up
        continue;
      }
      RandomAnswer& answer = answers_[job];
      if (--s->unknown == 0) s->drawn.reset();
      const Result<TokenId>& token = outcome->tokens[row];
      answer.failed = !token;
      if (token) answer.tokens.push_back(*token);
      const auto length = static_cast<int32_t>(answer.tokens.size());
      if (!token || *token == worker::test::kEos || length == (*jobs_)[job]->sampling.max_tokens) {
        leave(static_cast<size_t>(s - running_.begin()));
      }
    }
    blocks_.insert(blocks_.begin(), flight.freed.begin(), flight.freed.end());
  }

  /// To the followers.
  void say(uint64_t word, std::span<std::byte> bytes) {
    if (collective_ == nullptr || collective_->size() == 1) return;
    EXPECT_TRUE(collective_->broadcast(std::as_writable_bytes(std::span(&word, 1)), 0));
    if (bytes.empty()) return;
    EXPECT_TRUE(collective_->broadcast(bytes, 0));
  }

  Engine& engine_;
  comm::Collective* const collective_;
  std::mt19937 random_;
  const Jobs* jobs_ = nullptr;
  std::vector<RandomAnswer> answers_;
  std::vector<size_t> waiting_;
  std::vector<Running> running_;
  std::vector<Flight> flying_;
  std::map<size_t, int> lives_;
  std::vector<int32_t> blocks_;
  std::vector<SlotId> slots_;
  uint64_t steps_ = 0;

 public:
  size_t ahead_most = 0;
  int discarded = 0;
};

inline Jobs some_jobs(uint32_t seed, int32_t vocab, int count) {
  std::mt19937 random(seed);
  const auto below = [&](uint32_t n) { return static_cast<int32_t>(random() % n); };
  Jobs jobs;
  for (int i = 0; i < count; ++i) {
    Request r;
    r.id = RequestId{static_cast<uint64_t>(i + 1)};
    for (int32_t length = 1 + below(60); length > 0; --length)
      r.prompt.push_back(1 + below(static_cast<uint32_t>(vocab - 3)));
    r.sampling.seed = random();
    r.sampling.max_tokens = 1 + below(24);
    r.sampling.temperature = i % 3 == 0 ? 0.0f : 0.9f;
    r.sampling.min_tokens = below(5);
    if (i % 4 == 1) r.sampling.repetition_penalty = 1.3f;
    if (i % 4 == 2) r.sampling.frequency_penalty = 0.7f;
    jobs.push_back(std::make_shared<const Request>(std::move(r)));
  }
  return jobs;
}

/// One rank's engine; what keeps it alive is captured.
using MakeEngine = std::function<std::unique_ptr<Engine>(const TpContext&)>;

struct Served {
  std::vector<RandomAnswer> answers;
  size_t ahead_most = 0;
  int discarded = 0;
};
inline Served serve(const MakeEngine& make, const Jobs& jobs, int tp, bool delayed, uint32_t seed) {
  Served out;
  comm::InProcessGroup group(tp, seconds(60));
  std::vector<std::thread> ranks;
  for (int rank = 0; rank < tp; ++rank) {
    ranks.emplace_back([&, rank] {
      const auto collective = group.join(rank);
      const std::unique_ptr<Engine> plain = make({rank, tp, collective.get()});
      ASSERT_NE(plain, nullptr);
      std::optional<DelayedEngine> late;
      if (delayed) late.emplace(*plain, collective.get());
      RandomServer server(delayed ? static_cast<Engine&>(*late) : *plain, collective.get(), seed);
      if (rank != 0) return server.follow();
      out.answers = server.run(jobs);
      out.ahead_most = server.ahead_most;
      out.discarded = server.discarded;
    });
  }
  for (std::thread& rank : ranks) rank.join();
  return out;
}

}  // namespace tailor::parallel::testing
