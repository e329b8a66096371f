#include "launch/device_place.h"

#include <gtest/gtest.h>

#include <cstring>
#include <thread>

#include "comm/collective_inprocess.h"

namespace tailor::launch {

/// This program's, which knows no CUDA: one GPU that every rank sees.
std::vector<std::array<uint8_t, 16>> visible_gpus() { return {{1}}; }

namespace {

RankView view(const char* host, std::vector<uint8_t> gpus) {
  RankView out;
  std::strncpy(out.host.data(), host, out.host.size() - 1);
  out.num_gpus = static_cast<uint32_t>(gpus.size());
  for (size_t i = 0; i < gpus.size(); ++i) out.gpus[i][0] = gpus[i];
  return out;
}

/// What each rank takes; -1 = refused.
std::vector<int> taken(const std::vector<RankView>& ranks, int first = 0) {
  std::vector<int> out;
  for (size_t r = 0; r < ranks.size(); ++r)
    out.push_back(choose_device(ranks, static_cast<int>(r), first).value_or(-1));
  return out;
}

using Ints = std::vector<int>;

TEST(DevicePlace, RanksOfAHostTakeOneGpuEach) {
  EXPECT_EQ(taken({view("a", {1, 2}), view("a", {1, 2})}), (Ints{0, 1}));
}

TEST(DevicePlace, EveryHostBeginsAnew) {
  EXPECT_EQ(taken({view("a", {1, 2}), view("a", {1, 2}), view("b", {3, 4}), view("b", {3, 4})}),
            (Ints{0, 1, 0, 1}));
  // Ranks dealt out by turns.
  EXPECT_EQ(taken({view("a", {1, 2}), view("b", {3, 4}), view("a", {1, 2}), view("b", {3, 4})}),
            (Ints{0, 0, 1, 1}));
}

TEST(DevicePlace, ARankThatIsShownOneGpuTakesThat) {  // Slurm: --gpus-per-task=1
  EXPECT_EQ(taken({view("a", {1}), view("a", {2}), view("a", {3})}), (Ints{0, 0, 0}));
}

TEST(DevicePlace, TooFewGpusAreRefusedByName) {
  EXPECT_EQ(taken({view("a", {1}), view("a", {1})}), (Ints{0, -1}));
  const std::vector<RankView> ranks = {view("node-7", {1}), view("node-7", {1})};
  const auto refused = choose_device(ranks, 1, 0);
  EXPECT_EQ(refused.error().code, ErrorCode::kUnavailable);
  EXPECT_NE(refused.error().message.find("2 ranks on node-7 see the same 1 GPU(s)"),
            std::string::npos)
      << refused.error().message;
  EXPECT_EQ(taken({view("a", {1, 2, 3})}, 1), (Ints{1}));
  EXPECT_EQ(taken({view("a", {1, 2, 3})}, 3), (Ints{-1}));
}

TEST(DevicePlace, TwoRanksNeverShareAGpuUnseen) {
  EXPECT_EQ(taken({view("a", {1, 2}), view("a", {1})}), (Ints{-1, -1}));
  EXPECT_EQ(taken({view("a", {1, 2}), view("a", {2, 1})}), (Ints{0, 0}));  // theirs differ
}

TEST(DevicePlace, WithoutCudaTheNumberItselfCounts) {
  EXPECT_EQ(taken({view("a", {}), view("a", {}), view("b", {})}), (Ints{0, 1, 0}));
}

TEST(DevicePlace, IsAgreedOnOverTheLaunch) {
  comm::InProcessGroup group(2, seconds(60));
  std::vector<Result<std::string>> got(2, std::string());
  std::vector<std::thread> ranks;
  for (int rank = 0; rank < 2; ++rank)
    ranks.emplace_back([&, rank] {
      auto launch = group.join(rank);
      EXPECT_EQ(device_of_rank("cpu", *launch).value(), "cpu");  // nobody is asked
      got[static_cast<size_t>(rank)] = device_of_rank("cuda", *launch);
    });
  for (std::thread& rank : ranks) rank.join();
  EXPECT_EQ(got[0].value(), "cuda:0");
  EXPECT_FALSE(got[1]);
}

}  // namespace
}  // namespace tailor::launch
