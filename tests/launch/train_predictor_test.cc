// `tailor train-predictor` and `eval-predictor`: from length files to a head and its figures, and
// what is said when something is missing.
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <string>

#include "tests/launch/run_tailor.h"

namespace tailor::launch {
namespace {

namespace fs = std::filesystem;
const std::string kData = TAILOR_SOURCE_DIR "/data/";

class TrainPredictor : public ::testing::Test {
 protected:
  TrainPredictor() : folder_(::testing::TempDir() + "tailor_train_" + std::to_string(getpid())) {
    fs::create_directories(folder_);
  }
  ~TrainPredictor() override { fs::remove_all(folder_); }
  std::string data() const {
    return " --lengths " + kData + "lengths/default-train.jsonl --lengths " + kData +
           "lengths/default-test.jsonl --prompts " + kData + "prompts/prompts.jsonl.gz";
  }
  static void expect_sentence(const Ran& ran, const std::string& words) {
    EXPECT_EQ(ran.code, 1) << ran.out;
    EXPECT_NE(ran.out.find(words), std::string::npos) << ran.out;
    EXPECT_EQ(std::count(ran.out.begin(), ran.out.end(), '\n'), 1) << ran.out;
  }
  const std::string folder_;
};

TEST_F(TrainPredictor, AHeadIsTrainedAndJudged) {
  const Ran trained = tailor("train-predictor" + data() +
                             " --features lexical --head linear --epochs 8 --threads 1 "
                             "--resamples 20 --name words --out " +
                             folder_);
  ASSERT_EQ(trained.code, 0) << trained.out;
  EXPECT_TRUE(fs::exists(folder_ + "/words.safetensors"));
  EXPECT_TRUE(fs::exists(folder_ + "/words-training.html"));
  EXPECT_FALSE(fs::exists(folder_ + "/words.checkpoint"));

  const Ran judged = tailor("eval-predictor --head " + folder_ + "/words.safetensors" + data() +
                            " --resamples 20 --threads 1 --replay --json --out " + folder_);
  ASSERT_EQ(judged.code, 0) << judged.out;
  const auto head = nlohmann::json::parse(judged.out).at("heads").at(0);
  EXPECT_GT(head.at("prompts"), 40);
  EXPECT_GT(head.at("tau").at("value"), 0.05);  // even words alone say something
  EXPECT_LT(head.at("tau").at("low"), head.at("tau").at("high"));
  EXPECT_NEAR(head.at("coverage_90").at("value").get<double>(), 0.9, 0.12);
  EXPECT_LT(head.at("replay").at("oracle_over_fcfs").at("value"), 0.3);
  EXPECT_TRUE(fs::exists(folder_ + "/predictor-report.html"));
}

TEST_F(TrainPredictor, ATunedEncoderGoesWithItsHead) {
  const std::string encoder = TAILOR_SOURCE_DIR "/tests/fixtures/encoder/bert_small";
  const Ran trained = tailor("train-predictor" + data() + " --features " + encoder +
                             " --objective median --head linear --epochs 4 --threads 1 "
                             "--train-layers 2 --encoder-epochs 1 --encoder-tokens 24 "
                             "--resamples 20 --no-cache --name tuned --out " +
                             folder_);
  ASSERT_EQ(trained.code, 0) << trained.out;
  EXPECT_TRUE(fs::exists(folder_ + "/tuned-encoder.safetensors"));
  EXPECT_FALSE(fs::exists(folder_ + "/tuned-encoder.checkpoint"));
  const std::string eval = "eval-predictor --head " + folder_ + "/tuned.safetensors --encoder " +
                           encoder + data() + " --resamples 20 --threads 1 --json";
  const Ran judged = tailor(eval);
  ASSERT_EQ(judged.code, 0) << judged.out;
  EXPECT_GT(nlohmann::json::parse(judged.out).at("heads").at(0).at("tau").at("value"), 0.0);
  fs::remove(folder_ + "/tuned-encoder.safetensors");  // the head alone would be wrong in silence
  expect_sentence(tailor(eval), "encoder");
}

TEST_F(TrainPredictor, WhatShipsIsJudgedFromAFreshClone) {
  const Ran ran = tailor("eval-predictor --model default --json --resamples 50 --threads 1");
  ASSERT_EQ(ran.code, 0) << ran.out;
  std::map<std::string, nlohmann::json> heads;
  const auto report = nlohmann::json::parse(ran.out);
  for (const auto& head : report.at("heads")) heads[head.at("name")] = head;
  ASSERT_EQ(heads.size(), 3u);
  EXPECT_GT(heads.at("probe").at("r2_mean_log").at("value"), 0.55);
  EXPECT_GT(heads.at("probe").at("tau").at("value"), 0.42);
  EXPECT_GT(heads.at("probe").at("tau").at("value"), heads.at("prompt").at("tau").at("value"));
  EXPECT_GT(heads.at("prompt").at("tau").at("low"), 0.0);
  EXPECT_GT(heads.at("remaining").at("tau").at("low"), 0.0);
}

TEST_F(TrainPredictor, WhatIsMissingIsSaidInOneSentence) {
  expect_sentence(tailor("train-predictor --lengths nothing.jsonl --features lexical --prompts " +
                         kData + "prompts/prompts.jsonl.gz --out " + folder_),
                  "nothing.jsonl");
  std::ofstream(folder_ + "/no.jsonl") << "{\"format\":\"other\"}\n";
  expect_sentence(
      tailor("train-predictor --lengths " + folder_ + "/no.jsonl --features lexical --prompts " +
             kData + "prompts/prompts.jsonl.gz --out " + folder_),
      "tailor-lengths-1");
  std::ofstream(folder_ + "/broken.safetensors") << "garbage";
  expect_sentence(tailor("eval-predictor --head " + folder_ + "/broken.safetensors" + data()),
                  "broken.safetensors");
  expect_sentence(tailor("eval-predictor --model " + folder_ + "/none"), "no predictor");
  expect_sentence(tailor("eval-predictor"), "eval needs heads");
}

}  // namespace
}  // namespace tailor::launch
