// Packed weights are the file's weights, bit for bit, and the shared file is made once, whole, and
// never trusted when it is not.
#include "parallel/cpu/packed_model.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>

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
  std::string sealed_wrong = whole;
  sealed_wrong[whole.size() - 3] ^= 1;
  for (const std::string& damaged :
       {whole.substr(0, whole.size() / 2), std::string(), whole + "x", sealed_wrong}) {
    weights::write_file(path, damaged);
    auto packed = PackedModel::open(*files, {folder / "packed"});
    ASSERT_TRUE(packed.has_value()) << to_string(packed.error());
    expect_same_values(*files, **packed);
    EXPECT_EQ(weights::read_file(path), whole);
  }
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
