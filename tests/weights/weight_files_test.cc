#include "weights/weight_files.h"

#include <gmock/gmock.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <set>

#include "tests/weights/test_files.h"
#include "weights/default_model.h"

namespace tailor::weights {
namespace {

using namespace std::string_literals;
using nlohmann::json;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

std::unique_ptr<WeightFiles> open_ok(const std::string& path) {
  auto opened = WeightFiles::open(path);
  EXPECT_TRUE(opened.has_value()) << opened.error().message;
  return opened ? std::move(*opened) : nullptr;
}

Error open_error(const std::string& path) {
  auto opened = WeightFiles::open(path);
  EXPECT_FALSE(opened.has_value());
  return opened ? Error{} : opened.error();
}

/// A folder with the tiny model: config.json and model.safetensors.
struct TinyFolder : ScratchFolder {
  TinyFolder() {
    write_file(*this / "config.json", kTinyConfig);
    auto dummy = WeightFiles::dummy(*this / "config.json", 1);
    EXPECT_TRUE(dummy.has_value()) << dummy.error().message;
    write_file(*this / "model.safetensors", as_safetensors(**dummy));
  }
};

TEST(WeightFiles, SmallFoldersHoldWhatTransformersReads) {
  const json models = json::parse(read_file(fixtures("quant/small_weights.json")));
  ASSERT_EQ(models.size(), 3u);
  for (const auto& [folder, tensors] : models.items()) {
    auto files = open_ok(fixtures("models/" + folder));
    ASSERT_TRUE(files);
    EXPECT_EQ(files->vocabulary(), nullptr);
    for (const auto& [name, expected] : tensors.items()) {
      ASSERT_NE(files->find(name), nullptr) << name;
      EXPECT_EQ(files->find(name)->shape, expected["shape"].get<std::vector<int64_t>>()) << name;
      const std::vector<float> values = read_all(*files, name);
      for (size_t i = 0; i < 8; ++i) {
        EXPECT_EQ(values.at(expected["at"][i].get<size_t>()), expected["values"][i].get<float>())
            << name;
      }
    }
  }
}

TEST(WeightFiles, GgufHoldsTheSameModelAsTheFolder) {
  for (const char* name : {"llama2_small", "llama31_small", "llama32_small"}) {
    auto folder = open_ok(fixtures(std::string("models/") + name));
    ASSERT_TRUE(folder);
    ScratchFolder scratch;
    write_file(scratch / "model.gguf", as_gguf(*folder).bytes());
    auto gguf = open_ok(scratch / "model.gguf");
    ASSERT_TRUE(gguf);
    EXPECT_EQ(gguf->config().tie_embeddings, folder->config().tie_embeddings);
    EXPECT_EQ(gguf->config().vocab_size, folder->config().vocab_size);
    ASSERT_EQ(gguf->tensors().size(), folder->tensors().size());
    for (const TensorInfo& info : folder->tensors()) {
      EXPECT_EQ(read_all(*gguf, info.name), read_all(*folder, info.name)) << info.name;
    }
    EXPECT_TRUE(open_ok(scratch.path())) << "a folder with a single .gguf file";
  }
}

TEST(WeightFiles, BiasesOfGgufArePutBackInOrder) {
  TinyFolder tiny;  // has attention biases
  auto folder = open_ok(tiny.path());
  ASSERT_TRUE(folder && folder->find("model.layers.0.self_attn.q_proj.bias"));
  write_file(tiny / "model.gguf", as_gguf(*folder).bytes());
  auto gguf = open_ok(tiny / "model.gguf");
  ASSERT_TRUE(gguf);
  for (const TensorInfo& info : folder->tensors()) {
    EXPECT_EQ(read_all(*gguf, info.name), read_all(*folder, info.name)) << info.name;
  }
}

TEST(WeightFiles, RopeFactorsOfGgufDivideTheFrequencies) {
  auto folder = open_ok(fixtures("models/llama31_small"));
  ASSERT_TRUE(folder);
  ModelConfig plain = folder->config();
  plain.rope_scaling = RopeScaling::kNone;
  const std::vector<float> scaled = rope_inverse_frequencies(folder->config()),
                           base = rope_inverse_frequencies(plain);
  std::vector<float> factors;
  for (size_t i = 0; i < base.size(); ++i) factors.push_back(base[i] / scaled[i]);
  GgufWriter writer = as_gguf(*folder);
  writer.tensor("rope_freqs.weight", {16}, 0, {reinterpret_cast<const char*>(factors.data()), 64});
  ScratchFolder scratch;
  write_file(scratch / "model.gguf", writer.bytes());
  auto gguf = open_ok(scratch / "model.gguf");
  ASSERT_TRUE(gguf);
  const std::vector<float> found = rope_inverse_frequencies(gguf->config());
  ASSERT_EQ(found.size(), scaled.size());
  for (size_t i = 0; i < found.size(); ++i) EXPECT_NEAR(found[i], scaled[i], 2e-7f * scaled[i]);
  EXPECT_NE(scaled, base);
}

TEST(WeightFiles, AnyRectangleEqualsThatPartOfTheWhole) {
  TinyFolder tiny;
  auto opened = open_ok(tiny.path());
  auto dummy = WeightFiles::dummy(tiny.path(), 5);
  ASSERT_TRUE(opened && dummy);
  write_file(tiny / "model.gguf", as_gguf(*opened).bytes());
  auto gguf = open_ok(tiny / "model.gguf");
  for (const WeightFiles* files : {opened.get(), dummy->get(), gguf.get()}) {
    for (const TensorInfo& info : files->tensors()) {
      const int64_t rows = info.shape.size() == 2 ? info.shape[0] : 1, cols = info.shape.back();
      const std::vector<float> whole = read_all(*files, info.name);
      for (int64_t row : {int64_t{0}, rows / 2, rows - 1}) {
        for (int64_t col : {int64_t{0}, cols / 3}) {
          std::vector<float> part(static_cast<size_t>((rows - row) * (cols - col - 1)));
          ASSERT_TRUE(files->read(info.name, row, rows, col, cols - 1, part));
          size_t at = 0;
          for (int64_t r = row; r < rows; ++r) {
            for (int64_t c = col; c < cols - 1; ++c) {
              ASSERT_EQ(part[at++], whole[static_cast<size_t>(r * cols + c)]) << info.name;
            }
          }
        }
      }
    }
  }
}

TEST(WeightFiles, RandomWeightsAreNormalAndDependOnTheSeedOnly) {
  const std::string path = fixtures("models/llama31_small");
  auto a = WeightFiles::dummy(path, 1), b = WeightFiles::dummy(path + "/config.json", 1),
       c = WeightFiles::dummy(path, 2);
  ASSERT_TRUE(a && b && c);
  const std::string q = "model.layers.0.self_attn.q_proj.weight";
  const std::vector<float> values = read_all(**a, q);
  EXPECT_EQ(values, read_all(**b, q));
  EXPECT_NE(values, read_all(**c, q));
  EXPECT_NE(values, read_all(**a, "model.layers.1.self_attn.q_proj.weight"));
  EXPECT_EQ((*a)->fingerprint(), (*b)->fingerprint());
  EXPECT_NE((*a)->fingerprint(), (*c)->fingerprint());
  double sum = 0, squares = 0;
  for (float v : values) sum += v, squares += double(v) * v;
  EXPECT_NEAR(sum / double(values.size()), 0.0, 0.001);
  EXPECT_NEAR(std::sqrt(squares / double(values.size())), 0.02, 0.001);
  for (float v : read_all(**a, "model.norm.weight")) EXPECT_NEAR(v, 1.0f, 0.08f);
}

TEST(WeightFiles, FingerprintFollowsContentNotPlace) {
  TinyFolder tiny;
  const std::string before = open_ok(tiny.path())->fingerprint();
  EXPECT_EQ(before, open_ok(tiny.path())->fingerprint());
  ScratchFolder other;
  for (const char* name : {"config.json", "model.safetensors"})
    write_file(other / name, read_file(tiny / name));
  EXPECT_EQ(before, open_ok(other.path())->fingerprint());
  std::string bytes = read_file(tiny / "model.safetensors");
  bytes.back() ^= 1;
  write_file(tiny / "model.safetensors", bytes);
  EXPECT_NE(before, open_ok(tiny.path())->fingerprint());
  write_file(tiny / "model.safetensors", read_file(other / "model.safetensors"));
  json config = json::parse(kTinyConfig);
  config["rms_norm_eps"] = 1e-6;
  write_file(tiny / "config.json", config.dump());
  EXPECT_NE(before, open_ok(tiny.path())->fingerprint());
}

/// What the fingerprint was before was of samples: 64 bytes at each quarter of a tensor.
TEST(WeightFiles, EveryByteOfTheFilesCounts) {
  TinyFolder tiny;
  write_file(tiny / "model.gguf", as_gguf(*open_ok(tiny.path())).bytes());
  ScratchFolder shards;
  std::filesystem::copy(
      fixtures("models/llama2_small"), shards.path(),
      std::filesystem::copy_options::overwrite_existing | std::filesystem::copy_options::recursive);
  const std::pair<std::string, std::string> models[] = {
      {tiny.path(), tiny / "model.safetensors"},
      {tiny / "model.gguf", tiny / "model.gguf"},
      {shards.path(), shards / "model-00001-of-00002.safetensors"},
      {shards.path(), shards / "model-00002-of-00002.safetensors"}};
  for (const auto& [model, file] : models) {
    const auto before = open_ok(model);
    EXPECT_TRUE(before->fingerprint().starts_with("xxh3-"));
    EXPECT_EQ(before->fingerprint().size(), 37u);
    const std::string bytes = read_file(file);
    std::set<std::string> seen = {before->fingerprint()};
    size_t edits = 0, unsampled = 0;
    for (size_t at = bytes.size() - 1; at > bytes.size() / 2; at -= bytes.size() / 40) {
      std::string edited = bytes;
      edited[at] = static_cast<char>(edited[at] ^ 1);
      write_file(file, edited);
      const auto after = open_ok(model);
      EXPECT_TRUE(seen.insert(after->fingerprint()).second) << file << ", byte " << at;
      unsampled += after->sampled_fingerprint() == before->sampled_fingerprint();
      ++edits;
    }
    EXPECT_GE(edits, 15u);
    if (file.starts_with(shards.path())) {
      EXPECT_GT(unsampled, 0u) << "the samples did not tell";
    }
    write_file(file, bytes);
    EXPECT_EQ(open_ok(model)->fingerprint(), before->fingerprint());
  }
  const std::string before = open_ok(tiny.path())->fingerprint();
  write_file(tiny / "tokenizer.json", "{}");
  EXPECT_NE(open_ok(tiny.path())->fingerprint(), before) << "other words from the same weights";
}

TEST(WeightFiles, FilesThatChangeUnderTheReaderAreNamed) {
  TinyFolder tiny;
  const auto files = open_ok(tiny.path());
  EXPECT_TRUE(files->check_unchanged());
  const std::string path = tiny / "model.safetensors";
  {
    std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(-1, std::ios::end);
    file.put('x');
  }
  const auto changed = files->check_unchanged();
  ASSERT_FALSE(changed);
  EXPECT_EQ(changed.error().code, ErrorCode::kDataLoss);
  EXPECT_THAT(changed.error().message, HasSubstr(path));
  EXPECT_TRUE(open_ok(tiny.path())->check_unchanged());
}

TEST(WeightFiles, TiedHeadIsTheEmbedding) {
  TinyFolder tiny;
  auto files = open_ok(tiny.path());
  ASSERT_TRUE(files);
  EXPECT_EQ(files->find("lm_head.weight"), files->find("model.embed_tokens.weight"));
  EXPECT_EQ(read_all(*files, "lm_head.weight"), read_all(*files, "model.embed_tokens.weight"));
  auto untied = open_ok(fixtures("models/llama2_small"));
  ASSERT_TRUE(untied);
  EXPECT_NE(read_all(*untied, "lm_head.weight"), read_all(*untied, "model.embed_tokens.weight"));
}

TEST(WeightFiles, MissingTensorIsNamedWithTheFile) {
  TinyFolder tiny;
  json config = json::parse(kTinyConfig);
  config["tie_word_embeddings"] = false;
  write_file(tiny / "config.json", config.dump());
  const Error error = open_error(tiny.path());
  EXPECT_EQ(error.code, ErrorCode::kInvalidArgument);
  EXPECT_THAT(error.message, AllOf(HasSubstr(tiny.path()), HasSubstr("lm_head.weight is missing"),
                                   HasSubstr("[10, 8]")));
}

TEST(WeightFiles, ShapeMismatchNamesTensorExpectedAndFound) {
  TinyFolder tiny;
  json config = json::parse(kTinyConfig);
  config["intermediate_size"] = 16;
  write_file(tiny / "config.json", config.dump());
  EXPECT_THAT(open_error(tiny.path()).message,
              AllOf(HasSubstr(tiny.path()), HasSubstr("mlp.down_proj.weight"),
                    HasSubstr("expected shape [8, 16]"), HasSubstr("found [8, 12]")));
}

TEST(WeightFiles, UnreadableTypeIsNamedOnlyWhereItMatters) {
  TinyFolder tiny;
  std::string bytes = read_file(tiny / "model.safetensors");
  const auto with_header = [&](const std::string& from, const std::string& to) {
    uint64_t length = 0;
    std::memcpy(&length, bytes.data(), 8);
    std::string header = bytes.substr(8, length);
    header.replace(header.find(from), from.size(), to);
    write_file(tiny / "model.safetensors",
               raw(uint64_t{header.size()}) + header + bytes.substr(8 + length));
  };
  uint64_t length = 0;
  std::memcpy(&length, bytes.data(), 8);
  const size_t end = bytes.size() - 8 - length;
  const std::string whole = bytes;
  bytes += std::string(8, 1);
  with_header("{", R"({"model.layers.0.self_attn.rotary_emb.inv_freq":)"
                   R"({"dtype":"I64","shape":[1],"data_offsets":[)" +
                       std::to_string(end) + "," + std::to_string(end + 8) + "]},");
  EXPECT_TRUE(open_ok(tiny.path())) << "a tensor nobody needs may be of any type";
  bytes = whole;
  with_header("F32", "F64");
  EXPECT_THAT(open_error(tiny.path()).message,
              AllOf(HasSubstr("expected type F32, F16 or BF16"), HasSubstr("found F64")));
}

TEST(WeightFiles, ShardedIndexIsChecked) {
  ScratchFolder scratch;
  std::filesystem::copy(
      fixtures("models/llama2_small"), scratch.path(),
      std::filesystem::copy_options::overwrite_existing | std::filesystem::copy_options::recursive);
  ASSERT_TRUE(open_ok(scratch.path()));
  const std::string index_path = scratch / "model.safetensors.index.json";
  const json index = json::parse(read_file(index_path));
  json wrong = index;
  wrong["weight_map"]["lm_head.weight"] = "../model-00001-of-00002.safetensors";
  write_file(index_path, wrong.dump());
  EXPECT_THAT(open_error(scratch.path()).message,
              AllOf(HasSubstr("lm_head.weight"), HasSubstr("same folder")));
  const std::string first = index["weight_map"]["model.embed_tokens.weight"];
  const std::string second = first.find("00001") == std::string::npos
                                 ? "model-00001-of-00002.safetensors"
                                 : "model-00002-of-00002.safetensors";
  wrong = index;
  wrong["weight_map"]["model.embed_tokens.weight"] = second;
  write_file(index_path, wrong.dump());
  EXPECT_THAT(open_error(scratch.path()).message,
              AllOf(HasSubstr("model.embed_tokens.weight"), HasSubstr(second)));
  write_file(index_path, index.dump());
  std::filesystem::remove(scratch / second);
  const Error error = open_error(scratch.path());
  EXPECT_EQ(error.code, ErrorCode::kNotFound);
  EXPECT_THAT(error.message, HasSubstr(second));
}

/// A shard of some tensors: F32, one after the other.
std::string shard(const std::map<std::string, std::pair<std::vector<int64_t>, float>>& tensors) {
  json header;
  std::string data;
  for (const auto& [name, tensor] : tensors) {
    const auto& [shape, value] = tensor;
    int64_t values = 1;
    for (const int64_t size : shape) values *= size;
    const size_t begin = data.size();
    for (int64_t i = 0; i < values; ++i) data += raw(value);
    header[name] = {{"dtype", "F32"}, {"shape", shape}, {"data_offsets", {begin, data.size()}}};
  }
  const std::string text = header.dump();
  return raw(uint64_t{text.size()}) + text + data;
}

/// Both orders of the shards' names: neither the first nor the last may win by its place.
TEST(WeightFiles, TheIndexSaysWhichCopyOfATensorCounts) {
  const std::string q = "model.layers.0.self_attn.q_proj.weight";
  for (const std::string right : {"model-1.safetensors", "model-2.safetensors"}) {
    const std::string other =
        right == "model-1.safetensors" ? "model-2.safetensors" : "model-1.safetensors";
    TinyFolder tiny;
    const auto whole = open_ok(tiny.path());
    json index;
    for (const TensorInfo& info : whole->tensors())
      index["weight_map"][info.name] = "model-0.safetensors";
    index["weight_map"][q] = right;
    std::filesystem::rename(tiny / "model.safetensors", tiny / "model-0.safetensors");
    index["weight_map"]["of.right"] = right;
    index["weight_map"]["of.other"] = other;
    write_file(tiny / right, shard({{q, {{8, 8}, 3.0f}}, {"of.right", {{1}, 0.0f}}}));
    write_file(tiny / other, shard({{q, {{8, 8}, 7.0f}}, {"of.other", {{1}, 0.0f}}}));
    write_file(tiny / "model.safetensors.index.json", index.dump());
    const auto files = open_ok(tiny.path());
    ASSERT_TRUE(files);
    EXPECT_EQ(read_all(*files, q), std::vector<float>(64, 3.0f));
    EXPECT_THAT(files->remarks(),
                ::testing::Contains(AllOf(HasSubstr(q + " in " + other), HasSubstr("not used"))));
    // A tensor that the index does not name is taken where it is; two of it say nothing.
    index["weight_map"].erase(q);
    write_file(tiny / "model.safetensors.index.json", index.dump());
    const Error twice = open_error(tiny.path());
    EXPECT_EQ(twice.code, ErrorCode::kDataLoss);
    EXPECT_THAT(twice.message, AllOf(HasSubstr(q), HasSubstr("which of them counts")));
  }
}

TEST(WeightFiles, TensorsTileTheData) {
  TinyFolder tiny;
  const std::string path = tiny / "model.safetensors";
  const auto refused = [&](const std::string& bytes) {
    write_file(path, bytes);
    const Error error = open_error(tiny.path());
    EXPECT_EQ(error.code, ErrorCode::kDataLoss);
    return error.message;
  };
  const std::string good = read_file(path);
  uint64_t length = 0;
  std::memcpy(&length, good.data(), 8);
  const json header = json::parse(good.substr(8, length));
  const std::string data = good.substr(8 + length);
  const auto with = [&](const json& changed, const std::string& bytes) {
    const std::string text = changed.dump();
    return raw(uint64_t{text.size()}) + text + bytes;
  };
  EXPECT_THAT(refused(good + "tail"), AllOf(HasSubstr(path), HasSubstr("4 more bytes")));
  const std::string norm = "model.norm.weight";
  json moved = header;
  moved[norm]["data_offsets"] = {0, 32};
  EXPECT_THAT(refused(with(moved, data)),
              ::testing::AnyOf(HasSubstr("overlap at byte 0"), HasSubstr("belong to no tensor")));
  json twice = header;
  twice["another"] = {{"dtype", "F32"}, {"shape", {2}}, {"data_offsets", {4, 12}}};
  EXPECT_THAT(refused(with(twice, data)), AllOf(HasSubstr("another"), HasSubstr("overlap")));
  json hole = header;
  for (auto& [name, entry] : hole.items())
    for (json& offset : entry["data_offsets"]) offset = offset.get<uint64_t>() + 4;
  EXPECT_THAT(refused(with(hole, "abcd" + data)), HasSubstr("bytes 0 to 4"));
  write_file(path, good);
  EXPECT_TRUE(open_ok(tiny.path()));

  write_file(tiny / "model.gguf", as_gguf(*open_ok(tiny.path())).bytes() + std::string(100, 'x'));
  EXPECT_THAT(open_ok(tiny / "model.gguf")->remarks(),
              ElementsAre(HasSubstr("100 bytes behind the last tensor")));
  GgufWriter gguf = as_gguf(*open_ok(tiny.path()));
  gguf.tensor("a", {16}, 0, std::string(64, '\0'));
  gguf.tensor("b", {16}, 0, std::string(64, '\0'));
  std::string bytes = gguf.bytes();
  // The name of b, then: dimensions (u32), size (u64), type (u32), offset (u64).
  const size_t offset = bytes.find(GgufWriter::string("b") + raw(uint32_t{1})) + 9 + 16;
  uint64_t place = 0;
  std::memcpy(&place, bytes.data() + offset, 8);
  bytes.replace(offset, 8, raw(place - 32));
  write_file(tiny / "model.gguf", bytes);
  EXPECT_THAT(open_error(tiny / "model.gguf").message, HasSubstr("tensors a and b overlap"));
}

TEST(WeightFiles, TensorsThatNobodyNeedsAreNamedAndInALayerRefused) {
  TinyFolder tiny;
  const std::string path = tiny / "model.safetensors", good = read_file(path);
  const auto with = [&](const std::string& name, const std::string& values) {
    uint64_t length = 0;
    std::memcpy(&length, good.data(), 8);
    json header = json::parse(good.substr(8, length));
    const size_t begin = good.size() - 8 - length;
    header[name] = {{"dtype", "F32"},
                    {"shape", {values.size() / 32, 8}},
                    {"data_offsets", {begin, begin + values.size()}}};
    const std::string text = header.dump();
    write_file(path, raw(uint64_t{text.size()}) + text + good.substr(8 + length) + values);
  };
  EXPECT_THAT(open_ok(tiny.path())->remarks(), IsEmpty());
  with("vision.patch.weight", std::string(64, '\0'));
  EXPECT_THAT(open_ok(tiny.path())->remarks(),
              ElementsAre(AllOf(HasSubstr(tiny.path()), HasSubstr("vision.patch.weight"))));
  with("model.layers.1.mlp.up_proj.weight", std::string(64, '\0'));  // behind the last layer
  EXPECT_THAT(open_ok(tiny.path())->remarks(), ElementsAre(HasSubstr("model.layers.1.mlp")));
  with("model.layers.0.rotary_emb.inv_freq", std::string(32, '\0'));
  EXPECT_THAT(open_ok(tiny.path())->remarks(), IsEmpty());
  for (const char* name : {"model.layers.0.mlp.up_proj.bias", "model.layers.0.self_attn.q_norm"}) {
    with(name, std::string(32, '\0'));
    const Error error = open_error(tiny.path());
    EXPECT_EQ(error.code, ErrorCode::kInvalidArgument);
    EXPECT_THAT(error.message, AllOf(HasSubstr(name), HasSubstr("mlp_bias")));
  }
  // A tied model with a head of its own: what it holds decides whether that is worth a word.
  std::string embedding;
  for (const float value :
       read_all(**WeightFiles::dummy(tiny.path(), 1), "model.embed_tokens.weight"))
    embedding += raw(value);
  with("lm_head.weight", embedding);
  EXPECT_THAT(open_ok(tiny.path())->remarks(), IsEmpty());
  embedding.back() ^= 1;
  with("lm_head.weight", embedding);
  EXPECT_THAT(open_ok(tiny.path())->remarks(), ElementsAre(HasSubstr("lm_head.weight")));

  write_file(path, good);
  GgufWriter gguf = as_gguf(*open_ok(tiny.path()));
  gguf.tensor("blk.0.attn_q_norm.weight", {4}, 0, std::string(16, '\0'));
  write_file(tiny / "model.gguf", gguf.bytes());
  EXPECT_THAT(open_error(tiny / "model.gguf").message, HasSubstr("blk.0.attn_q_norm.weight"));
}

TEST(WeightFiles, GgufRefusals) {
  TinyFolder tiny;
  auto folder = open_ok(tiny.path());
  ASSERT_TRUE(folder);
  const std::string path = tiny / "model.gguf";
  const auto message = [&](const std::string& bytes) {
    write_file(path, bytes);
    return open_error(path).message;
  };
  const std::string good = as_gguf(*folder).bytes();
  const auto replaced = [&](const std::string& from, const std::string& to) {
    std::string bytes = good;
    bytes.replace(bytes.find(from), from.size(), to);
    return message(bytes);
  };
  EXPECT_THAT(replaced("GGUF", "GGML"), AllOf(HasSubstr(path), HasSubstr("no GGUF file")));
  EXPECT_THAT(replaced(raw(uint32_t{3}), raw(uint32_t{1})), HasSubstr("found 1"));
  EXPECT_THAT(replaced(raw(uint32_t{3}), raw(uint32_t{0x03000000})), HasSubstr("big-endian"));
  EXPECT_THAT(replaced("\x05\0\0\0\0\0\0\0llama"s, "\x05\0\0\0\0\0\0\0qwen2"s),
              HasSubstr("found qwen2"));
  EXPECT_THAT(replaced("llama.embedding_length", "llama.embeddinq_length"),
              AllOf(HasSubstr("llama.embedding_length is missing")));
  EXPECT_THAT(replaced("blk.0.attn_q.weight", "blk.0.attn_x.weight"),
              AllOf(HasSubstr("blk.0.attn_q.weight is missing"), HasSubstr("[8, 8]")));
  EXPECT_THAT(message(good.substr(0, good.size() - 64)),
              AllOf(HasSubstr("expected"), HasSubstr("truncated")));
  GgufWriter odd = as_gguf(*folder);
  odd.tensor("extra", {4}, 99, std::string(16, '\0'));
  EXPECT_THAT(message(odd.bytes()),
              AllOf(HasSubstr("tensor extra"), HasSubstr("ggml type number 99")));
  GgufWriter split = as_gguf(*folder);
  split.integer("split.count", 2);
  EXPECT_THAT(message(split.bytes()), HasSubstr("split"));
  GgufWriter experts = as_gguf(*folder);
  experts.integer("llama.expert_count", 8);
  EXPECT_THAT(message(experts.bytes()), HasSubstr("expert_count"));
  EXPECT_THAT(message("version https://git-lfs.github.com/spec/v1\n"), HasSubstr("Git LFS"));
}

TEST(WeightFiles, PathsThatHoldNoModel) {
  ScratchFolder scratch;
  EXPECT_EQ(open_error(scratch / "nothing").code, ErrorCode::kNotFound);
  EXPECT_THAT(open_error(scratch.path()).message,
              AllOf(HasSubstr(scratch.path()), HasSubstr("config.json")));
  write_file(scratch / "config.json", kTinyConfig);
  EXPECT_THAT(open_error(scratch.path()).message, HasSubstr("model.safetensors"));
  EXPECT_THAT(open_error(scratch / "config.json").message, HasSubstr("expected the folder"));
  write_file(scratch / "model.safetensors", "");
  EXPECT_EQ(open_error(scratch.path()).code, ErrorCode::kDataLoss);
}

TEST(WeightFiles, ReadsOutsideATensorAreErrors) {
  TinyFolder tiny;
  auto files = open_ok(tiny.path());
  ASSERT_TRUE(files);
  std::vector<float> out(8);
  const std::string name = "model.embed_tokens.weight";  // [10, 8]
  EXPECT_TRUE(files->read(name, 9, 10, 0, 8, out));
  EXPECT_EQ(files->read(name, 10, 11, 0, 8, out).error().code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(files->read(name, -1, 0, 0, 8, out).error().code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(files->read(name, 0, 1, 1, 9, out).error().code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(files->read(name, 0, 2, 0, 8, out).error().code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(files->read("model.nothing", 0, 1, 0, 8, out).error().code, ErrorCode::kNotFound);
  EXPECT_TRUE(files->read(name, 3, 3, 0, 8, std::span<float>()));
}

TEST(ResolveModel, NamesWhatToDo) {
  ScratchFolder scratch;
  ::setenv("TAILOR_CACHE", scratch.path().c_str(), 1);
  auto missing = resolve_model("default");
  ASSERT_FALSE(missing);
  EXPECT_THAT(missing.error().message, AllOf(HasSubstr("launch/setup"), HasSubstr(scratch.path())));
  std::filesystem::create_directories(scratch / "models/default");
  write_file(default_model_path(), "x");
  EXPECT_EQ(*resolve_model("default"), default_model_path());
  EXPECT_EQ(default_model_path(), scratch / "models/default/SmolLM2-135M-Instruct.Q4_1.gguf");
  EXPECT_EQ(*resolve_model(scratch.path()), scratch.path());
  EXPECT_EQ(resolve_model(scratch / "no").error().code, ErrorCode::kNotFound);
  ::unsetenv("TAILOR_CACHE");
}

}  // namespace
}  // namespace tailor::weights
