// EncoderNet as the trainer uses it: spans of layers, hidden states of transformers, gradients,
// parameters, overlays.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "predict/model/encoder.h"
#include "predict/model/encoder_torch.h"

namespace tailor::predict {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::HasSubstr;

const std::string kFixtures = std::string(TAILOR_SOURCE_DIR) + "/tests/fixtures/encoder/";
const std::vector<std::string> kSmall = {"bert_small", "deberta_small", "deberta_other_small"};
const std::vector<std::vector<TokenId>> kRows = {{1, 7, 8, 9, 10, 2}, {1, 20, 2}, {1, 30, 31, 2}};

fs::path scratch_file(const std::string& name) {
  return fs::path(testing::TempDir()) / (std::to_string(getpid()) + "_" + name);
}

std::shared_ptr<EncoderNet> load(const std::string& name) {
  at::set_num_threads(1);  // tests share the cores
  auto net = EncoderNet::load(kFixtures + name);
  EXPECT_TRUE(net.has_value()) << net.error().message;
  return net ? *net : nullptr;
}

double largest(const at::Tensor& a, const at::Tensor& b) {
  return (a - b).abs().max().item<double>();
}

/// A safetensors file of F32 tensors.
void write_safetensors(const fs::path& path,
                       const std::vector<std::pair<std::string, at::Tensor>>& tensors) {
  json header;
  std::string data;
  for (const auto& [name, tensor] : tensors) {
    const at::Tensor whole = tensor.detach().contiguous();
    const size_t begin = data.size();
    data.append(static_cast<const char*>(whole.const_data_ptr()), whole.nbytes());
    header[name] = {
        {"dtype", "F32"}, {"shape", whole.sizes().vec()}, {"data_offsets", {begin, data.size()}}};
  }
  const std::string head = header.dump();
  const uint64_t size = head.size();
  std::ofstream(path, std::ios::binary)
      << std::string(reinterpret_cast<const char*>(&size), 8) << head << data;
}

class EncoderNetTest : public testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Small, EncoderNetTest, testing::ValuesIn(kSmall));

TEST_P(EncoderNetTest, HiddenStatesEqualTransformers) {
  const auto net = load(GetParam());
  std::ifstream file(kFixtures + GetParam() + ".jsonl");
  int compared = 0;
  for (std::string line; std::getline(file, line);) {
    const json entry = json::parse(line);
    if (!entry.contains("hidden")) continue;
    const std::vector<std::vector<TokenId>> rows = {entry["token_ids"]};
    const TokenBatch batch = pad_tokens(rows);
    EXPECT_FALSE(batch.mask.defined());
    const at::Tensor hidden = net->forward_from(0, net->embed(batch.ids, {}), {});
    for (int64_t t = 0; t < hidden.size(1); ++t) {
      const std::vector<float> expected = entry["hidden"][static_cast<size_t>(t)];
      EXPECT_LT(largest(hidden[0][t], at::tensor(expected)), 1e-4);
    }
    ++compared;
  }
  EXPECT_GE(compared, 1);
}

TEST_P(EncoderNetTest, SpansOfLayersJoin) {
  const auto net = load(GetParam());
  const TokenBatch batch = pad_tokens(kRows);
  ASSERT_TRUE(batch.mask.defined());
  const at::Tensor start = net->embed(batch.ids, batch.mask);
  const at::Tensor whole = net->forward_from(0, start, batch.mask);
  const int64_t layers = net->config().num_layers;
  for (int64_t cut = 0; cut <= layers; ++cut) {
    const at::Tensor below = net->forward_from(0, start, batch.mask, false, cut);
    EXPECT_TRUE(net->forward_from(cut, below, batch.mask).equal(whole)) << cut;
  }
}

TEST_P(EncoderNetTest, GradientsOfTheLastLayerEqualDifferences) {
  const auto net = load(GetParam());
  const int64_t last = net->config().num_layers - 1;
  const TokenBatch batch = pad_tokens(kRows);
  at::Tensor below;
  {
    const at::NoGradGuard frozen;
    below = net->forward_from(0, net->embed(batch.ids, batch.mask), batch.mask, false, last);
  }
  const at::Tensor weights = at::linspace(-1, 1, 3 * net->config().hidden_size);
  const auto loss = [&] {
    return (pool(net->forward_from(last, below, batch.mask), batch.mask) * weights).sum();
  };
  const auto parameters = net->parameters(last);
  for (const auto& [name, tensor] : parameters) tensor.set_requires_grad(true);
  loss().backward();
  EXPECT_FALSE(below.grad().defined());
  int checked = 0;
  for (const auto& [name, tensor] : parameters) {
    ASSERT_TRUE(tensor.grad().defined()) << name;
    const at::NoGradGuard frozen;
    at::Tensor flat = tensor.detach().view(-1);  // the same storage
    const int64_t place = flat.numel() / 2;
    const double gradient = tensor.grad().view(-1)[place].item<double>();
    const float kept = flat[place].item<float>(), step = 2e-3f;
    flat[place] = kept + step;
    const double above = loss().item<double>();
    flat[place] = kept - step;
    const double under = loss().item<double>();
    flat[place] = kept;
    EXPECT_NEAR((above - under) / (2 * step), gradient, 2e-2 + 0.03 * std::abs(gradient)) << name;
    checked += std::abs(gradient) > 0.05;
  }
  EXPECT_GE(checked, 6);  // that the comparison says something
}

TEST_P(EncoderNetTest, DropoutOnlyInTraining) {
  const auto net = load(GetParam());
  const TokenBatch batch = pad_tokens(kRows);
  const at::Tensor start = net->embed(batch.ids, batch.mask);
  const at::Tensor quiet = net->forward_from(0, start, batch.mask);
  EXPECT_TRUE(net->forward_from(0, start, batch.mask).equal(quiet));
  EXPECT_GT(largest(net->forward_from(0, start, batch.mask, /*training=*/true), quiet), 0.01);
}

TEST_P(EncoderNetTest, OverlayReplacesLayers) {
  const auto tuned = load(GetParam()), plain = load(GetParam());
  EXPECT_EQ(tuned->fingerprint(), plain->fingerprint());
  const int64_t last = tuned->config().num_layers - 1;
  const auto parameters = tuned->parameters(last);
  EXPECT_THAT(parameters.front().first, HasSubstr("encoder.layer." + std::to_string(last)));
  EXPECT_EQ(tuned->parameters(0).size() % parameters.size(), 0u);
  EXPECT_TRUE(tuned->parameters(last + 1).empty());
  for (const auto& [name, tensor] : parameters) at::Tensor(tensor).add_(0.1);
  const fs::path path = scratch_file(GetParam() + "_overlay.safetensors");
  write_safetensors(path, parameters);
  const auto done = plain->overlay(path);
  ASSERT_TRUE(done.has_value()) << done.error().message;
  const TokenBatch batch = pad_tokens(kRows);
  const auto features = [&](const EncoderNet& net) {
    return pool(net.forward_from(0, net.embed(batch.ids, batch.mask), batch.mask), batch.mask);
  };
  EXPECT_TRUE(features(*plain).equal(features(*tuned)));
  EXPECT_GT(largest(features(*plain), features(*load(GetParam()))), 1e-3);
  EXPECT_NE(plain->fingerprint(), load(GetParam())->fingerprint());
  fs::remove(path);
}

TEST(EncoderNet, OverlayOfAnotherModelChangesNothing) {
  const auto net = load("bert_small");
  const std::string before = net->fingerprint();
  const fs::path path = scratch_file("foreign_overlay.safetensors");
  auto tensors = net->parameters(2);
  for (auto& [name, tensor] : tensors) tensor = tensor + 1;
  tensors.emplace_back("encoder.layer.9.output.dense.bias", at::zeros({32}));
  write_safetensors(path, tensors);
  const auto unknown = net->overlay(path);
  ASSERT_FALSE(unknown.has_value());
  EXPECT_THAT(unknown.error().message, HasSubstr("encoder.layer.9.output.dense.bias"));
  tensors.back() = {"encoder.layer.0.output.dense.bias", at::zeros({31})};
  write_safetensors(path, tensors);
  const auto shape = net->overlay(path);
  ASSERT_FALSE(shape.has_value());
  EXPECT_THAT(shape.error().message, HasSubstr("[31]"));
  const TokenBatch batch = pad_tokens(kRows);
  const auto fresh = load("bert_small");
  EXPECT_TRUE(net->forward_from(0, net->embed(batch.ids, batch.mask), batch.mask)
                  .equal(fresh->forward_from(0, fresh->embed(batch.ids, batch.mask), batch.mask)));
  EXPECT_EQ(net->fingerprint(), before);
  fs::remove(path);
}

}  // namespace
}  // namespace tailor::predict
