// Our answers are as long as llama.cpp's: the default model, the same prompts and sampling
// settings. A permutation test stratified by prompt: under equal laws an answer's origin is
// exchangeable inside its prompt. Two statistics, over ln(length): the summed difference of means
// (too long, too short) and the summed energy distance (anything else: spread, early ends, answers
// that never end).
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <random>

#include "predict/length_file.h"

namespace tailor::predict {
namespace {

struct Stratum {
  std::vector<double> logs;  // ours, then theirs
  size_t ours = 0;
};

std::vector<double> logs_of(const PromptLengths& prompt) {
  std::vector<double> out;
  for (const uint32_t length : prompt.lengths) out.push_back(std::log(length));
  return out;
}

std::vector<Stratum> strata(const LengthFile& ours, const LengthFile& theirs, double factor = 1) {
  std::map<std::string, Stratum> by_id;
  for (const PromptLengths& prompt : ours.prompts) {
    Stratum& s = by_id[prompt.id];
    s.logs = logs_of(prompt);
    for (double& value : s.logs) value = std::min(value + std::log(factor), std::log(1024));
    s.ours = s.logs.size();
  }
  std::vector<Stratum> out;
  for (const PromptLengths& prompt : theirs.prompts) {
    const auto at = by_id.find(prompt.id);
    if (at == by_id.end()) continue;
    const auto more = logs_of(prompt);
    at->second.logs.insert(at->second.logs.end(), more.begin(), more.end());
    out.push_back(at->second);
  }
  return out;
}

double shift(const Stratum& s) {
  double a = 0, b = 0;
  for (size_t i = 0; i < s.logs.size(); ++i) (i < s.ours ? a : b) += s.logs[i];
  return a / static_cast<double>(s.ours) - b / static_cast<double>(s.logs.size() - s.ours);
}

double energy(const Stratum& s) {
  double within_a = 0, within_b = 0, across = 0;
  const double n = static_cast<double>(s.ours), m = static_cast<double>(s.logs.size() - s.ours);
  for (size_t i = 0; i < s.logs.size(); ++i)
    for (size_t j = i + 1; j < s.logs.size(); ++j) {
      const double d = std::abs(s.logs[i] - s.logs[j]);
      if (j < s.ours)
        within_a += d;
      else if (i >= s.ours)
        within_b += d;
      else
        across += d;
    }
  return 2 * across / (n * m) - 2 * within_a / (n * n) - 2 * within_b / (m * m);
}

/// P values of both statistics from `rounds` permutations.
std::pair<double, double> p_values(std::vector<Stratum> all, int rounds) {
  const auto both = [&] {
    double a = 0, b = 0;
    for (const Stratum& s : all) {
      a += shift(s);
      b += energy(s);
    }
    return std::pair(std::abs(a), b);
  };
  const auto observed = both();
  std::mt19937_64 random(20);
  int further = 1, stranger = 1;
  for (int round = 0; round < rounds; ++round) {
    for (Stratum& s : all) std::shuffle(s.logs.begin(), s.logs.end(), random);
    const auto drawn = both();
    further += drawn.first >= observed.first;
    stranger += drawn.second >= observed.second;
  }
  return {further / (rounds + 1.0), stranger / (rounds + 1.0)};
}

TEST(SameLengths, AsLlamaCppOnTheSamePrompts) {
  const std::string folder = TAILOR_SOURCE_DIR "/tests/fixtures/tie/";
  const auto ours = read_length_file(folder + "lengths_tailor.jsonl");
  const auto theirs = read_length_file(folder + "lengths_llama_cpp.jsonl");
  ASSERT_TRUE(ours.has_value()) << to_string(ours.error());
  ASSERT_TRUE(theirs.has_value()) << to_string(theirs.error());
  std::map<std::string, uint32_t> prompt_tokens;
  for (const PromptLengths& prompt : theirs->prompts)
    prompt_tokens[prompt.id] = prompt.prompt_tokens;
  for (const PromptLengths& prompt : ours->prompts)
    EXPECT_EQ(prompt.prompt_tokens, prompt_tokens[prompt.id]) << prompt.id;

  const auto all = strata(*ours, *theirs);
  EXPECT_EQ(all.size(), theirs->prompts.size());
  const auto p = p_values(all, 2000);
  RecordProperty("p_shift", std::to_string(p.first));
  RecordProperty("p_energy", std::to_string(p.second));
  EXPECT_GT(p.first, 0.01) << "our answers are longer or shorter";
  EXPECT_GT(p.second, 0.01) << "our answers' lengths have another law";
  // And the test would notice: answers a fifth shorter.
  EXPECT_LT(p_values(strata(*ours, *theirs, 0.8), 2000).first, 0.01);
}

}  // namespace
}  // namespace tailor::predict
