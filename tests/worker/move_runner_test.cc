// Block moves on several ranks at once: what they agree about, whoever is late or fails; and with a
// real engine: a sequence goes on from a moved block to the bit, and behind a miss on one rank by
// computing again on all; the other ranks are real follower loops.
#include "worker/move_runner.h"

#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <mutex>
#include <random>
#include <set>
#include <thread>
#include <vector>

#include "comm/collective_inprocess.h"
#include "kv/block_pool.h"
#include "parallel/engine_cpu.h"
#include "tests/parallel/cpu/random_model.h"
#include "tests/worker/late_store.h"
#include "tests/worker/live_replica.h"
#include "worker/follower_loop.h"
#include "worker/plan_channel.h"

namespace tailor::worker {
namespace {

using test::LateStore;

/// The last move that it tells of.
uint64_t number_of(const kv::MoveEvent& event) {
  const auto* done = std::get_if<kv::MoveDone>(&event);
  return done != nullptr ? done->through : std::get<kv::MoveFailed>(event).move;
}

TEST(MoveRunner, RanksAgreeInOrderAndAFailureOfOneIsAMissOnAll) {
  constexpr int32_t kBlocks = 400;
  constexpr int kMoves = 150;
  for (int tp : {1, 2, 3}) {
    std::vector<std::vector<kv::MoveEvent>> events(tp);
    std::vector<std::set<uint64_t>> failing(tp);
    std::mt19937 random(static_cast<uint32_t>(tp));
    for (int i = 0; i < 20; ++i) failing[random() % tp].insert(1 + random() % kMoves);
    comm::InProcessGroup group(tp, seconds(20));
    std::vector<std::thread> ranks;
    for (int rank = 0; rank < tp; ++rank) {
      ranks.emplace_back([&, rank] {
        const auto collective = group.join(rank);
        LateStore store(test::small_layout(), kBlocks, failing[rank],
                        static_cast<uint32_t>(rank) + 7);
        for (int32_t b = 0; b < kBlocks; ++b)
          std::memset(store.device_data() + test::small_layout().slab_offset(b, 0), b % 251,
                      static_cast<size_t>(test::small_layout().block_bytes()));
        MoveRunner runner(&store, collective.get());
        std::mt19937 plans(99);  // the same on all ranks
        for (int begun = 0; begun < kMoves || runner.open();) {
          std::vector<kv::BlockMove> moves;
          for (uint32_t n = plans() % 4; n > 0 && begun < kMoves; --n, ++begun)
            moves.push_back({.from = begun, .to = 200 + begun});
          ASSERT_TRUE(runner.begin(moves).has_value());
          for (const kv::MoveEvent& event : runner.take()) {
            events[rank].push_back(event);
            // What is done is there, on this rank as on all.
            const auto* done = std::get_if<kv::MoveDone>(&event);
            if (done == nullptr) continue;
            const auto block = static_cast<int32_t>(done->through) - 1;
            EXPECT_EQ(*store.checksum(0, block, 1), *store.checksum(0, 200 + block, 1));
          }
        }
      });
    }
    for (std::thread& rank : ranks) rank.join();

    std::set<uint64_t> wanted, failed;
    for (const auto& each : failing) wanted.insert(each.begin(), each.end());
    uint64_t through = 0;
    for (const kv::MoveEvent& event : events[0]) {
      if (const auto* done = std::get_if<kv::MoveDone>(&event)) {
        EXPECT_GT(done->through, through);
        through = done->through;
      } else {
        failed.insert(std::get<kv::MoveFailed>(event).move);
        EXPECT_EQ(std::get<kv::MoveFailed>(event).move, through + 1);
        ++through;
      }
    }
    EXPECT_EQ(through, static_cast<uint64_t>(kMoves));
    EXPECT_EQ(failed, wanted);
    for (int rank = 1; rank < tp; ++rank) {
      ASSERT_EQ(events[rank].size(), events[0].size());
      for (size_t i = 0; i < events[0].size(); ++i) {
        ASSERT_EQ(events[rank][i].index(), events[0][i].index());
        EXPECT_EQ(number_of(events[rank][i]), number_of(events[0][i]));
      }
    }
  }
}

TEST(MoveRunner, WithoutAStoreNoPlanMayMove) {
  MoveRunner runner(nullptr, nullptr);
  EXPECT_TRUE(runner.begin({}).has_value());
  const std::vector<kv::BlockMove> moves = {{.from = 0, .to = 1}};
  const auto refused = runner.begin(moves);
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().code, ErrorCode::kInvalidArgument);
  EXPECT_FALSE(runner.open());
}

/// Logits behind 20 tokens in blocks 3, 1 and one more, on rank 0. `moved`: the first block goes to
/// 5 in between and 3 is written by another sequence; where that failed, all is computed again.
std::vector<float> go_on(const weights::WeightFiles& files, int tp, bool moved, int failing_rank) {
  using parallel::StepInput;
  std::vector<float> out;
  comm::InProcessGroup group(tp, seconds(60));
  std::vector<std::unique_ptr<test::LocalIo>> ios;
  for (int rank = 0; rank < tp; ++rank) ios.push_back(std::make_unique<test::LocalIo>());
  std::vector<std::thread> ranks;
  for (int rank = 0; rank < tp; ++rank) {
    ranks.emplace_back([&, rank] {
      const auto collective = group.join(rank);
      std::shared_ptr<kv::BlockStore> store;
      parallel::EngineOptions options;
      options.kv_bytes = 1 << 20;
      options.make_store = [&](const kv::BlockLayout& wanted, int32_t num_blocks) {
        store = std::make_shared<LateStore>(
            wanted, num_blocks, rank == failing_rank ? std::set<uint64_t>{1} : std::set<uint64_t>{},
            static_cast<uint32_t>(rank));
        return Result<std::shared_ptr<kv::BlockStore>>(store);
      };
      auto engine = parallel::make_cpu_engine(files, {rank, tp, collective.get()}, options);
      ASSERT_TRUE(engine.has_value()) << to_string(engine.error());
      ASSERT_NE(store, nullptr);
      EXPECT_EQ(store->layout().slab_format(), "16 tokens, 2 layers, 64 F16, K by dimension");
      Progress progress;
      if (rank > 0) {
        const LoopExit end = run_follower(
            {**engine, *collective, *ios[static_cast<size_t>(rank)], progress, store.get()},
            milliseconds(50));
        EXPECT_EQ(end.code, kExitOk);
        return;
      }
      MoveRunner runner(store.get(), collective.get());
      PlanChannel channel(collective.get(), false);
      for (size_t other = 1; other < ios.size(); ++other)
        ios[other]->inbox().push_always(comm::Doorbell{});
      std::vector<float> logits(weights::kRandomVocab);
      const auto run = [&](const StepInput& input) {
        ASSERT_TRUE(channel.send({PlanKind::kStep}, input).has_value());
        ASSERT_TRUE(runner.begin(input.moves).has_value());
        const std::span<float> room =
            input.num_logits() > 0 ? std::span(logits) : std::span<float>();
        ASSERT_TRUE(forward(**engine, input, room).has_value());
      };
      const auto prompt = [](int32_t first_block) {
        StepInput input;
        for (int32_t t = 0; t < 20; ++t) input.token_ids.push_back(t * 13 % 300);
        input.block_ids = {first_block, 1};
        input.chunks = {{0, 20, 0, 0, 2, 0}};
        return input;
      };
      run(prompt(3));
      int32_t block = 3;
      if (moved) {
        StepInput plan;
        plan.moves = {{.from = 3, .to = 5}};
        run(plan);
        while (runner.open()) {
          ASSERT_TRUE(channel.send({PlanKind::kAgree}, {}).has_value());
          ASSERT_TRUE(runner.begin({}).has_value());
        }
        const auto events = runner.take();
        ASSERT_EQ(events.size(), 1u);
        block = 5;
        StepInput other = prompt(3);  // 3 is another's now
        other.block_ids = {3, 4};
        std::reverse(other.token_ids.begin(), other.token_ids.end());
        run(other);
        if (std::holds_alternative<kv::MoveFailed>(events[0])) run(prompt(5));
        EXPECT_EQ(std::holds_alternative<kv::MoveFailed>(events[0]), failing_rank >= 0);
      }
      StepInput next;
      next.token_ids = {77};
      next.block_ids = {block, 1};
      next.chunks = {{0, 1, 20, 0, 2, 1}};
      run(next);
      out = logits;
      ASSERT_TRUE(channel.send({PlanKind::kShutdown, kExitOk}, {}).has_value());
    });
  }
  for (std::thread& rank : ranks) rank.join();
  return out;
}

TEST(MoveRunner, ASequenceGoesOnFromAMovedBlockToTheBit) {
  weights::ScratchFolder folder;
  const auto files = weights::open_random(folder, weights::random_formats()[7]);
  ASSERT_NE(files, nullptr);
  const std::vector<float> stayed = go_on(*files, 1, false, -1);
  ASSERT_EQ(stayed.size(), static_cast<size_t>(weights::kRandomVocab));
  for (int tp : {1, 2}) {
    for (int failing_rank = -1; failing_rank < tp; ++failing_rank) {
      const std::vector<float> found = go_on(*files, tp, true, failing_rank);
      ASSERT_EQ(found.size(), stayed.size());
      EXPECT_EQ(0, std::memcmp(found.data(), stayed.data(), stayed.size() * sizeof(float)))
          << "tp " << tp << ", failing rank " << failing_rank;
    }
  }
}

}  // namespace
}  // namespace tailor::worker
