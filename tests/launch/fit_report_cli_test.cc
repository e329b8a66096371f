// `tailor fit-report` as a user runs it: good files, damaged ones, and what it writes.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string>

#include "tests/launch/run_tailor.h"

namespace tailor::launch {
namespace {

constexpr const char* kHeader =
    R"({"format":"tailor-lengths-1","model":"tiny","sampling":{"max_tokens":1024},"samples":4})"
    "\n";
constexpr const char* kPrompt =
    R"({"id":"a/1","prompt_tokens":9,"lengths":[30,41,35,60],"finish":["stop","stop","stop","stop"]})"
    "\n";

class FitReportCli : public testing::Test {
 protected:
  FitReportCli() {
    std::string pattern = testing::TempDir() + "fit-report-XXXXXX";
    folder_ = mkdtemp(pattern.data());
  }
  ~FitReportCli() override { std::filesystem::remove_all(folder_); }

  Ran report(const std::string& files, const std::string& options = "") const {
    return tailor("fit-report " + files + " --out " + folder_ + "/out --bootstrap 200 " + options);
  }
  std::string file(const std::string& name, const std::string& text) const {
    std::ofstream(folder_ + "/" + name) << text;
    return folder_ + "/" + name;
  }
  std::string read(const std::string& name) const {
    std::ifstream in(folder_ + "/out/" + name);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  void expect_refused(const std::string& path, const std::string& why) const {
    const Ran ran = report(path);
    EXPECT_EQ(ran.code, 1) << ran.out;
    EXPECT_NE(ran.out.find(why), std::string::npos) << ran.out;
    EXPECT_EQ(std::count(ran.out.begin(), ran.out.end(), '\n'), 1) << ran.out;
    EXPECT_FALSE(std::filesystem::exists(folder_ + "/out"));
  }
  std::string folder_;
};

TEST_F(FitReportCli, WritesThePageTheJsonAndTheFitsOfARealSet) {
  const std::string set = TAILOR_SOURCE_DIR "/tests/fixtures/tie/lengths_llama_cpp.jsonl";
  const Ran ran = report(set + " " + file("tiny.jsonl", std::string(kHeader) + kPrompt), "--json");
  ASSERT_EQ(ran.code, 0) << ran.out;
  const auto json = nlohmann::json::parse(ran.out);
  ASSERT_EQ(json["files"].size(), 2u);
  EXPECT_EQ(json["files"][0]["prompts"], 162);
  EXPECT_EQ(json["files"][0]["families"].size(), 7u);
  EXPECT_EQ(json["files"][0]["limit"], 1024);
  EXPECT_GT(json["files"][0]["censored"], 50);
  EXPECT_EQ(json["files"][1]["model"], "tiny");
  EXPECT_EQ(json["files"][1]["used"], 1);
  EXPECT_EQ(nlohmann::json::parse(read("fit-report.json")), json);
  EXPECT_NE(read("fit-report.html").find("</html>"), std::string::npos);
  EXPECT_NE(read("prompt-fits.csv").find("tiny.jsonl,a/1,log_t,4,0,4,"), std::string::npos);
}

TEST_F(FitReportCli, EqualLengthsAndATornLastLineAreReported) {
  const std::string flat =
      R"({"id":"b","lengths":[7,7,7,7],"finish":["stop","stop","stop","stop"]})"
      "\n";
  const Ran ran = report(file("torn.jsonl", kHeader + flat + R"({"id":"c","lengths":[3,)"));
  EXPECT_EQ(ran.code, 0) << ran.out;
  EXPECT_NE(ran.out.find("1 of 1 prompts"), std::string::npos) << ran.out;
  EXPECT_NE(ran.out.find("few distinct lengths 100.0 %"), std::string::npos) << ran.out;
}

TEST_F(FitReportCli, RefusesInOneSentenceAndWritesNothing) {
  expect_refused(folder_ + "/none.jsonl", "none.jsonl");
  expect_refused(file("other.jsonl", "{\"format\":\"tailor-lengths-9\"}\n"), "tailor-lengths-9");
  expect_refused(file("bad.jsonl", std::string(kHeader) + "{\"id\": oops}\n" + kPrompt), "line 2");
  expect_refused(file("zero.jsonl", std::string(kHeader) + "{\"id\":\"z\",\"lengths\":[0,4]}\n"),
                 "whole numbers from 1");
  expect_refused(file("empty.jsonl", kHeader), "none of 0 prompts");
  expect_refused(file("two.jsonl", std::string(kHeader) + "{\"id\":\"z\",\"lengths\":[3,4]}\n"),
                 "at least 3 answers");
}

TEST_F(FitReportCli, AFolderThatCannotBeMadeIsNamed) {
  file("out", "a file where the folder should be");
  const Ran ran = report(file("tiny.jsonl", std::string(kHeader) + kPrompt));
  EXPECT_EQ(ran.code, 1);
  EXPECT_NE(ran.out.find("cannot"), std::string::npos) << ran.out;
}

}  // namespace
}  // namespace tailor::launch
