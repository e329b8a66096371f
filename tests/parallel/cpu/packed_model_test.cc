// Packed weights are the file's weights, bit for bit, and the shared file is made once, whole, and
// never trusted when it is not.
#include "parallel/cpu/packed_model.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <thread>

#include "tests/parallel/cpu/random_model.h"

namespace tailor::parallel::cpu {
namespace {

using weights::RandomFormat;
using weights::ScratchFolder;

void expect_same_values(const weights::WeightFiles& files, const PackedModel& packed) {
  for (const weights::TensorInfo& info : files.tensors()) {
    if (info.shape.size() != 2) continue;
    const PackedMatrix* matrix = packed.find(info.name);
    ASSERT_NE(matrix, nullptr) << info.name;
    const std::vector<float> wanted = weights::read_all(files, info.name);
    std::vector<float> row(static_cast<size_t>(info.shape[1]));
    for (int64_t r = 0; r < info.shape[0]; ++r) {
      matrix->read_row(r, row);
      ASSERT_EQ(0, std::memcmp(row.data(), wanted.data() + r * info.shape[1], row.size() * 4))
          << info.name << " row " << r;
    }
  }
}

class Packed : public ::testing::TestWithParam<RandomFormat> {};

TEST_P(Packed, HoldsTheFilesValues) {
  ScratchFolder folder;
  const auto files = weights::open_random(folder, GetParam());
  ASSERT_NE(files, nullptr);
  for (const std::string shared : {"", "packed"}) {
    auto packed = PackedModel::open(*files, {shared.empty() ? "" : folder / shared});
    ASSERT_TRUE(packed.has_value()) << to_string(packed.error());
    expect_same_values(*files, **packed);
  }
  auto as_f32 = PackedModel::open(*files, {"", "f32"});
  ASSERT_TRUE(as_f32.has_value());
  expect_same_values(*files, **as_f32);
}

TEST_P(Packed, HasTheStoredSize) {
  ScratchFolder folder;
  const auto files = weights::open_random(folder, GetParam());
  auto packed = PackedModel::open(*files, {});
  ASSERT_TRUE(packed.has_value());
  const std::string name = GetParam().name;
  const bool widened = name.starts_with("Q5");
  // Rows are padded to a tile, matrices to a page.
  EXPECT_LT((*packed)->bytes(), files->total_stored_bytes() * (widened ? 2.0 : 1.05) + 17 * 4096);
}

INSTANTIATE_TEST_SUITE_P(Formats, Packed, ::testing::ValuesIn(weights::random_formats()),
                         [](const auto& info) { return std::string(info.param.name); });

const RandomFormat& q4_1() { return weights::random_formats()[4]; }

std::vector<std::string> packed_files(const std::string& folder) {
  std::vector<std::string> out;
  for (const auto& entry : std::filesystem::directory_iterator(folder))
    if (entry.path().extension() == ".tlr") out.push_back(entry.path().string());
  return out;
}

TEST(PackedModel, ManyAtOnceMakeOneFile) {
  ScratchFolder folder;
  const auto files = weights::open_random(folder, q4_1());
  std::vector<std::thread> ranks;
  std::vector<std::unique_ptr<PackedModel>> models(4);
  for (size_t i = 0; i < models.size(); ++i)
    ranks.emplace_back([&, i] {
      auto packed = PackedModel::open(*files, {folder / "packed"});
      ASSERT_TRUE(packed.has_value()) << to_string(packed.error());
      models[i] = std::move(*packed);
    });
  for (std::thread& rank : ranks) rank.join();
  for (const auto& model : models) {
    ASSERT_NE(model, nullptr);
    EXPECT_NE(model->where().find("shared from"), std::string::npos) << model->where();
    expect_same_values(*files, *model);
  }
  EXPECT_EQ(packed_files(folder / "packed").size(), 1u);
}

TEST(PackedModel, ADamagedFileIsMadeAnew) {
  ScratchFolder folder;
  const auto files = weights::open_random(folder, q4_1());
  ASSERT_TRUE(PackedModel::open(*files, {folder / "packed"}).has_value());
  const std::string path = packed_files(folder / "packed").at(0);
  const std::string whole = weights::read_file(path);
  std::string sealed_wrong = whole, one_bit = whole, last_bit = whole;
  sealed_wrong[whole.size() - 3] ^= 1;
  one_bit[whole.size() / 3] ^= 1;
  last_bit[whole.size() - 49] ^= 1;
  for (const std::string& damaged : {whole.substr(0, whole.size() / 2), std::string(), whole + "x",
                                     sealed_wrong, one_bit, last_bit}) {
    weights::write_file(path, damaged);
    chmod(path.c_str(), 0600);
    auto packed = PackedModel::open(*files, {folder / "packed"});
    ASSERT_TRUE(packed.has_value()) << to_string(packed.error());
    expect_same_values(*files, **packed);
    EXPECT_EQ(weights::read_file(path), whole);
  }
}

TEST(PackedModel, AFileThatOthersCouldHaveWrittenIsMadeAnew) {
  ScratchFolder folder;
  const auto files = weights::open_random(folder, q4_1());
  ASSERT_TRUE(PackedModel::open(*files, {folder / "packed"}).has_value());
  const std::string path = packed_files(folder / "packed").at(0);
  const auto inode = [&] {
    struct stat info {};
    EXPECT_EQ(lstat(path.c_str(), &info), 0);
    EXPECT_EQ(info.st_mode, S_IFREG | 0600u);
    return info.st_ino;
  };
  const auto first = inode();
  ASSERT_TRUE(PackedModel::open(*files, {folder / "packed"}).has_value());
  EXPECT_EQ(inode(), first) << "a file that is right is used as it is";
  chmod(path.c_str(), 0622);
  auto packed = PackedModel::open(*files, {folder / "packed"});
  ASSERT_TRUE(packed.has_value());
  expect_same_values(*files, **packed);
  EXPECT_NE(inode(), first);
  // A link to a file elsewhere is not followed.
  std::filesystem::rename(path, folder / "elsewhere");
  std::filesystem::create_symlink(folder / "elsewhere", path);
  packed = PackedModel::open(*files, {folder / "packed"});
  ASSERT_TRUE(packed.has_value());
  expect_same_values(*files, **packed);
  inode();
  if (geteuid() != 0) return;  // to give a folder away takes root
  ASSERT_EQ(chown((folder / "packed").c_str(), 4711, 4711), 0);
  packed = PackedModel::open(*files, {folder / "packed"});
  ASSERT_TRUE(packed.has_value());
  expect_same_values(*files, **packed);
  EXPECT_NE((*packed)->where().find("belongs to the user 4711"), std::string::npos)
      << (*packed)->where();
}

TEST(PackedModel, AModelThatIsEditedInPlaceIsPackedAnew) {
  ScratchFolder folder;
  const std::string model = folder / (std::string(q4_1().name) + ".gguf");
  const auto before = weights::open_random(folder, q4_1());
  ASSERT_TRUE(PackedModel::open(*before, {folder / "packed"}).has_value());
  // One value of one matrix, in the file as it lies there: same name, size and shapes.
  const std::vector<float> old = weights::read_all(*before, "model.layers.1.mlp.up_proj.weight");
  const std::byte* row = before->stored_row("model.layers.1.mlp.up_proj.weight", 333);
  const std::string bytes = weights::read_file(model);
  const std::string_view text(bytes);
  const size_t at = text.find(std::string_view(reinterpret_cast<const char*>(row), 160)) + 7;
  ASSERT_LT(at, bytes.size());
  {
    std::fstream file(model, std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(static_cast<std::streamoff>(at));
    file.put(static_cast<char>(bytes[at] ^ 0x11));
  }
  auto after = weights::WeightFiles::open(model);
  ASSERT_TRUE(after.has_value());
  EXPECT_NE(weights::read_all(**after, "model.layers.1.mlp.up_proj.weight"), old);
  auto packed = PackedModel::open(**after, {folder / "packed"});
  ASSERT_TRUE(packed.has_value()) << to_string(packed.error());
  expect_same_values(**after, **packed);
  EXPECT_EQ(packed_files(folder / "packed").size(), 2u);

  // What was opened before the edit is of no model any more: it is not packed under its name.
  ASSERT_TRUE(weights::open_random(folder, q4_1()));  // written anew
  const auto torn = PackedModel::open(**after, {folder / "other"});
  ASSERT_FALSE(torn.has_value());
  EXPECT_EQ(torn.error().code, ErrorCode::kDataLoss);
  EXPECT_TRUE(packed_files(folder / "other").empty());
}

TEST(PackedModel, WhatIsNotUsedForLongGoes) {
  ScratchFolder folder;
  const auto files = weights::open_random(folder, q4_1());
  const auto open = [&](const std::string& dtype, uint64_t bytes, size_t count) {
    PackedModelOptions options{folder / "packed", dtype};
    options.kept_bytes = bytes;
    options.kept_files = count;
    auto packed = PackedModel::open(*files, options);
    EXPECT_TRUE(packed.has_value());
    return packed ? std::move(*packed) : nullptr;
  };
  const auto there = [&](const std::string& dtype) {
    const auto all = packed_files(folder / "packed");
    return std::any_of(all.begin(), all.end(), [&](const std::string& path) {
      return path.find("-" + dtype + "-") != std::string::npos;
    });
  };
  const auto age = [&](int hours) {  // of all that is there
    const auto then = std::filesystem::file_time_type::clock::now() - std::chrono::hours(hours);
    for (const auto& entry : std::filesystem::directory_iterator(folder / "packed"))
      std::filesystem::last_write_time(entry.path(), then);
  };
  const uint64_t much = uint64_t{1} << 40;
  open("auto", much, 2);
  age(3);
  const auto in_use = open("f32", much, 2);
  age(2);
  open("auto", much, 2);  // used again: now f32 is the older one
  weights::write_file(folder / "packed/dead.tlr.next", "left by a packer that was killed");
  weights::write_file(folder / "packed/busy.tlr.next", "somebody is at it");
  const int busy = ::open((folder / "packed/busy.tlr.lock").c_str(), O_CREAT | O_RDWR, 0600);
  ASSERT_EQ(flock(busy, LOCK_EX), 0);
  open("bf16", much, 2);
  EXPECT_TRUE(there("auto") && there("bf16"));
  EXPECT_FALSE(there("f32"));
  ASSERT_NE(in_use, nullptr);
  expect_same_values(*files, *in_use);  // who has it mapped keeps it
  EXPECT_FALSE(std::filesystem::exists(folder / "packed/dead.tlr.next"));
  EXPECT_TRUE(std::filesystem::exists(folder / "packed/busy.tlr.next"));
  close(busy);
  open("f32", 1, 64);
  EXPECT_TRUE(there("f32")) << "the one that was just made stays";
  EXPECT_EQ(packed_files(folder / "packed").size(), 1u);
}

TEST(PackedModel, AFullDiskPacksIntoMemory) {
  ScratchFolder folder;
  const auto files = weights::open_random(folder, q4_1());
  // No file may grow past 64 KiB: what a full disk looks like to the one who writes.
  struct rlimit before {};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto old_action = std::signal(SIGXFSZ, SIG_IGN);
  const struct rlimit small { 64 << 10, before.rlim_max };
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  auto packed = PackedModel::open(*files, {folder / "packed"});
  setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, old_action);
  ASSERT_TRUE(packed.has_value()) << to_string(packed.error());
  EXPECT_NE((*packed)->where().find("private memory because no room"), std::string::npos)
      << (*packed)->where();
  expect_same_values(*files, **packed);
  EXPECT_TRUE(packed_files(folder / "packed").empty());
}

TEST(PackedModel, AFolderThatCannotBeMadePacksIntoMemory) {
  ScratchFolder folder;
  const auto files = weights::open_random(folder, q4_1());
  weights::write_file(folder / "file", "in the way");
  auto packed = PackedModel::open(*files, {folder / "file/packed"});
  ASSERT_TRUE(packed.has_value()) << to_string(packed.error());
  expect_same_values(*files, **packed);
}

TEST(PackedModel, AnUnknownDtypeIsRefused) {
  ScratchFolder folder;
  const auto files = weights::open_random(folder, q4_1());
  auto packed = PackedModel::open(*files, {"", "f64"});
  ASSERT_FALSE(packed.has_value());
  EXPECT_EQ(packed.error().code, ErrorCode::kInvalidArgument);
}

}  // namespace
}  // namespace tailor::parallel::cpu
