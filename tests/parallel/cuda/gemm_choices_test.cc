#include "parallel/cuda/gemm_choices.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

namespace tailor::parallel::gpu {
namespace {

class GemmChoicesTest : public testing::Test {
 protected:
  GemmChoicesTest() {
    std::string pattern = testing::TempDir() + "choices-XXXXXX";
    folder_ = mkdtemp(pattern.data());
  }
  ~GemmChoicesTest() override { std::filesystem::remove_all(folder_); }
  std::string folder_;
  const GemmChoiceKey key_{4096, 14336, 64, 2, 0};
  const GemmChoice choice_{{1, 0xffffffffffffffff, 3, 4, 5, 6, 7, 8}, 1 << 20, 12.5};
};

TEST_F(GemmChoicesTest, ComeBackAtTheNextStart) {
  GemmChoices first(folder_ + "/gemm", "NVIDIA H200 132 130002");
  EXPECT_FALSE(first.find(key_));
  first.put(key_, choice_);
  ASSERT_TRUE(first.save());
  const GemmChoices second(folder_ + "/gemm", "NVIDIA H200 132 130002");
  const auto found = second.find(key_);
  ASSERT_TRUE(found);
  EXPECT_EQ(found->algorithm, choice_.algorithm);
  EXPECT_EQ(found->workspace_bytes, choice_.workspace_bytes);
  EXPECT_EQ(found->microseconds, 12.5);
  EXPECT_FALSE(second.find({4096, 14336, 128, 2, 0}));
}

TEST_F(GemmChoicesTest, AreOfOneDeviceAndVersion) {
  GemmChoices first(folder_, "A B");
  first.put(key_, choice_);
  ASSERT_TRUE(first.save());
  EXPECT_EQ(GemmChoices(folder_, "A C").size(), 0u);
  EXPECT_EQ(GemmChoices(folder_, "A_B").size(), 0u);  // the same file's name, another tag
}

TEST_F(GemmChoicesTest, AFileThatMakesNoSenseIsReadAsFarAsItDoes) {
  GemmChoices first(folder_, "tag");
  first.put(key_, choice_);
  ASSERT_TRUE(first.save());
  std::ofstream(first.path(), std::ios::app) << "8 8 8 0 0 1.0 0 1 2 3\n9 9 9 0 0 x\n";
  EXPECT_EQ(GemmChoices(folder_, "tag").size(), 1u);
  std::ofstream(first.path()) << "something else\n";
  EXPECT_EQ(GemmChoices(folder_, "tag").size(), 0u);
}

TEST_F(GemmChoicesTest, AreBounded) {
  GemmChoices choices(folder_, "tag");
  for (int64_t rows = 1; rows <= static_cast<int64_t>(GemmChoices::kMost) + 1; ++rows)
    choices.put({8, 8, rows, 0, 0}, choice_);
  EXPECT_EQ(choices.size(), 1u);
}

TEST_F(GemmChoicesTest, WhatCannotBeWrittenIsSaid) {
  std::ofstream(folder_ + "/file") << "x";
  GemmChoices choices(folder_ + "/file", "tag");
  choices.put(key_, choice_);
  EXPECT_EQ(choices.save().error().code, ErrorCode::kUnavailable);
  GemmChoices none("", "tag");
  none.put(key_, choice_);
  EXPECT_TRUE(none.save());
}

}  // namespace
}  // namespace tailor::parallel::gpu
