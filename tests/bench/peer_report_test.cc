#include "bench/peer_report.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>

namespace tailor::bench {
namespace {

// What llama-batched-bench (llama-cpp-python 0.3.36) wrote with -npl 1,8 --output-format jsonl,
// behind a line of log.
constexpr const char* kCaptured =
    "0.00.012.345 W llama_model_loader: a warning\n"
    R"({"n_kv_max": 8192, "n_batch": 2048, "n_ubatch": 512, "flash_attn": 1, )"
    R"("is_pp_shared": 0, "n_gpu_layers": -1, "n_threads": 2, "n_threads_batch": 2, )"
    R"("pp": 64, "tg": 32, "pl": 1, "n_kv": 96, "t_pp": 0.180119, )"
    R"("speed_pp": 355.320648, "t_tg": 0.222772, "speed_tg": 143.644623, )"
    R"("t": 0.402891, "speed": 238.277863})"
    "\n"
    R"({"n_kv_max": 8192, "n_batch": 2048, "n_ubatch": 512, "flash_attn": 1, )"
    R"("is_pp_shared": 0, "n_gpu_layers": -1, "n_threads": 2, "n_threads_batch": 2, )"
    R"("pp": 64, "tg": 32, "pl": 8, "n_kv": 768, "t_pp": 1.396108, )"
    R"("speed_pp": 366.733795, "t_tg": 1.084464, "speed_tg": 236.061325, )"
    R"("t": 2.480572, "speed": 309.606018})"
    "\n"
    "\n";

TEST(PeerReport, ReadsWhatLlamaBatchedBenchPrints) {
  const auto batches = read_fixed_batches(kCaptured);
  ASSERT_TRUE(batches) << batches.error().message;
  ASSERT_EQ(batches->size(), 2u);
  EXPECT_EQ((*batches)[0].batch, 1);
  EXPECT_DOUBLE_EQ((*batches)[0].decode_per_s, 143.644623);
  EXPECT_EQ((*batches)[1].threads, 2);
  EXPECT_EQ((*batches)[1].prompt_tokens, 64);
  EXPECT_EQ((*batches)[1].decode_tokens, 32);
  EXPECT_EQ((*batches)[1].batch, 8);
  EXPECT_DOUBLE_EQ((*batches)[1].prompt_per_s, 366.733795);
  EXPECT_DOUBLE_EQ((*batches)[1].decode_per_s, 236.061325);
}

TEST(PeerReport, OurOwnLineReadsBack) {
  const FixedBatch batch{2, 64, 32, 8, 1234.5, 678.25};
  const auto read = read_fixed_batches("a line of log\n" + fixed_batch_line(batch) + "\n");
  ASSERT_TRUE(read) << read.error().message;
  ASSERT_EQ(read->size(), 1u);
  EXPECT_EQ(fixed_batch_line(read->front()), fixed_batch_line(batch));
  EXPECT_EQ(read->front().threads, 2);
  EXPECT_DOUBLE_EQ(read->front().decode_per_s, 678.25);
}

TEST(PeerReport, AnOutputWithoutMeasurementIsAnErrorThatQuotesItsLastLine) {
  auto none = read_fixed_batches("loading\nerror: unable to load model\n\n");
  ASSERT_FALSE(none);
  EXPECT_EQ(none.error().code, ErrorCode::kProtocol);
  EXPECT_NE(none.error().message.find("error: unable to load model"), std::string::npos);
  // A line without a number that it must have, or with none for it: -ntg 0 divides by no time.
  none = read_fixed_batches(
      R"({"n_threads": 1, "pp": 8, "tg": 0, "pl": 1, "speed_pp": 9.0, "speed_tg": -nan})");
  ASSERT_FALSE(none);
  EXPECT_FALSE(
      read_fixed_batches(R"({"n_threads": 1, "pp": 8, "tg": 1, "pl": 1, "speed_pp": 9.0})"));
  EXPECT_FALSE(read_fixed_batches(""));
}

TEST(PeerReport, MedianIsTheMiddleOrTheMeanOfTheTwoInTheMiddle) {
  EXPECT_EQ(median({}), 0);
  EXPECT_EQ(median({7}), 7);
  EXPECT_EQ(median({9, 1, 5}), 5);
  EXPECT_EQ(median({9, 1, 5, 6}), 5.5);
}

TEST(PeerReport, RatioIsOfMediansSoThatOneBadRoundDoesNotCount) {
  PeerRow row{
      "q4_1", 2, 8, "decode", 64, "-fa on", {100, 110, 12, 105, 108}, {50, 52, 51, 900, 49}};
  EXPECT_DOUBLE_EQ(ratio(row), 105.0 / 51.0);
  row.theirs.clear();
  EXPECT_EQ(ratio(row), 0);
}

TEST(PeerReport, TableAndJsonCarryEveryRow) {
  const std::vector<PeerRow> rows = {
      {"q4_1", 1, 32, "decode", 64, "-fa off", {100, 90, 110}, {50, 55, 40}},
      {"q4_1 vs q4_0", 2, 16, "server", 80, "-fa on", {10}, {}}};
  const std::string table = peer_table(rows);
  EXPECT_NE(table.find("  2.00x  -10 % +10 %"), std::string::npos) << table;
  EXPECT_NE(table.find("q4_1 vs q4_0 "), std::string::npos) << table;
  EXPECT_EQ(std::count(table.begin(), table.end(), '\n'), 3) << table;

  const auto json = nlohmann::json::parse(peer_json(rows));
  ASSERT_EQ(json.size(), 2u);
  EXPECT_EQ(json[0]["format"], "q4_1");
  EXPECT_EQ(json[0]["threads"], 1);
  EXPECT_EQ(json[0]["batch"], 32);
  EXPECT_EQ(json[0]["phase"], "decode");
  EXPECT_EQ(json[0]["ours"], 100);
  EXPECT_EQ(json[0]["theirs"], 50);
  EXPECT_EQ(json[0]["ratio"], 2);
  EXPECT_EQ(json[0]["our_rounds"], (std::vector<double>{100, 90, 110}));
  EXPECT_EQ(json[1]["ratio"], 0);
}

}  // namespace
}  // namespace tailor::bench
