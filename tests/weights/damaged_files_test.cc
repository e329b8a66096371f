// Property: whatever happens to a model's files, open() and read() return (a value or an error) and
// never crash. Runs under AddressSanitizer and UBSan in the asan preset.
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <random>

#include "tests/weights/test_files.h"

namespace tailor::weights {
namespace {

struct Tally {
  int opened = 0, refused = 0;
};

void try_model(const std::string& path, Tally& tally) {
  auto files = WeightFiles::open(path);
  if (!files) {
    ++tally.refused;
    EXPECT_FALSE(files.error().message.empty());
    EXPECT_EQ(files.error().message.find('\n'), std::string::npos) << files.error().message;
    return;
  }
  ++tally.opened;
  rope_inverse_frequencies((*files)->config());
  for (const TensorInfo& info : (*files)->tensors()) read_all(**files, info.name);
}

/// Truncates `good` at every point of its head and some of its data, then flips bytes and writes
/// extreme numbers.
Tally damage(const std::string& file, const std::string& model, const std::string& good,
             size_t head, int flips) {
  Tally tally;
  const size_t step = std::max<size_t>(1, head / 200);
  for (size_t size = 0; size < good.size(); size += size < head ? step : 97) {
    write_file(file, good.substr(0, size));
    try_model(model, tally);
  }
  EXPECT_EQ(tally.opened, 0) << "a truncated file must be refused";
  std::mt19937 random(11);
  const auto pick = [&](size_t n) {
    return std::uniform_int_distribution<size_t>(0, n - 1)(random);
  };
  for (int i = 0; i < flips; ++i) {
    std::string bytes = good;
    const size_t at = pick(head);
    if (i % 3 == 0) {
      bytes[at] = static_cast<char>(pick(256));
    } else if (i % 3 == 1) {
      bytes[at] = static_cast<char>(bytes[at] ^ (1 << pick(8)));
    } else {
      const uint64_t extremes[] = {
          ~uint64_t{0}, uint64_t{1} << 63, uint64_t{1} << 62, uint64_t{1} << 32, 0,
          good.size(),  0x7FFFFFFFFFFFFFFF};
      const std::string value = raw(extremes[pick(7)]);
      bytes.replace(at, std::min<size_t>(8, bytes.size() - at),
                    value.substr(0, std::min<size_t>(8, bytes.size() - at)));
    }
    write_file(file, bytes);
    try_model(model, tally);
  }
  write_file(file, good);
  Tally whole;
  try_model(model, whole);
  EXPECT_EQ(whole.opened, 1);
  return tally;
}

std::unique_ptr<WeightFiles> tiny_model(const ScratchFolder& folder) {
  write_file(folder / "config.json", kTinyConfig);
  auto dummy = WeightFiles::dummy(folder.path(), 3);
  EXPECT_TRUE(dummy.has_value());
  return std::move(*dummy);
}

TEST(DamagedFiles, Gguf) {
  ScratchFolder folder;
  GgufWriter writer = as_gguf(*tiny_model(folder));
  writer.text("tokenizer.ggml.model", "gpt2");
  writer.strings("tokenizer.ggml.tokens", {"a", "b", "<|eot_id|>"});
  const std::string good = writer.bytes();
  const size_t head = good.rfind("token_embd.weight") + 64;
  ASSERT_LT(head, good.size());
  const Tally tally = damage(folder / "model.gguf", folder / "model.gguf", good, head, 3000);
  EXPECT_GT(tally.refused, 2000);
}

TEST(DamagedFiles, Safetensors) {
  ScratchFolder folder;
  const std::string good = as_safetensors(*tiny_model(folder));
  uint64_t header = 0;
  std::memcpy(&header, good.data(), 8);
  const Tally tally = damage(folder / "model.safetensors", folder.path(), good, 8 + header, 3000);
  EXPECT_GT(tally.refused, 2000);
}

TEST(DamagedFiles, ConfigJson) {
  ScratchFolder folder;
  write_file(folder / "model.safetensors", as_safetensors(*tiny_model(folder)));
  const std::string good = kTinyConfig;
  damage(folder / "config.json", folder.path(), good, good.size(), 1500);
}

TEST(DamagedFiles, ShardIndex) {
  ScratchFolder folder;
  std::filesystem::copy(fixtures("models/llama2_small"), folder.path());
  const std::string good = read_file(folder / "model.safetensors.index.json");
  // so that no truncation is still whole
  const std::string trimmed = good.substr(0, good.rfind('}') + 1);
  damage(folder / "model.safetensors.index.json", folder.path(), trimmed, trimmed.size(), 300);
}

TEST(DamagedFiles, DeeplyNestedJson) {
  ScratchFolder folder;
  tiny_model(folder);
  const std::string deep = std::string(200000, '[');
  write_file(folder / "model.safetensors", raw(uint64_t{deep.size()}) + deep);
  Tally tally;
  try_model(folder.path(), tally);
  write_file(folder / "config.json", "{\"hidden_size\":" + deep + std::string(200000, ']') + "}");
  try_model(folder.path(), tally);
  EXPECT_EQ(tally.refused, 2);
}

}  // namespace
}  // namespace tailor::weights
