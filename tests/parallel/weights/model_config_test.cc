#include "parallel/weights/model_config.h"

#include <gmock/gmock.h>

#include <nlohmann/json.hpp>

#include "parallel/weights/config_json.h"
#include "tests/parallel/weights/test_files.h"

namespace tailor::weights {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using ::testing::HasSubstr;

json llama() { return json::parse(kTinyConfig); }

Result<ModelConfig> parse(const json& config, const json& generation = {}) {
  ScratchFolder folder;
  write_file(folder / "config.json", config.dump());
  if (!generation.is_null()) write_file(folder / "generation_config.json", generation.dump());
  return config_from_json(folder / "config.json");
}

std::string refusal(const json& config) {
  auto result = parse(config);
  if (result) return "accepted";
  EXPECT_EQ(result.error().code, ErrorCode::kInvalidArgument);
  return result.error().message;
}

TEST(RopeInverseFrequencies, EqualTransformers) {
  const json settings = json::parse(read_file(fixtures("quant/rope.json")));
  ASSERT_EQ(settings.size(), 6u);
  for (const json& s : settings) {
    ModelConfig config;
    config.head_dim = s["head_dim"];
    config.rope_theta = s["rope_theta"];
    const std::string type = s["rope_type"];
    config.rope_scaling = type == "llama3"   ? RopeScaling::kLlama3
                          : type == "linear" ? RopeScaling::kLinear
                                             : RopeScaling::kNone;
    config.rope_factor = s.value("factor", 1.0f);
    config.rope_low_freq_factor = s.value("low_freq_factor", 1.0f);
    config.rope_high_freq_factor = s.value("high_freq_factor", 4.0f);
    config.rope_original_max_position = s.value("original_max_position_embeddings", 0);
    const std::vector<float> expected = s["inverse_frequencies"],
                             found = rope_inverse_frequencies(config);
    ASSERT_EQ(found.size(), expected.size());
    for (size_t i = 0; i < found.size(); ++i) {
      // One or two roundings: torch's vectorized pow is not the C library's.
      EXPECT_NEAR(found[i], expected[i], 3e-7f * expected[i]) << s.dump() << " at " << i;
    }
  }
}

TEST(ConfigFromJson, TheMakersAdviceOnSamplingIsTheDefault) {
  const auto advised = [](const json& generation) {
    auto config = parse(llama(), generation);
    EXPECT_TRUE(config) << config.error().message;
    const SamplingDefaults s = config ? config->sampling : SamplingDefaults{};
    return std::vector<float>{s.temperature, static_cast<float>(s.top_k), s.top_p, s.min_p,
                              s.repetition_penalty};
  };
  EXPECT_EQ(advised(json()), (std::vector<float>{0.7f, 0, 0.95f, 0, 1}));
  EXPECT_EQ(advised({{"do_sample", true}, {"temperature", 0.5}, {"top_p", nullptr}}),
            (std::vector<float>{0.5f, 0, 0.95f, 0, 1}));
  EXPECT_EQ(
      advised({{"top_k", 50}, {"top_p", 0.25}, {"min_p", 0.125}, {"repetition_penalty", 1.5}}),
      (std::vector<float>{0.7f, 50, 0.25f, 0.125f, 1.5f}));
  EXPECT_EQ(advised({{"do_sample", false}, {"temperature", 1.0}})[0], 0) << "greedy";
  const auto bad = parse(llama(), {{"temperature", -1}});
  ASSERT_FALSE(bad);
  EXPECT_THAT(bad.error().message, AllOf(HasSubstr("generation_config.json"),
                                         HasSubstr("temperature"), HasSubstr("-1")));
}

TEST(ConfigFromJson, BothSpellingsOfRopeMeanTheSame) {
  json older = llama(), newer = llama();
  older["rope_theta"] = 500000.0;
  older["rope_scaling"] = {{"type", "llama3"},
                           {"factor", 8.0},
                           {"low_freq_factor", 1.0},
                           {"high_freq_factor", 4.0},
                           {"original_max_position_embeddings", 32}};
  newer["rope_parameters"] = older["rope_scaling"];
  newer["rope_parameters"].erase("type");
  newer["rope_parameters"]["rope_type"] = "llama3";
  newer["rope_parameters"]["rope_theta"] = 500000.0;
  const auto a = parse(older), b = parse(newer);
  ASSERT_TRUE(a && b);
  EXPECT_EQ(a->rope_scaling, RopeScaling::kLlama3);
  EXPECT_EQ(a->rope_theta, 500000.0f);
  EXPECT_EQ(rope_inverse_frequencies(*a), rope_inverse_frequencies(*b));
  const auto plain = parse(llama());
  ASSERT_TRUE(plain);
  EXPECT_NE(rope_inverse_frequencies(*a), rope_inverse_frequencies(*plain));
}

TEST(ConfigFromJson, EndTokensOfTheGenerationConfigGoFirst) {
  json config = llama();
  config["eos_token_id"] = 3;
  EXPECT_EQ(parse(config)->eos_tokens, std::vector<TokenId>{3});
  EXPECT_EQ(parse(config, {{"eos_token_id", {4, 5}}})->eos_tokens, (std::vector<TokenId>{4, 5}));
  EXPECT_EQ(parse(config, {{"eos_token_id", nullptr}})->eos_tokens, std::vector<TokenId>{3});
}

TEST(ConfigFromJson, DefaultsOfOldConfigs) {
  json config = llama();
  config.erase("num_key_value_heads");
  config.erase("architectures");
  config["model_type"] = "llama";
  const auto parsed = parse(config);
  ASSERT_TRUE(parsed) << parsed.error().message;
  EXPECT_EQ(parsed->num_kv_heads, 2);
  EXPECT_EQ(parsed->head_dim, 4);
  EXPECT_EQ(parsed->rope_theta, 10000.0f);
  EXPECT_TRUE(parsed->eos_tokens.empty());
}

TEST(ConfigFromJson, MistralIsLlamaUnlessItsWindowSlides) {
  json config = llama();
  config["architectures"] = {"MistralForCausalLM"};
  config["sliding_window"] = nullptr;
  EXPECT_TRUE(parse(config));
  config["sliding_window"] = 4096;
  EXPECT_THAT(refusal(config),
              AllOf(HasSubstr("config.json"), HasSubstr("sliding_window"), HasSubstr("4096")));
}

TEST(ConfigFromJson, RefusalsNameWhatWasExpectedAndFound) {
  const auto with = [](const char* key, json value) {
    json config = llama();
    config[key] = std::move(value);
    return refusal(config);
  };
  EXPECT_THAT(with("architectures", {"Qwen2ForCausalLM"}),
              AllOf(HasSubstr("config.json"), HasSubstr("LlamaForCausalLM"),
                    HasSubstr("found Qwen2ForCausalLM")));
  EXPECT_THAT(with("hidden_act", "gelu"), AllOf(HasSubstr("silu"), HasSubstr("found gelu")));
  EXPECT_THAT(with("quantization_config", {{"quant_method", "gptq"}}), HasSubstr("gptq"));
  EXPECT_THAT(with("rope_scaling", {{"rope_type", "yarn"}, {"factor", 4}}),
              HasSubstr("found yarn"));
  EXPECT_THAT(with("rope_scaling", "linear"), HasSubstr("an object"));
  EXPECT_THAT(with("hidden_size", "big"),
              AllOf(HasSubstr("hidden_size"), HasSubstr("found \"big\"")));
  EXPECT_THAT(with("hidden_size", -1), HasSubstr("found -1"));
  EXPECT_THAT(with("hidden_size", 1e30), HasSubstr("hidden_size"));
  EXPECT_THAT(with("num_key_value_heads", 3),
              AllOf(HasSubstr("multiple of"), HasSubstr("found 2")));
  EXPECT_THAT(with("num_attention_heads", 0), HasSubstr("num_attention_heads"));
  EXPECT_THAT(with("head_dim", 3), HasSubstr("even"));
  EXPECT_THAT(with("eos_token_id", 10), AllOf(HasSubstr("eos_token_id"), HasSubstr("found 10")));
  EXPECT_THAT(with("eos_token_id", "x"), HasSubstr("eos_token_id"));
  EXPECT_THAT(with("rms_norm_eps", 0), HasSubstr("rms_norm_eps"));
  EXPECT_THAT(with("tie_word_embeddings", 1), HasSubstr("true or false"));
}

}  // namespace
}  // namespace tailor::weights
