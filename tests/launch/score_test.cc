// `tailor score`: the published example, its options and its refusals.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>

#include "tests/launch/run_tailor.h"

namespace tailor::launch {
namespace {

Ran score(const std::string& arguments) { return tailor("score " + arguments); }
nlohmann::json json_of(const Ran& ran) { return nlohmann::json::parse(ran.out); }

const std::string kExample = "--mu 5 --sigma 0.5 --max-tokens 2048 ";

TEST(ScoreCommand, PrintsTheExample) {
  const Ran ran = score(kExample);
  ASSERT_EQ(ran.code, 0) << ran.out;
  const auto json = json_of(ran);
  EXPECT_NEAR(json.at("E").get<double>(), 193.908, 1e-3);
  EXPECT_NEAR(json.at("VaR").get<double>(), 326.454, 1e-3);
  EXPECT_NEAR(json.at("CVaR").get<double>(), 617.438, 1e-3);
  EXPECT_EQ(json.at("beta"), 0.1);
  EXPECT_NEAR(json.at("score").get<double>(), 193.908 + 61.7438, 1e-3);
  EXPECT_GT(json.at("rank").get<double>(), 100);
  EXPECT_EQ(json.size(), 6u);
}

TEST(ScoreCommand, WithGeneratedTellsWhatRemains) {
  const auto json = json_of(score(kExample + "--generated 150 --queue 80 --batch 32"));
  EXPECT_NEAR(json.at("E").get<double>(), 142.750, 1e-3);
  EXPECT_NEAR(json.at("VaR").get<double>(), 304.407, 1e-3);
  EXPECT_NEAR(json.at("CVaR").get<double>(), 713.957, 1e-3);
  EXPECT_EQ(json.at("beta"), 0.25);
  EXPECT_NEAR(json.at("score").get<double>(), 142.750 + 0.25 * 713.957, 1e-2);
}

TEST(ScoreCommand, NuAndKappaMatter) {
  const auto usual = json_of(score(kExample));
  EXPECT_LT(json_of(score(kExample + "--nu 30")).at("CVaR"), usual.at("CVaR"));
  EXPECT_EQ(json_of(score(kExample + "--nu 3.5 --kappa 20 --queue 0 --batch 1")), usual);
  EXPECT_GT(json_of(score(kExample + "--kappa 0")).at("rank"), usual.at("rank"));
}

TEST(ScoreCommand, ABadOptionIsOneSentence) {
  Ran ran = score("--mu 5 --sigma 0 --max-tokens 9");
  EXPECT_EQ(ran.code, 1);
  EXPECT_EQ(ran.out, "tailor: --sigma must be a number from 0.001 to 10, not 0\n");
  ran = score("--mu nan --sigma 1 --max-tokens 9");
  EXPECT_EQ(ran.code, 1);
  EXPECT_EQ(ran.out, "--mu: expected a number, found nan\nRun with --help for more information.\n");
  ran = score("--mu 21 --sigma 1 --max-tokens 9");
  EXPECT_EQ(ran.code, 1);
  EXPECT_EQ(ran.out, "tailor: --mu must be a number from -20 to 20, not 21\n");
  ran = score(kExample + "--batch 0");
  EXPECT_EQ(ran.code, 1);
  EXPECT_NE(ran.out.find("--batch must be"), std::string::npos) << ran.out;
  ran = score(kExample + "--generated 2048");
  EXPECT_EQ(ran.code, 1);
  EXPECT_EQ(ran.out,
            "tailor: --generated must be below --max-tokens (2048): an answer of 2048 tokens has "
            "ended\n");
  ran = score("--mu 5");
  EXPECT_EQ(ran.code, 1);
  EXPECT_NE(ran.out.find("is required"), std::string::npos) << ran.out;
}

}  // namespace
}  // namespace tailor::launch
