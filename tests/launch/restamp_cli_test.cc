// `tailor restamp` on what ships for the default model, and what `tailor serve` says of heads that
// were made with another.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>

#include "predict/restamp.h"
#include "tests/launch/run_tailor.h"

namespace tailor::launch {
namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

/// The default model's older fingerprint, as files made before carry it.
const std::string kOlder = "78b6fd327e5e98c843c253ccb5a4898a";
const std::string kAnother = "00000000000000000000000000000000";

class RestampCommand : public testing::Test {
 protected:
  RestampCommand() : folder_(testing::TempDir() + "restamp_cli_" + std::to_string(getpid())) {
    fs::remove_all(folder_);
    fs::create_directories(folder_);
    for (const char* from : {"/data/predictors/default", "/data/lengths"})
      fs::copy(std::string(TAILOR_SOURCE_DIR) + from, folder_);
    for (const auto& entry : fs::directory_iterator(folder_))
      if (predict::stamp_of(entry.path())) stamped_.push_back(entry.path());
  }
  ~RestampCommand() override { fs::remove_all(folder_); }
  void stamp_all(const std::string& stamp) const {
    for (const std::string& file : stamped_) {
      const auto done = predict::restamp(file, *predict::stamp_of(file), stamp);
      ASSERT_TRUE(done.has_value()) << done.error().message;
    }
  }
  static size_t count(const std::string& text, const std::string& part) {
    size_t found = 0;
    for (size_t at = 0; (at = text.find(part, at)) != text.npos; at += part.size()) ++found;
    return found;
  }
  static std::string text(const std::string& path) {
    std::ifstream in(path, std::ios::binary);
    std::stringstream out;
    out << in.rdbuf();
    return out.str();
  }

  const std::string folder_;
  std::vector<std::string> stamped_;
};

TEST_F(RestampCommand, WhatShipsIsTheDefaultModels) {
  ASSERT_EQ(stamped_.size(), 6u) << "three heads, their hidden states, two length files";
  std::map<std::string, std::string> shipped;
  for (const std::string& file : stamped_) shipped[file] = text(file);
  Ran ran = tailor("restamp --model default " + folder_);
  EXPECT_EQ(ran.code, 0) << ran.out;
  EXPECT_EQ(count(ran.out, ": is as it should be\n"), 6u) << ran.out;

  stamp_all(kOlder);
  ran = tailor("restamp --model default " + folder_);
  EXPECT_EQ(ran.code, 0) << ran.out;
  EXPECT_EQ(count(ran.out, ": renewed\n"), 6u) << ran.out;
  for (const auto& [file, bytes] : shipped) EXPECT_TRUE(text(file) == bytes) << file;

  stamp_all(kAnother);
  const std::string head = folder_ + "/probe.safetensors", before = text(head);
  ran = tailor("restamp " + head);
  EXPECT_EQ(ran.code, 1);
  EXPECT_THAT(ran.out, AllOf(HasSubstr(head), HasSubstr(kAnother), HasSubstr("another model")));
  EXPECT_TRUE(text(head) == before);
  ran = tailor("restamp " + folder_ + "/prompt-encoder.safetensors");
  EXPECT_EQ(ran.code, 1);
  EXPECT_THAT(ran.out, HasSubstr("expected a head"));
}

TEST_F(RestampCommand, ServeSaysWhichHeadsAreNotItsModels) {
  const std::string serve = "serve --print --model default --predictor " + folder_;
  Ran ran = tailor(serve);
  EXPECT_EQ(ran.code, 0) << ran.out;
  EXPECT_THAT(ran.out, AllOf(HasSubstr("--probe " + folder_), HasSubstr("--policy tie"),
                             Not(HasSubstr("fingerprint"))));
  const std::string before = *predict::stamp_of(stamped_.front());
  stamp_all(kOlder);
  ran = tailor(serve);
  EXPECT_EQ(ran.code, 0) << ran.out;
  EXPECT_EQ(count(ran.out, "`tailor restamp --model default " + folder_ + "`"), 1u) << ran.out;
  EXPECT_THAT(ran.out, AllOf(Not(HasSubstr("--probe ")), HasSubstr("--predictor " + folder_)));
  stamp_all(before);
  ASSERT_TRUE(
      predict::restamp(folder_ + "/remaining.safetensors", before, "xxh3-another").has_value());
  ran = tailor(serve);
  EXPECT_EQ(count(ran.out, folder_ + " was made with the model xxh3-another"), 1u) << ran.out;
  EXPECT_THAT(ran.out, HasSubstr("its probe is not used"));
  ran = tailor(serve + " --dummy-weights");
  EXPECT_THAT(ran.out, Not(HasSubstr("xxh3-another"))) << "no head was made for random weights";
}

}  // namespace
}  // namespace tailor::launch
