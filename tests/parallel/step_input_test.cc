#include "parallel/step_input.h"

#include <gtest/gtest.h>

#include <cstring>
#include <random>

namespace tailor::parallel {
namespace {

StepInput example() {
  StepInput step;
  step.step = 42;
  step.token_ids = {5, 6, 7, 8};
  step.block_ids = {3, 1, 9};
  step.chunks = {{0, 3, 16, 0, 2, 0}, {3, 1, 0, 2, 1, 1}};
  step.moves = {{.from = 4, .to = 7, .count = 2}, {.from = 1, .to = 0, .to_tier = 1}};
  return step;
}

Result<void> after(void (*change)(StepInput&)) {
  StepInput step = example(), out;
  change(step);
  std::vector<std::byte> bytes;
  encode(step, bytes);
  return decode(bytes, out);
}

TEST(StepInput, ComesBackAsItWas) {
  std::vector<std::byte> bytes;
  encode(example(), bytes);
  StepInput out;
  out.token_ids = {1, 2, 3};
  ASSERT_TRUE(decode(bytes, out).has_value());
  EXPECT_EQ(out.step, 42u);
  EXPECT_EQ(out.token_ids, example().token_ids);
  EXPECT_EQ(out.block_ids, example().block_ids);
  ASSERT_EQ(out.chunks.size(), 2u);
  EXPECT_EQ(std::memcmp(out.chunks.data(), example().chunks.data(), 2 * sizeof(Chunk)), 0);
  ASSERT_EQ(out.moves.size(), 2u);
  EXPECT_EQ(std::memcmp(out.moves.data(), example().moves.data(), 2 * sizeof(kv::BlockMove)), 0);
  EXPECT_EQ(out.num_logits(), 1);
  EXPECT_TRUE(after([](StepInput& step) { step.clear(); }).has_value());
}

TEST(StepInput, RefusesEveryIndexOutOfRange) {
  EXPECT_TRUE(after([](StepInput&) {}).has_value());
  const std::vector<void (*)(StepInput&)> changes = {
      [](StepInput& s) { s.chunks[0].first_row = 1; },
      [](StepInput& s) { s.chunks[0].first_row = -1; },
      [](StepInput& s) { s.chunks[0].num_rows = 0; },
      [](StepInput& s) { s.chunks[1].num_rows = 2; },
      [](StepInput& s) { s.chunks[1].num_rows = 1 << 30; },
      [](StepInput& s) { s.chunks[0].first_position = -1; },
      [](StepInput& s) { s.chunks[0].first_block = -1; },
      [](StepInput& s) { s.chunks[1].num_blocks = 2; },
      [](StepInput& s) { s.chunks[1].num_blocks = 0; },
      [](StepInput& s) { s.chunks[1].first_block = 0x7fffffff; },
      [](StepInput& s) { s.chunks[1].wants_logits = 2; },
      [](StepInput& s) { s.chunks.pop_back(); },
      [](StepInput& s) { s.token_ids[2] = -1; },
      [](StepInput& s) { s.block_ids[0] = -7; },
      [](StepInput& s) { s.token_ids.push_back(1); },
      [](StepInput& s) { s.moves[0].from = -1; },
      [](StepInput& s) { s.moves[0].to = -1; },
      [](StepInput& s) { s.moves[1].count = 0; },
      [](StepInput& s) { s.moves[1].from_tier = kv::kMaxTiers; },
      [](StepInput& s) { s.moves[1].to_tier = 255; },
      [](StepInput& s) { s.moves[1].reserved = 1; },
  };
  for (size_t i = 0; i < changes.size(); ++i) {
    const auto refused = after(changes[i]);
    ASSERT_FALSE(refused.has_value()) << "change " << i;
    EXPECT_EQ(refused.error().code, ErrorCode::kProtocol);
  }
}

TEST(StepInput, SurvivesTruncationAndNoise) {
  std::vector<std::byte> bytes;
  encode(example(), bytes);
  StepInput out;
  for (size_t size = 0; size < bytes.size(); ++size) {
    EXPECT_FALSE(decode(std::span(bytes).first(size), out).has_value()) << size;
  }
  std::mt19937 random(3);
  for (int round = 0; round < 20000; ++round) {
    std::vector<std::byte> damaged = bytes;
    for (int i = 0; i < 3; ++i)
      damaged[random() % damaged.size()] = static_cast<std::byte>(random());
    if (!decode(damaged, out)) continue;  // what passes must be in range
    int32_t rows = 0;
    for (const Chunk& chunk : out.chunks) {
      EXPECT_EQ(chunk.first_row, rows);
      rows += chunk.num_rows;
      EXPECT_LE(chunk.first_block + chunk.num_blocks, static_cast<int32_t>(out.block_ids.size()));
    }
    EXPECT_EQ(rows, out.num_rows());
  }
}

}  // namespace
}  // namespace tailor::parallel
