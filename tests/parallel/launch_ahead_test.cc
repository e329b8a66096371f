// The rules of launch-ahead (parallel/engine.h): whatever is in flight when, however steps are cut,
// whoever ends late, is cancelled, given up and begun again, the tokens are those of an engine that
// takes one step at a time.
#include <gtest/gtest.h>

#include <functional>
#include <vector>

#include "parallel/engine_cpu.h"
#include "tests/parallel/cpu/random_model.h"
#include "tests/parallel/delayed_engine.h"
#include "tests/parallel/random_server.h"
#include "tests/worker/hash_engine.h"

namespace tailor::parallel::testing {
namespace {

using worker::test::HashEngine;

std::unique_ptr<Engine> hash_engine(const TpContext& tp) {
  return std::make_unique<HashEngine>(22, 400, tp.collective);
}

TEST(LaunchAhead, AnyInterleavingGivesTheTokensOfOneStepAtATime) {
  Jobs jobs = some_jobs(7, worker::test::kVocab, 40);
  auto poisoned = std::make_shared<Request>(*jobs[5]);  // a draw fails while a row names it
  poisoned->prompt = {worker::test::kPoison, 5, 6};
  poisoned->sampling.max_tokens = 20;
  poisoned->sampling.min_tokens = 20;
  jobs[5] = poisoned;
  const Served plain = serve(hash_engine, jobs, 1, false, 1);
  EXPECT_EQ(plain.ahead_most, 1u);
  EXPECT_TRUE(plain.answers[5].failed);
  EXPECT_EQ(plain.answers[5].tokens.size(), worker::test::kPoisonAt - 3);
  int discarded = 0;
  for (uint32_t seed = 0; seed < 40; ++seed) {
    const Served late = serve(hash_engine, jobs, 1 + static_cast<int>(seed % 3), true, seed);
    EXPECT_EQ(late.answers, plain.answers) << "seed " << seed;
    EXPECT_EQ(late.ahead_most, 2u);
    discarded += late.discarded;
  }
  EXPECT_GT(discarded, 100);
}

TEST(LaunchAhead, OfARealModelToo) {
  weights::ScratchFolder folder;
  const auto files = weights::open_random(folder, weights::random_formats()[7]);
  ASSERT_NE(files, nullptr);
  const MakeEngine make = [&](const TpContext& tp) -> std::unique_ptr<Engine> {
    EngineOptions options;
    options.kv_bytes = 4 << 20;
    options.max_rows = 256;
    options.slots = kSlots;
    options.end_tokens = {worker::test::kEos};
    auto engine = make_cpu_engine(*files, tp, options);
    EXPECT_TRUE(engine.has_value()) << to_string(engine.error());
    return engine ? std::move(*engine) : nullptr;
  };
  const Jobs jobs = some_jobs(9, weights::kRandomVocab, 12);
  const Served plain = serve(make, jobs, 1, false, 1);
  for (uint32_t seed = 0; seed < 4; ++seed)
    EXPECT_EQ(serve(make, jobs, 1 + static_cast<int>(seed % 2), true, seed).answers, plain.answers)
        << "seed " << seed;
}

TEST(LaunchAhead, ATokenToComeMayBeNamedOnlyWhereTheRulesSaySo) {
  HashEngine plain(8, 400, nullptr);
  const auto request = std::make_shared<const Request>(Request{.prompt = {1, 2}});
  StepInput first;
  first.token_ids = {1, 2};
  first.block_ids = {0};
  first.chunks = {{0, 2, 0, 0, 1, 1}};
  StepInput second;
  second.token_ids = {drawn_in_row(0)};
  second.block_ids = {0};
  second.chunks = {{0, 1, 2, 0, 1, 1}};
  const std::vector<SlotId> slots = {3};
  const auto refused = [&](Engine& engine, const StepInput& input) {
    const auto done = engine.submit(input, {.slots = slots});
    return !done && done.error().code == ErrorCode::kInvalidArgument;
  };
  plain.open_slot({3, request, 0, {}});
  ASSERT_TRUE(plain.submit(first, {.slots = slots}).has_value());
  ASSERT_TRUE(plain.collect().has_value());
  EXPECT_TRUE(refused(plain, second)) << "at depth 1";
  plain.close_slot(3);

  DelayedEngine late(plain, nullptr, 2);
  EXPECT_TRUE(refused(late, first)) << "the slot is not open";
  late.open_slot({3, request, 0, {}});
  EXPECT_TRUE(refused(late, second)) << "nothing was submitted before";
  for (const auto& spoil : std::vector<std::function<void(StepInput&)>>{
           [](StepInput& input) { input.block_ids = {8}; },
           [](StepInput& input) { input.token_ids[1] = worker::test::kVocab; },
           [](StepInput& input) { input.chunks[0].first_position = 15; },
           [](StepInput& input) { input.chunks[0].wants_logits = 0; },
           [](StepInput& input) { input.token_ids.push_back(1), ++input.chunks[0].num_rows; }}) {
    StepInput wrong = first;
    spoil(wrong);
    EXPECT_TRUE(refused(late, wrong)) << "at once, not when it is collected";
  }
  ASSERT_TRUE(late.submit(first, {.slots = slots}).has_value());
  StepInput other = second;
  other.token_ids = {drawn_in_row(1)};
  EXPECT_TRUE(refused(late, other)) << "no such row draws";
  ASSERT_TRUE(late.submit(second, {.slots = slots}).has_value());
  ASSERT_TRUE(late.collect().has_value());
  ASSERT_TRUE(late.collect().has_value());

  std::vector<std::byte> bytes;
  encode(second, bytes);
  StepInput out;
  EXPECT_FALSE(decode(bytes, out).has_value());
  ASSERT_TRUE(decode(bytes, out, 1).has_value());
  EXPECT_EQ(out.token_ids, second.token_ids);
}

TEST(Engine, RefusesRowsThatNameTheirSlotsWrongly) {
  HashEngine engine(8, 400, nullptr);
  engine.open_slot({0, std::make_shared<const Request>(Request{.prompt = {1}}), 0, {}});
  StepInput input;
  input.token_ids = {1, 2};
  input.block_ids = {0, 1};
  input.chunks = {{0, 1, 0, 0, 1, 1}, {1, 1, 0, 1, 1, 1}};
  for (const std::vector<SlotId>& slots :
       {std::vector<SlotId>{0}, {0, 0}, {0, 1}, {-1, 0}, {0, 1 << 20}, {0, 1, 2}, {}}) {
    const auto refused = engine.submit(input, {.slots = slots});
    ASSERT_FALSE(refused.has_value());
    EXPECT_EQ(refused.error().code, ErrorCode::kInvalidArgument);
  }
  engine.open_slot({1, std::make_shared<const Request>(Request{.prompt = {2}}), 0, {}});
  std::vector<float> logits(2 * worker::test::kVocab), few(3);
  const std::vector<SlotId> slots = {1, 0};
  EXPECT_FALSE(engine.submit(input, {.slots = slots, .logits = few}).has_value());
  ASSERT_TRUE(engine.submit(input, {.slots = slots, .logits = logits}).has_value());
  const auto outcome = engine.collect();
  ASSERT_TRUE(outcome.has_value());
  EXPECT_EQ(outcome->tokens.size(), 2u);
  EXPECT_EQ(logits[0], worker::test::logits_of({1})[0]) << "logits are there too when asked for";
}

}  // namespace
}  // namespace tailor::parallel::testing
