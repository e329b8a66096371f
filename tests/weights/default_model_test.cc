// The default model as launch/setup puts it into the cache: opens, and every tensor can be read.
#include "weights/default_model.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "weights/weight_files.h"

namespace tailor::weights {
namespace {

std::unique_ptr<WeightFiles> open_default() {
  auto path = resolve_model("default");
  if (!path) return nullptr;
  auto opened = WeightFiles::open(*path);
  EXPECT_TRUE(opened.has_value()) << opened.error().message;
  return opened ? std::move(*opened) : nullptr;
}

#define OPEN_OR_SKIP(name)    \
  auto name = open_default(); \
  if (!name) GTEST_SKIP() << "the default model is not in the cache (launch/setup puts it there)"

TEST(DefaultModel, ConfigIsSmolLm2) {
  OPEN_OR_SKIP(files);
  const ModelConfig& c = files->config();
  EXPECT_EQ(c.hidden_size, 576);
  EXPECT_EQ(c.intermediate_size, 1536);
  EXPECT_EQ(c.num_layers, 30);
  EXPECT_EQ(c.num_heads, 9);
  EXPECT_EQ(c.num_kv_heads, 3);
  EXPECT_EQ(c.head_dim, 64);
  EXPECT_EQ(c.vocab_size, 49152);
  EXPECT_EQ(c.max_position, 8192);
  EXPECT_FLOAT_EQ(c.rope_theta, 100000.0f);
  EXPECT_FLOAT_EQ(c.rms_norm_eps, 1e-5f);
  EXPECT_TRUE(c.tie_embeddings);
  EXPECT_EQ(c.eos_tokens, std::vector<TokenId>{2});
  ASSERT_NE(files->vocabulary(), nullptr);
  EXPECT_EQ(files->vocabulary()->tokens.size(), 49152u);
  EXPECT_EQ(files->vocabulary()->merges.size(), 48900u);
  EXPECT_EQ(files->vocabulary()->pre, "smollm");
  EXPECT_EQ(files->find("lm_head.weight"), files->find("model.embed_tokens.weight"));
}

TEST(DefaultModel, EveryTensorReads) {
  OPEN_OR_SKIP(files);
  EXPECT_EQ(files->tensors().size(), 272u);
  int64_t values = 0;
  std::vector<float> out;
  for (const TensorInfo& info : files->tensors()) {
    const bool two = info.shape.size() == 2;
    const int64_t rows = two ? info.shape[0] : 1, cols = info.shape.back();
    out.assign(static_cast<size_t>(rows * cols), NAN);
    auto read = files->read(info.name, 0, rows, 0, cols, out);
    ASSERT_TRUE(read.has_value()) << read.error().message;
    double squares = 0;
    for (float v : out) squares += double(v) * v;
    const double rms = std::sqrt(squares / double(out.size()));
    EXPECT_GT(rms, 1e-3) << info.name;  // also false for NaN
    EXPECT_LT(rms, 100.0) << info.name;
    values += rows * cols;
  }
  EXPECT_EQ(values, 134515008);
}

}  // namespace
}  // namespace tailor::weights
