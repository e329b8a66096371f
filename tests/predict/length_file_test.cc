// Length and feature files: what is written is read again, whatever cut the writer off.
#include "predict/length_file.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>

#include "predict/feature_file.h"

namespace tailor::predict {
namespace {

namespace fs = std::filesystem;

class Files : public ::testing::Test {
 protected:
  Files() : folder_(::testing::TempDir() + "tailor_lengths_" + std::to_string(getpid())) {
    fs::remove_all(folder_);
    fs::create_directories(folder_);
  }
  ~Files() override { fs::remove_all(folder_); }
  std::string path(const std::string& name = "a.jsonl") const { return folder_ + "/" + name; }
  static std::string text(const std::string& path) {
    std::ifstream in(path, std::ios::binary);
    std::stringstream out;
    out << in.rdbuf();
    return out.str();
  }
  static void write(const std::string& path, const std::string& text) {
    std::ofstream(path, std::ios::binary) << text;
  }
  static LengthFile header() {
    LengthFile h;
    h.model = "m";
    h.model_fingerprint = "f";
    h.temperature = 0.7;
    h.max_tokens = 1024;
    h.samples = 2;
    return h;
  }
  static PromptLengths prompt(int i) {
    return {"dolly/" + std::to_string(i), 7u + i, {10u + i, 1024}, {false, true}};
  }
  static void expect_refused(const std::string& path, const std::string& words) {
    const auto read = read_length_file(path);
    ASSERT_FALSE(read.has_value());
    EXPECT_NE(read.error().message.find(words), std::string::npos) << read.error().message;
  }

  const std::string folder_;
};

TEST_F(Files, AreReadAsTheyWereWritten) {
  {
    auto writer = LengthWriter::open(path(), header());
    ASSERT_TRUE(writer.has_value()) << to_string(writer.error());
    for (int i = 0; i < 5; ++i) ASSERT_TRUE(writer->append(prompt(i)).has_value());
  }
  const auto read = read_length_file(path());
  ASSERT_TRUE(read.has_value()) << to_string(read.error());
  EXPECT_EQ(read->model_fingerprint, "f");
  EXPECT_EQ(read->max_tokens, 1024u);
  EXPECT_DOUBLE_EQ(read->temperature, 0.7);
  ASSERT_EQ(read->prompts.size(), 5u);
  EXPECT_EQ(read->prompts[3].id, "dolly/3");
  EXPECT_EQ(read->prompts[3].lengths, (std::vector<uint32_t>{13, 1024}));
  EXPECT_EQ(read->prompts[3].censored, (std::vector<bool>{false, true}));
}

TEST_F(Files, CutAnywhereLosesOnlyTheTornLine) {
  {
    auto writer = LengthWriter::open(path(), header());
    ASSERT_TRUE(writer.has_value());
    for (int i = 0; i < 3; ++i) ASSERT_TRUE(writer->append(prompt(i)).has_value());
  }
  const std::string whole = text(path());
  for (size_t cut = 0; cut <= whole.size(); ++cut) {
    write(path("cut"), whole.substr(0, cut));
    auto writer = LengthWriter::open(path("cut"), header());
    ASSERT_TRUE(writer.has_value()) << cut << ": " << to_string(writer.error());
    const auto there = static_cast<int>(writer->done().size());
    for (int i = there; i < 3; ++i) ASSERT_TRUE(writer->append(prompt(i)).has_value());
    ASSERT_EQ(text(path("cut")), whole) << "cut at " << cut;
  }
}

TEST_F(Files, AnotherCollectionIsNotMixedIn) {
  {
    auto writer = LengthWriter::open(path(), header());
    ASSERT_TRUE(writer->append(prompt(0)).has_value());
  }
  const std::string before = text(path());
  LengthFile other = header();
  other.temperature = 1.0;
  const auto refused = LengthWriter::open(path(), other);
  ASSERT_FALSE(refused.has_value());
  EXPECT_NE(refused.error().message.find("sampling"), std::string::npos);
  other = header();
  other.model_fingerprint = "g";
  EXPECT_FALSE(LengthWriter::open(path(), other).has_value());
  EXPECT_EQ(text(path()), before);
}

TEST_F(Files, DamageIsNamedWithItsPlace) {
  EXPECT_EQ(read_length_file(path("none")).error().code, ErrorCode::kNotFound);
  write(path(), "");
  expect_refused(path(), "header");
  write(path(), "{\"format\":\"other\"}\n");
  expect_refused(path(), "\"other\"");
  const std::string head = "{\"format\":\"tailor-lengths-1\"}\n";
  write(path(), head + "garbage\n");
  expect_refused(path(), "line 2");
  write(path(), head + "{\"id\":\"a\",\"lengths\":[0]}\n");
  expect_refused(path(), "found 0");
  write(path(), head + "{\"id\":\"a\",\"lengths\":[5,-1]}\n");
  expect_refused(path(), "found -1");
  // Numbers beyond 32 bits are not taken for what is left of them.
  write(path(), head + "{\"id\":\"a\",\"lengths\":[4294967301]}\n");
  expect_refused(path(), "found 4294967301");
  write(path(), head + "{\"id\":\"a\",\"prompt_tokens\":4294967301,\"lengths\":[5]}\n");
  expect_refused(path(), "prompt_tokens");
  write(path(), "{\"format\":\"tailor-lengths-1\",\"samples\":-1}\n");
  expect_refused(path(), "samples");
  write(path(), head + "{\"id\":\"a\",\"lengths\":[5],\"finish\":[]}\n");
  expect_refused(path(), "finish");
  write(path(), head + "\n{\"lengths\":[5]}\n");
  expect_refused(path(), "line 3");
}

TEST_F(Files, SplitIsSixtyTwentyTwentyAndStable) {
  int counts[3] = {};
  std::set<uint64_t> hashes;
  for (int i = 0; i < 10000; ++i) {
    const std::string id = "dolly/" + std::to_string(i);
    ++counts[static_cast<int>(split_of(id))];
    hashes.insert(id_hash(id));
  }
  EXPECT_EQ(hashes.size(), 10000u);
  EXPECT_NEAR(counts[0], 6000, 150);
  EXPECT_NEAR(counts[1], 2000, 120);
  EXPECT_EQ(id_hash("dolly/3514"),
            13180675458378333630ull);  // never changes: files on disks depend on it
}

TEST_F(Files, FeaturesSurviveACutAndDoubles) {
  const FeatureHeader h{"f", 3, {2, 5}};
  const auto values = [](uint32_t i) {
    std::vector<float> out;
    for (uint32_t v = 0; v < 6; ++v) out.push_back(static_cast<float>(i) + 0.25f * v);
    return out;
  };
  {
    auto writer = FeatureWriter::open(path("f"), h);
    ASSERT_TRUE(writer.has_value()) << to_string(writer.error());
    for (uint32_t i = 0; i < 4; ++i)
      ASSERT_TRUE(writer->append(9 - i, 0, i, values(i)).has_value());
  }
  const std::string whole = text(path("f"));
  write(path("f"), whole.substr(0, whole.size() - 5));  // the last record is torn
  {
    auto writer = FeatureWriter::open(path("f"), h);
    ASSERT_TRUE(writer.has_value()) << to_string(writer.error());
    for (uint32_t i = 2; i < 4; ++i)
      ASSERT_TRUE(writer->append(9 - i, 0, i, values(i)).has_value());
  }
  FeatureHeader found;
  const auto read = read_features(path("f"), 5, &found);
  ASSERT_TRUE(read.has_value()) << to_string(read.error());
  EXPECT_EQ(found, h);
  ASSERT_EQ(read->size(), 4u);
  for (uint32_t i = 0; i < 4; ++i) {
    EXPECT_EQ((*read)[3 - i].prompt, 9 - i);
    EXPECT_EQ((*read)[3 - i].values, (std::vector<float>{i + 0.75f, i + 1.0f, i + 1.25f}));
  }
  EXPECT_NE(read_features(path("f"), 4).error().message.find("2, 5"), std::string::npos);
  EXPECT_FALSE(FeatureWriter::open(path("f"), {"f", 3, {2}}).has_value());
  write(path("f"), "not one");
  EXPECT_FALSE(read_features(path("f"), 5).has_value());
  for (const std::string header : {R"({"model_fingerprint":"f","hidden":4294967299,"layers":[5]})",
                                   R"({"model_fingerprint":"f","hidden":-1,"layers":[5]})",
                                   R"({"model_fingerprint":"f","hidden":3,"layers":[4294967301]})",
                                   R"({"model_fingerprint":"f","hidden":3,"layers":{"a":5}})"}) {
    const auto bytes = static_cast<uint32_t>(header.size());
    write(path("f"), "TLFEAT1\n" + std::string(reinterpret_cast<const char*>(&bytes), 4) + header);
    const auto damaged = read_features(path("f"), 5);
    ASSERT_FALSE(damaged.has_value()) << header;
    EXPECT_NE(damaged.error().message.find("header is damaged"), std::string::npos) << header;
  }
}

}  // namespace
}  // namespace tailor::predict
