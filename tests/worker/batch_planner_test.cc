#include "worker/batch_planner.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <deque>
#include <map>
#include <new>
#include <random>
#include <set>
#include <vector>

namespace {
std::atomic<long> allocations{0};
}
// Counts what this program asks the heap for.
[[gnu::noinline]] void* operator new(size_t size) {
  ++allocations;
  if (void* p = std::malloc(size)) return p;
  throw std::bad_alloc();
}
[[gnu::noinline]] void operator delete(void* p) noexcept { std::free(p); }
[[gnu::noinline]] void operator delete(void* p, size_t) noexcept { std::free(p); }

namespace tailor::worker {
namespace {

PlannerOptions options(int32_t blocks, int32_t slots, int32_t budget) {
  return {.num_blocks = blocks, .slots = slots, .token_budget = budget};
}

SequenceIndex add_one(BatchPlanner& p, uint64_t id, int32_t prompt, int32_t generated = 0) {
  std::vector<SequenceIndex> out;
  const int32_t counts[] = {generated};
  p.add(RequestId{id}, prompt, counts, out);
  return out[0];
}

void draw_all(BatchPlanner& p, const BatchPlan& plan) {
  for (const auto& c : plan.chunks)
    if (c.wants_logits) p.token_drawn(c.index);
}

TEST(BatchPlanner, CutsALongPromptIntoChunksOfTheBudget) {
  BatchPlanner p(options(100, 4, 32));
  SequenceIndex a = add_one(p, 1, 70);
  std::vector<std::pair<int, int>> chunks;
  for (int i = 0; i < 4; ++i) {
    const BatchPlan& plan = p.plan();
    ASSERT_EQ(plan.chunks.size(), 1u);
    EXPECT_EQ(plan.chunks[0].index, a);
    chunks.emplace_back(plan.chunks[0].first_position, plan.chunks[0].num_tokens);
    EXPECT_EQ(plan.chunks[0].wants_logits, i >= 2);
    EXPECT_EQ(plan.decode_tokens, i == 3);
    draw_all(p, plan);
  }
  EXPECT_EQ(chunks, (std::vector<std::pair<int, int>>{{0, 32}, {32, 32}, {64, 6}, {70, 1}}));
}

TEST(BatchPlanner, DecodesBesideAPromptAndCountsThemInTheBudget) {
  BatchPlanner p(options(100, 4, 32));
  SequenceIndex a = add_one(p, 1, 5);
  draw_all(p, p.plan());
  SequenceIndex b = add_one(p, 2, 100);
  const BatchPlan& plan = p.plan();
  ASSERT_EQ(plan.chunks.size(), 2u);
  EXPECT_EQ(plan.chunks[0].index, a);
  EXPECT_EQ(plan.chunks[0].num_tokens, 1);
  EXPECT_EQ(plan.chunks[1].index, b);
  EXPECT_EQ(plan.chunks[1].num_tokens, 31);
  EXPECT_EQ(plan.decode_tokens, 1);
  EXPECT_EQ(plan.prefill_tokens, 31);
}

TEST(BatchPlanner, AdmitsInDispatchOrderUpToTheSlots) {
  BatchPlanner p(options(100, 2, 64));
  SequenceIndex a = add_one(p, 1, 3), b = add_one(p, 2, 3), c = add_one(p, 3, 3);
  draw_all(p, p.plan());
  EXPECT_EQ(p.running_sequences(), 2);
  EXPECT_EQ(p.waiting_sequences(), 1);
  EXPECT_TRUE(p.block_table(c).empty());
  p.finish(a);
  const BatchPlan& plan = p.plan();
  ASSERT_EQ(plan.chunks.size(), 2u);
  EXPECT_EQ(plan.chunks[0].index, b);
  EXPECT_EQ(plan.chunks[1].index, c);
}

TEST(BatchPlanner, OutOfBlocksTakesTheLatestDispatchedAndPrefillsItAgain) {
  BatchPlanner p(options(4, 4, 64));
  SequenceIndex a = add_one(p, 1, 16), b = add_one(p, 2, 14);
  draw_all(p, p.plan());  // a: 17 known, 1 block; b needs the watermark of 2 beside its block
  ASSERT_EQ(p.running_sequences(), 2);
  bool preempted = false;
  for (int i = 0; i < 40 && !preempted; ++i) {
    const BatchPlan& plan = p.plan();
    for (const auto& v : plan.preempted) {
      EXPECT_EQ(v.index, b);
      EXPECT_GT(v.tokens_lost, 14);
      preempted = true;
    }
    draw_all(p, plan);
  }
  ASSERT_TRUE(preempted);
  EXPECT_EQ(p.running_sequences(), 1);
  p.finish(a);
  const BatchPlan& plan = p.plan();
  ASSERT_EQ(plan.chunks.size(), 1u);
  EXPECT_EQ(plan.chunks[0].index, b);
  EXPECT_EQ(plan.chunks[0].first_position, 0);
  EXPECT_GT(plan.chunks[0].num_tokens, 15) << "its drawn tokens are prefilled with the prompt";
}

TEST(BatchPlanner, ASequenceThatCannotFitAloneFailsAndTheNextRuns) {
  BatchPlanner p(options(4, 4, 64));
  SequenceIndex a = add_one(p, 1, 65), b = add_one(p, 2, 10);
  const BatchPlan& plan = p.plan();
  ASSERT_EQ(plan.unfit.size(), 1u);
  EXPECT_EQ(plan.unfit[0].index, a);
  EXPECT_EQ(plan.unfit[0].blocks_needed, 5);
  ASSERT_EQ(plan.chunks.size(), 1u);
  EXPECT_EQ(plan.chunks[0].index, b);
}

TEST(BatchPlanner, ASequenceThatGrowsBeyondThePoolFails) {
  BatchPlanner p(options(2, 4, 64));
  SequenceIndex a = add_one(p, 1, 31);
  draw_all(p, p.plan());
  draw_all(p, p.plan());  // position 31 fills the second block
  const BatchPlan& plan = p.plan();
  ASSERT_EQ(plan.unfit.size(), 1u);
  EXPECT_EQ(plan.unfit[0].index, a);
  EXPECT_FALSE(p.has_work());
  EXPECT_EQ(p.blocks().free_blocks(), 2);
}

TEST(BatchPlanner, SamplesShareThePromptsFullBlocksAndPrefillTheRest) {
  BatchPlanner p(options(100, 8, 24));
  std::vector<SequenceIndex> s;
  const int32_t none[] = {0, 0, 0};
  p.add(RequestId{1}, 40, none, s);
  const BatchPlan* plan = &p.plan();
  ASSERT_EQ(plan->chunks.size(), 1u) << "the others wait for the prompt";
  draw_all(p, *plan);
  plan = &p.plan();  // 24..40
  ASSERT_EQ(plan->chunks.size(), 1u);
  EXPECT_TRUE(plan->chunks[0].wants_logits);
  draw_all(p, *plan);
  plan = &p.plan();
  ASSERT_EQ(plan->chunks.size(), 3u);
  for (int i : {1, 2}) {
    EXPECT_EQ(plan->chunks[i].index, s[i]);
    EXPECT_EQ(plan->chunks[i].first_position, 32);
    EXPECT_EQ(plan->chunks[i].num_tokens, 8);
    EXPECT_TRUE(plan->chunks[i].wants_logits);
    EXPECT_EQ(p.block_table(s[i])[0], p.block_table(s[0])[0]);
    EXPECT_EQ(p.block_table(s[i])[1], p.block_table(s[0])[1]);
    EXPECT_NE(p.block_table(s[i])[2], p.block_table(s[0])[2]);
  }
  EXPECT_EQ(p.blocks().used_blocks(), 5);
}

TEST(BatchPlanner, NeverSharesTheLastBlockOfAPromptThatEndsOnABlock) {
  BatchPlanner p(options(100, 8, 64));
  std::vector<SequenceIndex> s;
  const int32_t none[] = {0, 0};
  p.add(RequestId{1}, 32, none, s);
  draw_all(p, p.plan());
  const BatchPlan& plan = p.plan();
  ASSERT_EQ(plan.chunks.size(), 2u);
  EXPECT_EQ(plan.chunks[1].first_position, 16);
  EXPECT_EQ(plan.chunks[1].num_tokens, 16);
}

TEST(BatchPlanner, FinishWorksForWaitingAndRunning) {
  BatchPlanner p(options(10, 1, 64));
  SequenceIndex a = add_one(p, 1, 5), b = add_one(p, 2, 5);
  draw_all(p, p.plan());
  std::vector<SequenceIndex> found;
  p.find(RequestId{2}, found);
  EXPECT_EQ(found, std::vector<SequenceIndex>{b});
  p.finish(b);
  p.finish(a);
  EXPECT_FALSE(p.has_work());
  EXPECT_EQ(p.blocks().free_blocks(), 10);
}

TEST(BatchPlanner, SteadyStateAllocatesNothing) {
  BatchPlanner p(options(400, 32, 64));
  std::vector<SequenceIndex> s;
  s.reserve(64);
  for (int i = 0; i < 24; ++i) add_one(p, i, 20 + i);
  auto run = [&](int steps) {
    for (int i = 0; i < steps; ++i) draw_all(p, p.plan());
  };
  run(60);
  long before = allocations;
  run(200);
  EXPECT_EQ(allocations - before, 0);

  // A long churn of arrivals, ends and preemptions in a small pool settles to none either.
  BatchPlanner q(options(24, 8, 32));
  std::mt19937 rng(1);
  std::vector<SequenceIndex> live;
  live.reserve(256);
  uint64_t id = 0;
  long preemptions = 0;
  const int32_t none[] = {0};
  auto churn = [&](int steps) {
    for (int i = 0; i < steps; ++i) {
      while (live.size() < 12)
        q.add(RequestId{id++}, 1 + static_cast<int32_t>(rng() % 60), none, live);
      const BatchPlan& plan = q.plan();
      preemptions += static_cast<long>(plan.preempted.size());
      for (const auto& c : plan.chunks) {
        if (!c.wants_logits) continue;
        q.token_drawn(c.index);
        if (rng() % 40 == 0) {
          q.finish(c.index);
          std::erase(live, c.index);
        }
      }
    }
  };
  churn(3000);
  before = allocations;
  preemptions = 0;
  churn(3000);
  EXPECT_EQ(allocations - before, 0);
  EXPECT_GT(preemptions, 10);
}

TEST(BatchPlanner, APausedSequenceKeepsItsBlocksUntilOneIsNeeded) {
  PlannerOptions o = options(4, 1, 64);
  o.paused_tables = 1;
  BatchPlanner p(o);
  const SequenceIndex a = add_one(p, 1, 20);
  draw_all(p, p.plan());
  EXPECT_EQ(p.slot(a), 0);
  EXPECT_EQ(p.pause(a), 0);
  EXPECT_EQ(p.slot(a), -1);
  EXPECT_EQ(p.block_table(a).size(), 2u);
  EXPECT_FALSE(p.has_work()) << "it is out of the race";

  const SequenceIndex b = add_one(p, 2, 16);
  ASSERT_EQ(p.plan().chunks.size(), 1u);
  EXPECT_EQ(p.slot(b), 0) << "a later one runs in its slot";
  p.token_drawn(b);
  p.resume(a);
  const BatchPlan& next = p.plan();
  EXPECT_TRUE(next.reclaimed.empty());
  ASSERT_EQ(next.chunks.size(), 1u) << "a waits for the slot, before b in the order";
  p.finish(b);
  const BatchPlan& again = p.plan();
  ASSERT_EQ(again.chunks.size(), 1u);
  EXPECT_EQ(again.chunks[0].index, a);
  EXPECT_EQ(again.chunks[0].first_position, 20) << "nothing is computed twice";
  p.token_drawn(a);

  EXPECT_EQ(p.pause(a), 0);
  const SequenceIndex c = add_one(p, 3, 40);
  const BatchPlan& taken = p.plan();
  ASSERT_EQ(taken.reclaimed.size(), 1u);
  EXPECT_EQ(taken.reclaimed[0].index, a);
  EXPECT_EQ(taken.reclaimed[0].tokens_lost, 21);
  ASSERT_EQ(taken.chunks.size(), 1u);
  EXPECT_EQ(taken.chunks[0].index, c);
  EXPECT_TRUE(p.check_integrity());
  p.finish(c);
  p.finish(a);
  EXPECT_EQ(p.blocks().free_blocks(), 4);
}

TEST(BatchPlanner, WithoutATableLeftAPausedSequenceGivesBackEverything) {
  BatchPlanner p(options(4, 2, 64));
  const SequenceIndex a = add_one(p, 1, 20);
  draw_all(p, p.plan());
  EXPECT_EQ(p.pause(a), 20);
  EXPECT_EQ(p.blocks().free_blocks(), 4);
  p.resume(a);
  const BatchPlan& again = p.plan();
  ASSERT_EQ(again.chunks.size(), 1u);
  EXPECT_EQ(again.chunks[0].first_position, 0);
  EXPECT_EQ(again.chunks[0].num_tokens, 21);
}

// Two steps under way: the token of step n is drawn while n + 1 is planned.
TEST(BatchPlanner, PausedAndResumedWhileItsTokenIsDrawnItWaitsForTheToken) {
  for (const int32_t tables : {1, 0}) {
    PlannerOptions o = options(20, 2, 64);
    o.paused_tables = tables;
    BatchPlanner p(o);
    const SequenceIndex a = add_one(p, 1, 20), b = add_one(p, 2, 5);
    draw_all(p, p.plan());
    p.pause(a);
    EXPECT_FALSE(p.empty());
    p.resume(a);
    const BatchPlan& ahead = p.plan(true);
    ASSERT_EQ(ahead.chunks.size(), 1u);
    EXPECT_EQ(ahead.chunks[0].index, b);
    EXPECT_TRUE(ahead.admitted.empty());
    draw_all(p, ahead);  // the first step has ended: the token is known
    const BatchPlan& plan = p.plan(true);
    ASSERT_EQ(plan.chunks.size(), 2u);
    EXPECT_EQ(plan.chunks[1].index, a);
    EXPECT_EQ(plan.chunks[1].first_position, tables > 0 ? 20 : 0);
    EXPECT_EQ(plan.chunks[1].num_tokens, tables > 0 ? 1 : 21);
    EXPECT_TRUE(plan.chunks[1].wants_logits);
    EXPECT_TRUE(p.check_integrity().has_value());
  }
}

TEST(BatchPlanner, OrderedMovesStandOnceInTheNextPlanInTheirOrder) {
  BatchPlanner p(options(20, 2, 64));
  p.order({.from = 20, .to = 30});
  p.order({.from = 21, .to = 31, .count = 2});
  EXPECT_TRUE(p.has_work());
  EXPECT_FALSE(p.empty());
  const BatchPlan& plan = p.plan();
  EXPECT_TRUE(plan.chunks.empty());
  ASSERT_EQ(plan.moves.size(), 2u);
  EXPECT_EQ(plan.moves[0].to, 30);
  EXPECT_EQ(plan.moves[1].to, 31);
  EXPECT_TRUE(p.empty());
  add_one(p, 1, 20);
  EXPECT_TRUE(p.plan().moves.empty());
}

TEST(BatchPlanner, AsLongAsOneIsPausedItIsNotEmpty) {
  BatchPlanner p(options(20, 2, 64));
  const SequenceIndex a = add_one(p, 1, 20);
  p.pause(a);
  EXPECT_FALSE(p.has_work());
  EXPECT_FALSE(p.empty());
  p.finish(a);
  EXPECT_TRUE(p.empty());
}

/// What a random workload has met.
struct Met {
  int pauses = 0, preempted = 0, reclaimed = 0, unfit = 0;
  int ended_late = 0;  ///< while a step under way named it
  int held_up = 0;     ///< plans that were empty: they wait for what is under way
};

// Random workloads. The model knows for each sequence its tokens, and that its KV is there or not.
// `pausing`: sequences are paused and resumed at random.
void run_random_workload(int seed, bool pausing, Met& met) {
  std::mt19937 rng(seed);
  auto between = [&](int a, int b) { return a + static_cast<int>(rng() % (b - a + 1)); };
  const int blocks = between(3, 60), slots = between(1, 12), budget = between(1, 80);
  PlannerOptions planner_options = options(blocks, slots, budget);
  if (pausing) planner_options.paused_tables = between(0, 6);
  BatchPlanner p(planner_options);
  struct Model {
    SequenceId id;
    int prompt, known, goal;
    int computed = 0;
    bool running = false, paused = false;
    bool holds = false;  // blocks without running
    uint64_t order;
  };
  std::map<SequenceIndex, Model> live;
  // What stands in each slot of each block: (request, position, sample or -1 for the prompt). Wrong
  // tables show here.
  using Content = std::tuple<uint64_t, int, int>;
  std::map<std::pair<int, int>, Content> pool;
  auto content = [](const Model& m, int position) {
    return Content{m.id.request.value, position,
                   position < m.prompt ? -1 : static_cast<int>(m.id.sample)};
  };
  uint64_t next = 1, order = 0;
  int arrivals = 60, ended = 0, total = 0;
  int steps = 0;

  while (arrivals > 0 || p.has_work() || p.paused_sequences() > 0) {
    if (arrivals > 0 && between(0, 3) == 0) {
      --arrivals;
      int prompt = between(1, between(0, 5) == 0 ? blocks * 16 + 5 : 40),
          n = between(0, 3) == 0 ? between(2, 4) : 1;
      std::vector<int32_t> generated;
      for (int s = 0; s < n; ++s) generated.push_back(between(0, 4) == 0 ? between(1, 20) : 0);
      std::vector<SequenceIndex> out;
      p.add(RequestId{next}, prompt, generated, out);
      ASSERT_EQ(out.size(), generated.size());
      for (int s = 0; s < n; ++s) {
        Model m{.id = {RequestId{next}, static_cast<uint32_t>(s)},
                .prompt = prompt,
                .known = prompt + generated[s],
                .goal = prompt + generated[s] + between(1, 50),
                .order = order};
        ASSERT_TRUE(live.emplace(out[s], m).second) << "an index is given out twice";
        ++total;
      }
      ++next, ++order;
    }
    if (!live.empty() && between(0, 60) == 0) {  // cancel
      auto it = std::next(live.begin(), between(0, static_cast<int>(live.size()) - 1));
      p.finish(it->first);
      live.erase(it), ++ended;
    }
    if (pausing && !live.empty() && between(0, 2) == 0) {
      auto& [index, m] = *std::next(live.begin(), between(0, static_cast<int>(live.size()) - 1));
      if (m.paused) {
        p.resume(index);
        m.paused = false;
      } else {
        const int lost = p.pause(index);
        ASSERT_TRUE(lost == 0 || lost == m.computed);
        if (lost > 0) m.computed = 0;
        m.holds = m.computed > 0;
        m.running = false, m.paused = true;
        ++met.pauses;
      }
      auto integrity = p.check_integrity();
      ASSERT_TRUE(integrity) << to_string(integrity.error());
    }
    if (!p.has_work()) continue;
    const BatchPlan& plan = p.plan();
    ++steps;
    ASSERT_LT(steps, 40000) << "no progress";
    for (const auto& u : plan.unfit) {
      ASSERT_GT(u.blocks_needed, blocks);
      ASSERT_EQ(live.count(u.index), 1u);
      live.erase(u.index), ++ended, ++met.unfit;
    }
    for (const auto& v : plan.preempted) {
      Model& m = live.at(v.index);
      ++met.preempted;
      ASSERT_TRUE(m.running);
      ASSERT_EQ(v.tokens_lost, m.computed);
      m.running = false, m.computed = 0;
    }
    for (const auto& v : plan.reclaimed) {
      Model& m = live.at(v.index);
      ++met.reclaimed;
      ASSERT_TRUE(m.holds);
      ASSERT_EQ(v.tokens_lost, m.computed);
      m.holds = false, m.computed = 0;
    }
    ASSERT_FALSE(plan.chunks.empty() && plan.unfit.empty()) << "a step without content";

    std::vector<uint64_t> admitted_orders;
    for (const auto& a : plan.admitted) admitted_orders.push_back(live.at(a.index).order);

    int rows = 0, prefill = 0, decode = 0;
    std::set<SequenceIndex> in_plan;
    for (const auto& c : plan.chunks) {
      ASSERT_TRUE(in_plan.insert(c.index).second) << "twice in one step";
      Model& m = live.at(c.index);
      rows += c.num_tokens;
      (m.running && m.known - m.computed == 1 ? decode : prefill) += c.num_tokens;
      auto table = p.block_table(c.index);
      ASSERT_FALSE(m.paused);
      if (!m.running && m.holds) {  // resumed, where it was
        m.running = true, m.holds = false;
      } else if (!m.running) {  // admitted: it may start behind shared blocks
        m.running = true;
        ASSERT_EQ(c.first_position % 16, 0);
        ASSERT_LT(c.first_position, m.prompt);
        m.computed = c.first_position;
      }
      ASSERT_EQ(c.first_position, m.computed) << "a token is skipped or computed twice";
      ASSERT_GE(c.num_tokens, 1);
      ASSERT_LE(c.first_position + c.num_tokens, m.known);
      ASSERT_EQ(c.wants_logits, c.first_position + c.num_tokens == m.known);
      ASSERT_GE(static_cast<int>(table.size()) * 16, c.first_position + c.num_tokens);
      // What lies before it must be its own tokens, written in an earlier step.
      for (int pos = 0; pos < c.first_position; ++pos) {
        auto slot = pool.find({table[pos / 16], pos % 16});
        ASSERT_TRUE(slot != pool.end());
        ASSERT_EQ(slot->second, content(m, pos)) << "a block holds another's tokens";
      }
    }
    for (const auto& c : plan.chunks) {
      Model& m = live.at(c.index);
      auto table = p.block_table(c.index);
      for (int pos = c.first_position; pos < c.first_position + c.num_tokens; ++pos) {
        ASSERT_EQ(p.blocks().ref_count(table[pos / 16]), 1) << "a shared block is written";
        pool[{table[pos / 16], pos % 16}] = content(m, pos);
      }
      m.computed += c.num_tokens;
    }
    ASSERT_LE(rows, max_rows(planner_options));
    ASSERT_EQ(prefill, plan.prefill_tokens);
    ASSERT_EQ(decode, plan.decode_tokens);
    ASSERT_LE(prefill, std::max(budget, 16));
    // Everybody who runs and decodes is in the plan.
    for (auto& [index, m] : live)
      ASSERT_FALSE(m.running && m.known - m.computed == 1 && !in_plan.count(index)) << "left out";

    for (const auto& c : std::vector<PlannedChunk>(plan.chunks)) {
      if (!c.wants_logits) continue;
      Model& m = live.at(c.index);
      if (++m.known >= m.goal) {
        p.finish(c.index);
        live.erase(c.index), ++ended;
      } else {
        p.token_drawn(c.index);
      }
    }
    // First come, first served: nobody runs who came after somebody who waits. Behind a pause that
    // is true of those that begin to run.
    uint64_t last_running = 0, first_waiting = UINT64_MAX;
    int running = 0;
    for (auto& [index, m] : live) {
      if (m.running)
        last_running = std::max(last_running, m.order), ++running;
      else if (!m.paused)
        first_waiting = std::min(first_waiting, m.order);
    }
    ASSERT_TRUE(pausing || last_running <= first_waiting);
    for (const uint64_t begins : admitted_orders) ASSERT_LE(begins, first_waiting);
    ASSERT_LE(running, slots);
    ASSERT_EQ(running, p.running_sequences());
    ASSERT_EQ(p.blocks().free_blocks() + p.blocks().used_blocks() + p.blocks().cached_blocks(),
              blocks);
    auto integrity = p.check_integrity();
    ASSERT_TRUE(integrity) << to_string(integrity.error());
  }
  EXPECT_EQ(ended, total);
  EXPECT_TRUE(live.empty());
  EXPECT_EQ(p.blocks().free_blocks(), blocks);
}

/// The same with two steps under way, as worker::ReplicaCore drives it: a step is planned before
/// the tokens of the one before are known, what ends meanwhile is retired, and released when no
/// step names it. Cancels, pauses and resumes fall anywhere.
class AheadWorkload {
 public:
  AheadWorkload(int seed, Met& met)
      : random_(static_cast<uint32_t>(seed)),
        met_(met),
        options_({.num_blocks = between(3, 60),
                  .slots = between(1, 12),
                  .paused_tables = between(0, 6),
                  .token_budget = between(1, 80)}),
        p_(options_) {}

  void run() {
    for (int turns = 0; arrivals_ > 0 || !p_.empty() || !flying_.empty(); ++turns) {
      ASSERT_LT(turns, 100000) << "no progress";
      if (arrivals_ > 0 && between(0, 3) == 0) arrive();
      if (!live_.empty() && between(0, 60) == 0) end(any());
      if (!live_.empty() && between(0, 2) == 0) pause_or_resume();
      if (flying_.size() < 2 && p_.has_work() && !stalled_) plan();
      if (::testing::Test::HasFatalFailure()) return;
      if (flying_.size() == 2 || stalled_ || (!flying_.empty() && between(0, 1) == 0)) collect();
      const auto sound = p_.check_integrity();
      ASSERT_TRUE(sound.has_value()) << to_string(sound.error());
    }
    EXPECT_TRUE(live_.empty());
    EXPECT_EQ(ended_, total_);
    EXPECT_EQ(p_.blocks().free_blocks(), options_.num_blocks);
  }

 private:
  struct Model {
    SequenceId id;
    int prompt = 0, known = 0, goal = 0;  ///< known: as planned, the last may be being drawn
    int drawn = 0;                        ///< of known: collected
    int computed = 0;
    int under_way = 0;  ///< steps that name it
    bool paused = false, retired = false;
  };
  using Content = std::tuple<uint64_t, int, int>;
  struct Flight {
    std::vector<SequenceIndex> named, drawing;
  };

  int between(int a, int b) {
    return a + static_cast<int>(random_() % static_cast<uint32_t>(b - a + 1));
  }
  SequenceIndex any() {
    return std::next(live_.begin(), between(0, static_cast<int>(live_.size()) - 1))->first;
  }
  static Content content(const Model& m, int position) {
    return {m.id.request.value, position, position < m.prompt ? -1 : static_cast<int>(m.id.sample)};
  }

  void arrive() {
    --arrivals_;
    const int prompt = between(1, between(0, 5) == 0 ? options_.num_blocks * 16 + 5 : 40);
    const std::vector<int32_t> generated(between(0, 3) == 0 ? between(2, 4) : 1, between(0, 9));
    std::vector<SequenceIndex> out;
    p_.add(RequestId{++last_id_}, prompt, generated, out);
    for (size_t s = 0; s < out.size(); ++s) {
      const int known = prompt + generated[s];
      const Model m{.id = {RequestId{last_id_}, static_cast<uint32_t>(s)},
                    .prompt = prompt,
                    .known = known,
                    .goal = known + between(1, 50),
                    .drawn = known};
      ASSERT_TRUE(live_.emplace(out[s], m).second) << "an index is given out twice";
      ++total_;
    }
  }

  void end(SequenceIndex index) {
    Model& m = live_.at(index);
    if (m.retired) return;
    ++ended_;
    if (m.under_way == 0) {
      p_.finish(index);
      live_.erase(index);
      return;
    }
    p_.retire(index);
    m.retired = true;
    ++met_.ended_late;
    held_[index] = {p_.block_table(index).begin(), p_.block_table(index).end()};
  }

  void pause_or_resume() {
    const SequenceIndex index = any();
    Model& m = live_.at(index);
    if (m.retired) return;
    if (m.paused) {
      p_.resume(index);
    } else {
      const int lost = p_.pause(index);
      ASSERT_TRUE(lost == 0 || lost == m.computed);
      m.computed -= lost;
      ++met_.pauses;
    }
    m.paused = !m.paused;
  }

  void plan() {
    const BatchPlan& plan = p_.plan(!flying_.empty());
    for (const auto& u : plan.unfit) {
      ASSERT_TRUE(flying_.empty()) << "blocks may come back";
      ASSERT_GT(u.blocks_needed, options_.num_blocks);
      live_.erase(u.index), ++ended_, ++met_.unfit;
    }
    for (const auto* victims : {&plan.preempted, &plan.reclaimed})
      for (const auto& v : *victims) {
        ASSERT_EQ(v.tokens_lost, live_.at(v.index).computed);
        live_.at(v.index).computed = 0;
        ++(victims == &plan.preempted ? met_.preempted : met_.reclaimed);
      }
    for (const auto& a : plan.admitted) {
      const Model& m = live_.at(a.index);
      ASSERT_EQ(m.drawn, m.known) << "a slot is opened behind a token that nobody knows";
    }
    if (plan.chunks.empty()) {
      ASSERT_TRUE(!flying_.empty() || !plan.unfit.empty()) << "a step without content";
      stalled_ = !flying_.empty();
      met_.held_up += stalled_;
      return;
    }
    Flight flight;
    for (const auto& c : plan.chunks) compute(c, flight);
    flying_.push_back(std::move(flight));
  }

  void compute(const PlannedChunk& c, Flight& flight) {
    Model& m = live_.at(c.index);
    ASSERT_FALSE(m.paused || m.retired);
    if (m.computed == 0) m.computed = c.first_position;  // behind what others share
    ASSERT_EQ(c.first_position, m.computed) << "a token is skipped or computed twice";
    ASSERT_LE(c.first_position + c.num_tokens, m.known);
    ASSERT_EQ(c.wants_logits, c.first_position + c.num_tokens == m.known);
    const auto table = p_.block_table(c.index);
    for (int at = 0; at < c.first_position; ++at) {
      const auto slot = pool_.find({table[at / 16], at % 16});
      ASSERT_TRUE(slot != pool_.end() && slot->second == content(m, at))
          << "a block holds another's tokens";
    }
    m.computed += c.num_tokens;
    for (int at = c.first_position; at < m.computed; ++at) {
      const kv::BlockId block = table[at / 16];
      ASSERT_EQ(p_.blocks().ref_count(block), 1) << "a shared block is written";
      for (const auto& [ended, blocks] : held_)
        ASSERT_EQ(std::count(blocks.begin(), blocks.end(), block), 0)
            << "a step still names sequence " << ended;
      pool_[{block, at % 16}] = content(m, at);
    }
    ++m.under_way;
    flight.named.push_back(c.index);
    if (!c.wants_logits) return;
    flight.drawing.push_back(c.index);
    p_.token_drawn(c.index);
    ++m.known;
  }

  /// The oldest step has been computed, and its tokens are known.
  void collect() {
    stalled_ = false;
    const Flight flight = std::move(flying_.front());
    flying_.pop_front();
    for (const SequenceIndex index : flight.named) {
      Model& m = live_.at(index);
      if (--m.under_way > 0 || !m.retired) continue;
      p_.release(index);
      live_.erase(index);
      held_.erase(index);
    }
    for (const SequenceIndex index : flight.drawing) {
      const auto m = live_.find(index);
      if (m == live_.end() || m->second.retired) continue;  // beyond its end
      if (++m->second.drawn >= m->second.goal) end(index);
    }
  }

  std::mt19937 random_;
  Met& met_;
  const PlannerOptions options_;
  BatchPlanner p_;
  std::map<SequenceIndex, Model> live_;  // with the retired ones
  std::map<SequenceIndex, std::vector<kv::BlockId>> held_;
  std::map<std::pair<int, int>, Content> pool_;
  std::deque<Flight> flying_;
  bool stalled_ = false;  // the last plan was empty while a step was under way
  uint64_t last_id_ = 0;
  int arrivals_ = 60, ended_ = 0, total_ = 0;
};

TEST(BatchPlannerProperty, EveryTokenOnceAndEverybodyEnds) {
  Met met;
  for (int seed = 1000; seed < 1060 && !testing::Test::HasFatalFailure(); ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    run_random_workload(seed, false, met);
  }
  EXPECT_GT(met.preempted, 70);
  EXPECT_GT(met.unfit, 110);
}

TEST(BatchPlannerProperty, WhateverIsPausedAndResumedInBetween) {
  Met met;
  for (int seed = 2000; seed < 2060 && !testing::Test::HasFatalFailure(); ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    run_random_workload(seed, true, met);
  }
  EXPECT_GT(met.pauses, 8000);
  EXPECT_GT(met.preempted, 45);
  EXPECT_GT(met.reclaimed, 900);
}

TEST(BatchPlannerProperty, WithTwoStepsUnderWayToo) {
  Met met;
  for (int seed = 3000; seed < 3060 && !testing::Test::HasFatalFailure(); ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    AheadWorkload(seed, met).run();
  }
  EXPECT_GT(met.pauses, 9000);
  EXPECT_GT(met.preempted, 60);
  EXPECT_GT(met.reclaimed, 750);
  EXPECT_GT(met.unfit, 120);
  EXPECT_GT(met.ended_late, 3000);
  EXPECT_GT(met.held_up, 700);
}

// An admitted sequence is not pushed out within the next block of tokens of everybody: the
// watermark.
TEST(BatchPlanner, AnAdmissionPushesNobodyOutAtOnce) {
  for (int seed = 0; seed < 20; ++seed) {
    std::mt19937 rng(seed);
    BatchPlanner p(options(30, 16, 64));
    std::map<SequenceIndex, int> admitted_at;
    int step = 0;
    for (int i = 0; i < 40; ++i) add_one(p, i, 1 + static_cast<int>(rng() % 60));
    for (; p.has_work() && step < 5000; ++step) {
      const BatchPlan& plan = p.plan();
      for (const auto& v : plan.preempted) {
        EXPECT_GE(step - admitted_at[v.index], 8) << "seed " << seed;
        admitted_at.erase(v.index);
      }
      for (const auto& c : std::vector<PlannedChunk>(plan.chunks)) {
        admitted_at.emplace(c.index, step);
        if (!c.wants_logits) continue;
        if (c.first_position > 100) {
          p.finish(c.index);
          admitted_at.erase(c.index);
        } else {
          p.token_drawn(c.index);
        }
      }
    }
    EXPECT_FALSE(p.has_work());
  }
}

}  // namespace
}  // namespace tailor::worker
