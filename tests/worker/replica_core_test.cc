// ReplicaCore against a small exact model: a paged pool of token ids, and a next token that is a
// hash of all that the block table leads back to. A token lost, doubled, or a block reused too
// early gives other tokens at once.
#include "worker/replica_core.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <map>
#include <random>
#include <set>

#include "tests/base/allocation_counter.h"
#include "worker/answer_text.h"

namespace tailor::worker {
namespace {

using tailor::testing::allocations;

constexpr int64_t kVocab = 50;
constexpr TokenId kEos = 0;
constexpr TokenId kTextStop = 7;  ///< its text is a stop string of the requests that have one
constexpr int32_t kContext = 300;

TokenId next_token(const std::vector<TokenId>& tokens, uint32_t sample) {
  uint64_t h = sample + 1;
  for (const TokenId t : tokens) {
    h ^= static_cast<uint64_t>(t) + 0x9E3779B97F4A7C15ull + (h << 6) + (h >> 2);
    h *= 0xBF58476D1CE4E5B9ull;
  }
  h ^= h >> 31;
  if (h % 31 == 0) return kEos;
  return static_cast<TokenId>(1 + (h >> 8) % (kVocab - 1));
}

/// Computes steps in the order of their plans, whenever the driver lets it.
class Model {
 public:
  explicit Model(int32_t num_blocks) : pool_(static_cast<size_t>(num_blocks) * 16, -1) {}

  void submit(const ReplicaCore& core, const Step& step) {
    Work work;
    size_t draw = 0;
    for (const PlannedChunk& c : step.chunks) {
      const ReplicaSequence& s = core.sequence(c.index);
      const auto table = core.planner().block_table(c.index);
      const int32_t end = c.first_position + c.num_tokens;
      for (int32_t p = c.first_position; p < end; ++p) {
        const bool last = p + 1 == end;
        const int32_t drawn_in = last && c.wants_logits ? step.draws[draw].drawn_in : -1;
        const TokenId token =
            drawn_in >= 0 ? drawn_.at(static_cast<size_t>(drawn_in)) : s.token_at(p);
        pool_.at(static_cast<size_t>(table[p / 16]) * 16 + p % 16) = token;
      }
      if (!c.wants_logits) continue;
      std::vector<TokenId> tokens;
      for (int32_t p = 0; p < end; ++p)
        tokens.push_back(pool_[static_cast<size_t>(table[p / 16]) * 16 + p % 16]);
      EXPECT_EQ(step.draws[draw].sequence, c.index);
      EXPECT_TRUE(open_slots_.count(s.slot));
      work.tokens.emplace_back(next_token(tokens, s.id.sample));
      ++draw;
    }
    drawn_.clear();
    for (const auto& token : work.tokens) drawn_.push_back(*token);
    work_.push_back(std::move(work));
  }
  void slots(ReplicaCore& core, const Step* step) {
    std::vector<int32_t> closed;
    core.take_closed_slots(closed);
    for (const int32_t slot : closed) EXPECT_EQ(open_slots_.erase(slot), 1u);
    if (step == nullptr) return;
    for (const AdmittedSequence& a : step->admitted)
      EXPECT_TRUE(open_slots_.insert(a.slot).second) << "two in one slot";
  }
  StepResult collect() {
    collected_ = std::move(work_.front());
    work_.pop_front();
    return {.tokens = collected_.tokens};
  }
  size_t open_slots() const { return open_slots_.size(); }

 private:
  struct Work {
    std::vector<Result<TokenId>> tokens;
  };
  std::vector<TokenId> pool_, drawn_;
  std::deque<Work> work_;
  Work collected_;
  std::set<int32_t> open_slots_;
};

struct Answer {
  std::vector<TokenId> tokens;
  FinishReason finish = FinishReason::kNone;
  Error error{ErrorCode::kOk, {}};
};

std::shared_ptr<const Request> make_request(uint64_t id, int32_t prompt, int32_t max_tokens,
                                            int32_t n = 1) {
  Request r;
  r.id = RequestId{id};
  for (int32_t i = 0; i < prompt; ++i)
    r.prompt.push_back(static_cast<TokenId>(1 + (id * 7 + static_cast<uint64_t>(i)) % 40));
  r.sampling.max_tokens = max_tokens;
  r.sampling.n = n;
  return std::make_shared<const Request>(std::move(r));
}

Answer truth(const Request& r, uint32_t sample) {
  Answer a;
  std::vector<TokenId> all = r.prompt;
  while (a.finish == FinishReason::kNone) {
    const TokenId token = next_token(all, sample);
    all.push_back(token);
    a.tokens.push_back(token);
    a.finish = finish_reason(r.sampling, static_cast<int64_t>(r.prompt.size()),
                             static_cast<int64_t>(a.tokens.size()), token,
                             {.eos_tokens = {kEos}, .max_context = kContext});
    if (!r.sampling.stop.empty() && token == kTextStop) a.finish = FinishReason::kStop;
  }
  return a;
}

/// A replica: core, model, and a text side that reads drafts with a delay.
class Replica {
 public:
  Replica(const PlannerOptions& planner, int32_t depth)
      : core({.planner = planner,
              .limits = {.eos_tokens = {kEos}, .max_context = kContext},
              .vocab_size = kVocab,
              .depth = depth}),
        depth_(depth),
        model_(planner.num_blocks) {}

  void send(WorkerCommand command, DispatchPayload payload = {}) {
    core.apply(ToReplica{{{}, core.epoch(), ++sequence_}, std::move(command)}, std::move(payload));
  }
  void dispatch(const std::shared_ptr<const Request>& r, uint32_t attempt = 1,
                std::vector<std::vector<TokenId>> generated = {}) {
    for (uint32_t s = 0; s < static_cast<uint32_t>(r->sampling.n); ++s) {
      Answer& a = answers[{r->id, s}];
      a = {};
      if (s < generated.size()) a.tokens = generated[s];
    }
    requests[r->id] = r;
    attempts[r->id] = Attempt{attempt};
    send(Dispatch{r->id, Attempt{attempt}, static_cast<uint32_t>(r->sampling.n),
                  static_cast<uint32_t>(r->prompt.size()),
                  static_cast<uint32_t>(r->sampling.max_tokens)},
         {r, std::move(generated)});
  }
  void cancel(RequestId id) {
    if (attempts.count(id)) send(CancelRequest{id, attempts[id]});
  }
  void welcome(uint32_t epoch) {
    met.rejoins += core.has_work();
    core.apply(ToReplica{{{}, Epoch{epoch}, sequence_ = 1}, Welcome{}});
    answers.clear();
    attempts.clear();
  }

  /// One turn: as many steps as may be under way, then the end of the oldest.
  bool turn(bool only_begin = false) {
    while (const Step* step = core.begin()) {
      model_.slots(core, step);
      model_.submit(core, *step);
      if (core.steps_under_way() == depth_) break;
    }
    model_.slots(core, nullptr);
    if (only_begin) return true;
    if (core.steps_under_way() > 0) {
      for (const Step::Row& row : core.oldest().draws)
        met.discarded += !core.sequence(row.sequence).live;
      drafts.push_back(std::move(core.end(model_.collect())));
      met.preempted += static_cast<int>(drafts.back().report.preempted.size());
      model_.slots(core, nullptr);
    } else if (core.unreported()) {
      drafts.push_back(std::move(core.report()));
    } else {
      return false;
    }
    return true;
  }
  /// The text side handles one draft; what it finds is told to the core later.
  void read() {
    ReportDraft draft = std::move(drafts.front());
    drafts.pop_front();
    EXPECT_EQ(draft.envelope.sequence, ++report_[draft.envelope.epoch])
        << "a report is out of order";
    ReportDraft copy = draft;
    texts_.complete(copy);
    trim_.drop_stopped(draft);
    std::vector<ReportTrim::Stop> found;
    size_t token = 0;
    for (uint32_t i = 0; i < draft.report.progress.size(); ++i) {
      const SequenceProgress& p = draft.report.progress[i];
      const auto& r = requests.at(p.request);
      for (uint32_t t = 0; t < p.num_tokens; ++t)
        if (!r->sampling.stop.empty() && draft.payload.token_ids[token + t] == kTextStop)
          found.push_back({i, t + 1});
      token += p.num_tokens;
    }
    trim_.cut(draft, found);
    for (StopFound& stop : trim_.take_stops()) stops.push_back(stop);
    if (draft.envelope.epoch == core.epoch()) take(draft);
  }
  /// The core is told the oldest stop that was found.
  void stop() {
    const StopFound found = stops.front();
    stops.pop_front();
    std::vector<SequenceIndex> named;
    core.planner().find(found.sequence.request, named);
    for (const SequenceIndex index : named) {
      const ReplicaSequence& s = core.sequence(index);
      if (s.id == found.sequence && s.attempt == found.attempt)
        met.late_stops += s.generated > answers[s.id].tokens.size();
    }
    core.apply(found);
  }
  void finish() {
    for (int i = 0; i < 100000; ++i) {
      const bool moved = turn();
      while (!drafts.empty()) read();
      const bool told = !stops.empty();
      while (!stops.empty()) stop();
      if (!moved && !told && !core.has_work()) break;
    }
    EXPECT_FALSE(core.has_work());
    EXPECT_EQ(core.planner().blocks().free_blocks(), core.planner().blocks().capacity());
    EXPECT_EQ(model_.open_slots(), 0u);
    EXPECT_EQ(trim_.waiting(), 0u);
    EXPECT_EQ(texts_.open_answers(), 0u);
  }
  void expect_sound() {
    const auto sound = core.check_integrity();
    ASSERT_TRUE(sound.has_value()) << to_string(sound.error());
  }

  ReplicaCore core;
  std::map<SequenceId, Answer> answers;
  std::map<RequestId, std::shared_ptr<const Request>> requests;
  std::map<RequestId, Attempt> attempts;
  std::deque<ReportDraft> drafts;
  std::deque<StopFound> stops;
  std::vector<StepReport> reports;

  /// What has come about so far.
  struct Met {
    int preempted = 0;
    int rejoins = 0;     ///< with something to drop
    int late_stops = 0;  ///< the core has drawn tokens behind the stop when it is told
    int discarded = 0;   ///< rows whose sequence had ended when they were collected
  } met;

 private:
  void take(ReportDraft& draft) {
    const StepPayload& payload = draft.payload;
    EXPECT_EQ(payload.texts.size(), draft.report.progress.size());
    size_t token = 0, end = 0;
    for (uint32_t i = 0; i < draft.report.progress.size(); ++i) {
      const SequenceProgress& p = draft.report.progress[i];
      const auto ids = std::span(payload.token_ids).subspan(token, p.num_tokens);
      token += p.num_tokens;
      const bool has_end = end < payload.ends.size() && payload.ends[end].entry == i;
      if (has_end) ++end;
      const auto attempt = attempts.find(p.request);
      if (attempt == attempts.end() || p.attempt != attempt->second) continue;
      Answer& a = answers.at(p.sequence());
      EXPECT_EQ(a.finish, FinishReason::kNone) << "reported behind its end";
      EXPECT_EQ(p.first_index, a.tokens.size()) << "a token is lost or doubled";
      a.tokens.insert(a.tokens.end(), ids.begin(), ids.end());
      a.finish = p.finish;
      EXPECT_EQ(has_end, p.finish == FinishReason::kFailed);
      if (has_end) a.error = payload.ends[end - 1].error;
    }
    EXPECT_EQ(token, payload.token_ids.size());
    reports.push_back(draft.report);
  }

  const int32_t depth_;
  Model model_;
  ReportTrim trim_;
  AnswerText texts_{nullptr};  // what it opens and closes
  uint64_t sequence_ = 0;
  std::map<Epoch, uint64_t> report_;
};

class ReplicaCoreDepth : public ::testing::TestWithParam<int> {
 protected:
  static void expect_truth(const Replica& replica, RequestId id) {
    const Request& r = *replica.requests.at(id);
    for (uint32_t s = 0; s < static_cast<uint32_t>(r.sampling.n); ++s) {
      const Answer exact = truth(r, s);
      EXPECT_EQ(replica.answers.at({id, s}).tokens, exact.tokens) << id.value << " " << s;
      EXPECT_EQ(replica.answers.at({id, s}).finish, exact.finish) << id.value << " " << s;
    }
  }
};
INSTANTIATE_TEST_SUITE_P(Depths, ReplicaCoreDepth, ::testing::Values(1, 2));

TEST_P(ReplicaCoreDepth, ARequestRunsToItsEnd) {
  Replica replica({.num_blocks = 40, .slots = 4, .token_budget = 32}, GetParam());
  replica.dispatch(make_request(1, 50, 40, 3));
  replica.dispatch(make_request(2, 5, 1));
  replica.finish();
  expect_truth(replica, RequestId{1});
  expect_truth(replica, RequestId{2});
  uint32_t prefills = 0;
  for (const StepReport& r : replica.reports) prefills += r.prefills.size();
  EXPECT_EQ(prefills, 2u) << "once per request, not per sample";
  EXPECT_EQ(replica.reports.back().applied_seq, 2u);
}

TEST_P(ReplicaCoreDepth, GoesOnBehindWhatWasGenerated) {
  Replica replica({.num_blocks = 40, .slots = 4, .token_budget = 32}, GetParam());
  const auto r = make_request(3, 20, 30, 2);
  std::vector<TokenId> whole = truth(*r, 0).tokens, part = truth(*r, 1).tokens;
  part.resize(part.size() / 2);
  replica.dispatch(r, 4, {whole, part});
  replica.finish();
  expect_truth(replica, r->id);
}

TEST_P(ReplicaCoreDepth, RefusesWhatCannotRunAndSaysWhy) {
  Replica replica({.num_blocks = 10, .slots = 4, .token_budget = 32}, GetParam());
  const auto good = make_request(1, 5, 10);
  Request outside = *make_request(2, 5, 10);
  outside.prompt[2] = kVocab;
  replica.dispatch(good);
  replica.dispatch(make_request(3, 0, 10));
  replica.dispatch(make_request(4, kContext, 10, 2));
  replica.dispatch(std::make_shared<const Request>(outside));
  replica.dispatch(make_request(5, 161, 10));
  replica.dispatch(make_request(6, 5, 10), 1, {{}, {2}});
  replica.dispatch(make_request(9, 5, 10, 3), 1, {{}, {}});  // of two samples only
  const auto numbers = make_request(10, 5, 10);
  replica.dispatch(numbers, 1);
  replica.cancel(numbers->id);
  replica.send(Dispatch{numbers->id, Attempt{1}, 1, 5, 9}, {numbers, {}});
  Dispatch other{RequestId{7}, Attempt{1}, 2, 5, 10};
  replica.answers[{RequestId{7}, 0}] = replica.answers[{RequestId{7}, 1}] = {};
  replica.attempts[RequestId{7}] = Attempt{1};
  replica.requests[RequestId{7}] = good;
  replica.send(other, {good, {}});
  replica.send(Drain{});
  replica.dispatch(make_request(8, 5, 10));
  replica.finish();
  expect_truth(replica, good->id);
  const auto code = [&](uint64_t id, uint32_t sample = 0) {
    const Answer& a = replica.answers.at({RequestId{id}, sample});
    EXPECT_EQ(a.finish, FinishReason::kFailed);
    return a.error.code;
  };
  EXPECT_EQ(code(3), ErrorCode::kInvalidArgument);
  EXPECT_EQ(code(4, 1), ErrorCode::kLimitExceeded);
  EXPECT_EQ(code(2), ErrorCode::kInvalidArgument);
  EXPECT_EQ(code(5), ErrorCode::kOutOfBlocks);
  EXPECT_EQ(code(6), ErrorCode::kInvalidArgument);
  EXPECT_EQ(code(7, 1), ErrorCode::kInvalidArgument);
  EXPECT_EQ(code(9, 2), ErrorCode::kInvalidArgument);
  EXPECT_EQ(code(10), ErrorCode::kInvalidArgument);
  EXPECT_EQ(code(8), ErrorCode::kUnavailable);
  const auto words = replica.core.take_words();
  ASSERT_EQ(words.size(), 1u);
  EXPECT_TRUE(std::holds_alternative<Drained>(words[0].report));
  EXPECT_TRUE(replica.core.take_words().empty()) << "once";
}

TEST_P(ReplicaCoreDepth, ARepeatAnOlderAttemptAndAnotherEpochChangeNothing) {
  Replica replica({.num_blocks = 40, .slots = 4, .token_budget = 32}, GetParam());
  const auto r = make_request(1, 5, 60);
  replica.welcome(3);
  replica.dispatch(r, 2);
  replica.turn();
  const Dispatch d{r->id, Attempt{2}, 1, 5, 60};
  replica.send(d, {r, {}});
  replica.send(Dispatch{r->id, Attempt{1}, 1, 5, 60}, {r, {}});
  replica.send(CancelRequest{r->id, Attempt{1}});
  replica.core.apply(ToReplica{{{}, Epoch{2}, 900}, CancelRequest{r->id, Attempt{2}}});
  replica.core.apply(ToReplica{{{}, Epoch{3}, 1}, CancelRequest{r->id, Attempt{2}}});
  replica.core.apply(ToReplica{{{}, Epoch{3}, 1}, Welcome{}});
  replica.finish();
  expect_truth(replica, r->id);
}

TEST_P(ReplicaCoreDepth, ANewEpochDropsEverythingAndNumbersAnew) {
  Replica replica({.num_blocks = 40, .slots = 4, .token_budget = 32}, GetParam());
  replica.dispatch(make_request(1, 5, 200, 3));
  for (int i = 0; i < 5; ++i) replica.turn(i == 4);
  replica.send(Drain{});
  replica.welcome(7);
  replica.expect_sound();
  replica.dispatch(make_request(2, 5, 20));
  replica.finish();
  expect_truth(replica, RequestId{2});
  EXPECT_TRUE(replica.core.take_words().empty()) << "the drain was of the old epoch";
}

TEST_P(ReplicaCoreDepth, ANewEpochClosesAnswersWhoseEndIsNotToldYet) {
  Replica replica({.num_blocks = 40, .slots = 4, .token_budget = 32}, GetParam());
  const auto r = make_request(1, 5, 20);
  replica.dispatch(r, 1, {truth(*r, 0).tokens});  // it had ended
  replica.dispatch(make_request(2, 0, 20));       // refused
  replica.welcome(7);
  replica.finish();  // which looks for open answers
  for (const StepReport& report : replica.reports) EXPECT_TRUE(report.progress.empty());
}

// Random commands and late stops at random moments.
Replica::Met run_at_random(uint32_t seed, int depth) {
  std::mt19937 rng(seed);
  const auto between = [&](int a, int b) { return a + static_cast<int>(rng() % (b - a + 1)); };
  const PlannerOptions planner{
      .num_blocks = between(13, 40), .slots = between(1, 8), .token_budget = between(1, 60)};
  Replica replica(planner, depth);
  std::set<RequestId> cancelled;
  uint64_t next = 1;
  uint32_t epoch = 0;
  for (int event = 0; event < 400; ++event) {
    const int what = between(0, 99);
    if (what < 15) {
      Request r = *make_request(next++, between(1, 120), between(1, 80),
                                between(0, 3) == 0 ? between(2, 4) : 1);
      if (between(0, 2) == 0) r.sampling.stop = {"seven"};
      if (between(0, 3) == 0) r.sampling.ignore_eos = true;
      std::vector<std::vector<TokenId>> generated;
      if (between(0, 4) == 0)
        for (uint32_t s = 0; s < static_cast<uint32_t>(r.sampling.n); ++s) {
          generated.push_back(truth(r, s).tokens);
          generated.back().resize(rng() % (generated.back().size() + r.sampling.stop.empty()));
        }
      replica.dispatch(std::make_shared<const Request>(r), 1 + rng() % 3, generated);
    } else if (what < 19 && next > 1) {
      const RequestId id{1 + rng() % (next - 1)};
      replica.cancel(id);
      cancelled.insert(id);
    } else if (what < 20 && next > 1) {  // again, from the beginning
      const RequestId id{1 + rng() % (next - 1)};
      if (!replica.attempts.count(id)) continue;
      cancelled.erase(id);
      replica.dispatch(replica.requests.at(id), replica.attempts[id].value + 1);
    } else if (what < 21 && between(0, 4) == 0) {
      replica.welcome(++epoch);
    } else if (what < 30 && !replica.stops.empty()) {
      replica.stop();
    } else if (what < 55 && !replica.drafts.empty()) {
      replica.read();
    } else {
      replica.turn(between(0, 3) == 0);
    }
    replica.expect_sound();
    if (::testing::Test::HasFatalFailure()) return replica.met;
  }
  replica.finish();
  replica.expect_sound();
  for (const auto& [id, attempt] : replica.attempts) {
    const Request& r = *replica.requests.at(id);
    for (uint32_t s = 0; s < static_cast<uint32_t>(r.sampling.n); ++s) {
      const Answer exact = truth(r, s);
      const Answer& a = replica.answers.at({id, s});
      if (cancelled.count(id)) {
        EXPECT_LE(a.tokens.size(), exact.tokens.size());
        EXPECT_TRUE(std::equal(a.tokens.begin(), a.tokens.end(), exact.tokens.begin(),
                               exact.tokens.begin() + static_cast<int64_t>(std::min(
                                                          a.tokens.size(), exact.tokens.size()))));
        continue;
      }
      if (a.finish == FinishReason::kFailed) {
        EXPECT_EQ(a.error.code, ErrorCode::kOutOfBlocks);
        continue;
      }
      EXPECT_EQ(a.tokens, exact.tokens) << "depth " << depth << " request " << id.value;
      EXPECT_EQ(a.finish, exact.finish);
    }
  }
  return replica.met;
}

TEST(ReplicaCoreProperty, SameTokensAndEndsAtEveryDepth) {
  for (const int depth : {1, 2}) {
    Replica::Met met;
    for (uint32_t seed = 0; seed < 60 && !::testing::Test::HasFailure(); ++seed) {
      SCOPED_TRACE("depth " + std::to_string(depth) + ", seed " + std::to_string(seed));
      const Replica::Met once = run_at_random(seed, depth);
      met.preempted += once.preempted;
      met.rejoins += once.rejoins;
      met.late_stops += once.late_stops;
      met.discarded += once.discarded;
    }
    EXPECT_GT(met.preempted, 20);
    EXPECT_GT(met.rejoins, 25);
    EXPECT_GT(met.late_stops, 50);
    EXPECT_GT(met.discarded, 50);
  }
}

// Two steps under way, by hand.
class ReplicaCoreAhead : public ::testing::Test {
 protected:
  void dispatch(uint64_t id, int32_t prompt, int32_t max_tokens) {
    const auto r = make_request(id, prompt, max_tokens);
    core_.apply({{{}, {}, id},
                 Dispatch{r->id, Attempt{1}, 1, static_cast<uint32_t>(prompt),
                          static_cast<uint32_t>(max_tokens)}},
                {r, {}});
  }
  ReportDraft end(std::vector<Result<TokenId>> tokens) {
    return std::move(core_.end({.tokens = tokens}));
  }
  ReplicaCore core_{{.planner = {.num_blocks = 6, .slots = 2, .token_budget = 256},
                     .limits = {.eos_tokens = {kEos}, .max_context = kContext},
                     .vocab_size = kVocab,
                     .depth = 2}};
};

TEST_F(ReplicaCoreAhead, WhatEndedKeepsBlocksAndSlotUntilNoStepNamesIt) {
  dispatch(1, 20, 50);
  const Step* first = core_.begin();
  ASSERT_NE(first, nullptr);
  EXPECT_EQ(first->draws.at(0).drawn_in, -1);
  const Step* second = core_.begin();
  ASSERT_NE(second, nullptr);
  EXPECT_EQ(second->chunks.at(0).first_position, 20);
  EXPECT_EQ(second->draws.at(0).drawn_in, 0);
  EXPECT_EQ(second->draws.at(0).generated, 1u);
  EXPECT_EQ(core_.begin(), nullptr) << "two are under way";

  EXPECT_EQ(end({kEos}).report.progress.at(0).finish, FinishReason::kStop);
  std::vector<int32_t> closed;
  core_.take_closed_slots(closed);
  EXPECT_TRUE(closed.empty());
  EXPECT_EQ(core_.planner().blocks().free_blocks(), 4);
  EXPECT_TRUE(core_.has_work());
  EXPECT_EQ(core_.begin(), nullptr);

  EXPECT_TRUE(end({5}).report.progress.empty()) << "beyond the end";
  core_.take_closed_slots(closed);
  EXPECT_EQ(closed.size(), 1u);
  EXPECT_EQ(core_.planner().blocks().free_blocks(), 6);
  EXPECT_FALSE(core_.has_work());
}

TEST_F(ReplicaCoreAhead, TheLastTokenByCountIsNotPlannedBeyond) {
  dispatch(1, 20, 2);
  ASSERT_NE(core_.begin(), nullptr);
  ASSERT_NE(core_.begin(), nullptr);
  EXPECT_EQ(end({5}).report.progress.at(0).finish, FinishReason::kNone);
  EXPECT_EQ(core_.begin(), nullptr) << "its second and last token is being drawn";
  EXPECT_EQ(end({5}).report.progress.at(0).finish, FinishReason::kLength);
}

TEST_F(ReplicaCoreAhead, NobodyIsPushedOutWhileHeldBlocksComeBack) {
  dispatch(1, 48, 50);
  dispatch(2, 16, 50);
  ASSERT_EQ(core_.begin()->chunks.size(), 2u);  // 3 blocks and 1
  ASSERT_EQ(core_.begin()->chunks.size(), 2u);  // 4 and 2: none is free
  for (int i = 0; i < 15; ++i) {
    ASSERT_EQ(end({5, 5}).report.progress.size(), 2u);
    ASSERT_EQ(core_.begin()->chunks.size(), 2u);
  }
  ASSERT_EQ(core_.planner().blocks().free_blocks(), 0);
  // Both need another block now. The second ends, but a step under way still names it.
  end({5, kEos});
  EXPECT_EQ(core_.begin(), nullptr);
  EXPECT_TRUE(end({5, 5}).report.preempted.empty());
  const Step* step = core_.begin();
  ASSERT_NE(step, nullptr);
  EXPECT_EQ(step->chunks.at(0).first_position, 64);
  EXPECT_EQ(core_.planner().blocks().free_blocks(), 1);
}

TEST_F(ReplicaCoreAhead, AnUnfitSequenceFailsBehindItsLastToken) {
  dispatch(1, 90, 50);
  ReportDraft last;
  uint32_t told = 0;
  for (int i = 0; i < 40 && core_.has_work(); ++i) {
    while (core_.begin() != nullptr) {
    }
    if (core_.steps_under_way() > 0) {
      last = end({5});
    } else {
      ASSERT_TRUE(core_.unreported());
      last = std::move(core_.report());
    }
    ASSERT_EQ(last.report.progress.size(), 1u);
    EXPECT_EQ(last.report.progress[0].first_index, told);
    told += last.report.progress[0].num_tokens;
  }
  EXPECT_EQ(told, 7u) << "the pool holds 96 tokens, the 97th is drawn";
  EXPECT_EQ(last.report.progress.at(0).finish, FinishReason::kFailed);
  EXPECT_EQ(last.payload.ends.at(0).error.code, ErrorCode::kOutOfBlocks);
}

class ReplicaCoreMoves : public ::testing::Test {
 protected:
  std::vector<std::pair<kv::BlockId, bool>> moved() {
    std::vector<std::pair<kv::BlockId, bool>> out;
    for (const MoveOutcome& each : core_.take_moved()) out.emplace_back(each.move.to, each.arrived);
    return out;
  }
  ReplicaCore core_{{.planner = {.num_blocks = 6, .slots = 2, .token_budget = 256},
                     .limits = {.eos_tokens = {kEos}, .max_context = kContext},
                     .vocab_size = kVocab}};
};

TEST_F(ReplicaCoreMoves, AreBegunInTheNextStepAndEachHasAnEnd) {
  using Moved = std::vector<std::pair<kv::BlockId, bool>>;
  EXPECT_FALSE(core_.has_work());
  for (int32_t i = 0; i < 4; ++i) core_.order({.from = 10 + i, .to = 20 + i});
  EXPECT_TRUE(core_.has_work());
  EXPECT_FALSE(core_.moves_open());
  const Step* step = core_.begin();
  ASSERT_NE(step, nullptr) << "though nothing is to be computed";
  EXPECT_TRUE(step->chunks.empty());
  ASSERT_EQ(step->moves.size(), 4u);
  for (int32_t i = 0; i < 4; ++i) EXPECT_EQ(step->moves[static_cast<size_t>(i)].to, 20 + i);
  core_.apply(kv::MoveDone{1});
  EXPECT_EQ(moved(), (Moved{{20, true}}));
  core_.end({});
  EXPECT_EQ(core_.begin(), nullptr) << "once";
  EXPECT_TRUE(core_.has_work() && core_.moves_open());

  core_.apply({{{}, {}, 1}, Drain{}});
  core_.report();
  EXPECT_TRUE(core_.take_words().empty()) << "moves are open";
  core_.apply({{{}, Epoch{1}, 1}, Welcome{}});  // they are of no epoch
  core_.apply(kv::MoveFailed{2});
  core_.apply(kv::MoveDone{4});
  EXPECT_EQ(moved(), (Moved{{21, false}, {22, true}, {23, true}}));
  EXPECT_FALSE(core_.has_work());
}

TEST_F(ReplicaCoreMoves, GoBesideChunksAndWaitWhereNoStepMayBegin) {
  const auto r = make_request(1, 20, 9);
  core_.apply({{{}, {}, 1}, Dispatch{r->id, Attempt{1}, 1, 20, 9}}, {r, {}});
  ASSERT_NE(core_.begin(), nullptr);
  core_.order({.from = 10, .to = 20});
  EXPECT_EQ(core_.begin(), nullptr) << "one is under way";
  const std::vector<Result<TokenId>> tokens = {TokenId{5}};
  core_.end({.tokens = tokens});
  const Step* step = core_.begin();
  ASSERT_NE(step, nullptr);
  EXPECT_EQ(step->moves.size(), 1u);
  EXPECT_EQ(step->chunks.size(), 1u);
}

using ReplicaCoreMovesDeathTest = ReplicaCoreMoves;
TEST_F(ReplicaCoreMovesDeathTest, ThatCannotBeEndTheProcess) {
  EXPECT_DEATH(core_.order({.from = 10, .to = 5}), "planned here");
  EXPECT_DEATH(core_.order({.from = 5, .to = 10}), "planned here");
  core_.order({.from = 10, .to = 20});
  core_.order({.from = 11, .to = 21});
  core_.begin();
  EXPECT_DEATH(core_.apply(kv::MoveFailed{2}), "out of order");
  EXPECT_DEATH(core_.apply(kv::MoveDone{3}), "out of order");
  EXPECT_DEATH(core_.apply(kv::MoveDone{0}), "out of order");
}

TEST(ReplicaCore, TapsWhatTheProbeWants) {
  ReplicaCore core({.planner = {.num_blocks = 40, .slots = 4, .token_budget = 64},
                    .limits = {.max_context = kContext},
                    .vocab_size = kVocab,
                    .probe = {.prompt = true, .every = 4}});
  const auto r = make_request(1, 20, 9, 2);
  core.apply({{{}, {}, 1}, Dispatch{r->id, Attempt{1}, 2, 20, 9}}, {r, {}});
  std::vector<std::pair<uint32_t, uint32_t>> told;
  while (const Step* step = core.begin()) {
    std::vector<Result<TokenId>> tokens(step->draws.size(), 5);
    std::vector<LengthLaw> laws(step->taps.size());
    const ReportDraft& draft = core.end({.tokens = tokens, .laws = laws});
    for (const LawProbed& law : draft.report.laws) told.emplace_back(law.sample, law.generated);
  }
  std::sort(told.begin(), told.end());
  EXPECT_EQ(told,
            (std::vector<std::pair<uint32_t, uint32_t>>{{0, 0}, {0, 4}, {0, 8}, {1, 4}, {1, 8}}));
}

// Entries of many tokens: what a draft looks like when a step draws more than one.
TEST(ReportTrim, CutsBehindAStopAndDropsTheRestUntilItIsClosed) {
  const auto id = [](uint64_t request) { return SequenceId{RequestId{request}, 0}; };
  const auto draft = [&](FinishReason first_finish = FinishReason::kNone) {
    ReportDraft d;
    d.report.progress = {{RequestId{1}, 0, Attempt{1}, 10, 3, first_finish},
                         {RequestId{2}, 0, Attempt{1}, 4, 2, FinishReason::kNone},
                         {RequestId{3}, 0, Attempt{1}, 0, 0, FinishReason::kFailed}};
    d.payload.token_ids = {11, 12, 13, 21, 22};
    d.payload.texts = {{0, 0, 3}, {0, 0, 0}, {}};
    for (const TokenId t : {11, 12, 13}) d.payload.logprobs.push_back({{t, -1}, {}});
    d.payload.ends = {{2, {}, {ErrorCode::kOutOfBlocks, "none"}}};
    return d;
  };
  ReportTrim trim;
  ReportDraft d = draft();
  trim.drop_stopped(d);
  const ReportTrim::Stop stop[] = {{0, 2}};
  trim.cut(d, stop);
  EXPECT_EQ(d.report.progress.at(0).num_tokens, 2u);
  EXPECT_EQ(d.report.progress.at(0).finish, FinishReason::kStop);
  EXPECT_EQ(d.payload.token_ids, (std::vector<TokenId>{11, 12, 21, 22}));
  EXPECT_EQ(d.payload.logprobs.size(), 2u);
  EXPECT_EQ(d.payload.texts.at(0).num_logprobs, 2u);
  auto found = trim.take_stops();
  ASSERT_EQ(found.size(), 1u);
  EXPECT_EQ(found[0].sequence, id(1));
  EXPECT_EQ(found[0].attempt, Attempt{1});

  d = draft();
  trim.drop_stopped(d);
  ASSERT_EQ(d.report.progress.size(), 2u);
  EXPECT_EQ(d.payload.token_ids, (std::vector<TokenId>{21, 22}));
  EXPECT_TRUE(d.payload.logprobs.empty());
  EXPECT_EQ(d.payload.ends.at(0).entry, 1u);
  EXPECT_EQ(trim.waiting(), 1u);

  d = draft();
  d.changes.push_back({id(1), Attempt{1}, nullptr, {}, {}});
  trim.drop_stopped(d);
  EXPECT_EQ(d.report.progress.size(), 3u) << "closed: what comes now is another life of it";
  EXPECT_EQ(trim.waiting(), 0u);

  // The core ends it by itself behind the stop: dropped too, and nothing is left to close.
  d = draft();
  trim.cut(d, stop);
  trim.take_stops();
  d = draft(FinishReason::kLength);
  trim.drop_stopped(d);
  EXPECT_EQ(d.report.progress.size(), 2u);
  EXPECT_EQ(trim.waiting(), 0u);
  // A stop within the core's last entry wins, and the core need not be told.
  d = draft(FinishReason::kLength);
  trim.cut(d, stop);
  EXPECT_EQ(d.report.progress.at(0).finish, FinishReason::kStop);
  EXPECT_TRUE(trim.take_stops().empty());
}

TEST(ReplicaCore, SteadyStateAllocatesNothing) {
  for (const int depth : {1, 2}) {
    ReplicaCore core({.planner = {.num_blocks = 4000, .slots = 16, .token_budget = 64},
                      .limits = {.eos_tokens = {kEos}, .max_context = 4000},
                      .vocab_size = kVocab,
                      .depth = depth});
    for (uint64_t id = 1; id <= 12; ++id) {
      const auto r = make_request(id, 20, 3000);
      core.apply({{{}, {}, id}, Dispatch{r->id, Attempt{1}, 1, 20, 3000}}, {r, {}});
    }
    std::vector<Result<TokenId>> tokens(16, 1);
    std::vector<int32_t> closed;
    std::array<size_t, 2> draws{};
    uint64_t begun = 0, ended = 0;
    const auto run = [&](int steps) {
      for (int i = 0; i < steps; ++i) {
        while (const Step* step = core.begin()) draws[begun++ % 2] = step->draws.size();
        core.take_closed_slots(closed);
        core.end({.tokens = std::span(tokens).first(draws[ended++ % 2])});
      }
    };
    run(100);
    const int64_t before = allocations;
    run(400);
    EXPECT_EQ(allocations - before, 0) << "depth " << depth;
  }
}

}  // namespace
}  // namespace tailor::worker
