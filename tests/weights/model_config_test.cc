#include "weights/model_config.h"

#include <gmock/gmock.h>

#include <nlohmann/json.hpp>

#include "tests/weights/test_files.h"
#include "weights/config_json.h"

namespace tailor::weights {
namespace {

using namespace std::string_literals;
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

/// Every form that transformers knows is what it means there, or refused by its name.
TEST(ConfigFromJson, RopeFormsAreRightOrNamed) {
  const auto plain = parse(llama());
  ASSERT_TRUE(plain);
  const auto with = [](const char* spelling, const json& settings) {
    json config = llama();
    config[spelling] = settings;
    return config;
  };
  for (const char* spelling : {"rope_scaling", "rope_parameters"}) {
    const auto same_as_plain = [&](const json& settings) {
      const auto parsed = parse(with(spelling, settings));
      EXPECT_TRUE(parsed) << settings << parsed.error().message;
      return parsed && rope_inverse_frequencies(*parsed) == rope_inverse_frequencies(*plain);
    };
    EXPECT_TRUE(same_as_plain(json::object()));
    EXPECT_TRUE(same_as_plain({{"rope_type", "default"}}));
    EXPECT_TRUE(same_as_plain({{"type", "default"}, {"rope_theta", 10000.0}}));
    // Dynamic NTK stretches behind max_position_embeddings only, where no answer goes.
    EXPECT_TRUE(same_as_plain({{"rope_type", "dynamic"}, {"factor", 4.0}}));
    EXPECT_TRUE(same_as_plain({{"full_attention", {{"rope_type", "default"}}}}));

    const auto linear = parse(with(spelling, {{"rope_type", "linear"}, {"factor", 4}}));
    const auto nested =
        parse(with(spelling, {{"full_attention", {{"rope_type", "linear"}, {"factor", 4}}}}));
    ASSERT_TRUE(linear && nested);
    const auto quarter = rope_inverse_frequencies(*linear), base = rope_inverse_frequencies(*plain);
    EXPECT_EQ(rope_inverse_frequencies(*nested), quarter);
    for (size_t i = 0; i < base.size(); ++i) EXPECT_FLOAT_EQ(quarter[i], base[i] / 4);

    const auto refused = [&](const json& settings, const std::string& name) {
      EXPECT_THAT(refusal(with(spelling, settings)), AllOf(HasSubstr(spelling), HasSubstr(name)));
    };
    refused({{"rope_type", "linear"}}, "\"factor\" with type linear");
    refused({{"type", "linear"}, {"factor", nullptr}}, "\"factor\" with type linear");
    refused({{"factor", 4.0}}, "rope_type");
    refused({{"rope_type", "dynamic"}}, "factor");
    refused({{"rope_type", "dynamic"}, {"factor", 2}, {"alpha", 1000}}, "alpha");
    refused({{"rope_type", "dynamic"}, {"factor", 2}, {"original_max_position_embeddings", 32}},
            "original_max_position_embeddings");
    for (const char* type : {"yarn", "longrope", "su", "mrope", "proportional", "ntk"})
      refused({{"rope_type", type}, {"factor", 4.0}}, "found "s + type);
    const json whole = {{"rope_type", "llama3"},
                        {"factor", 8.0},
                        {"low_freq_factor", 1.0},
                        {"high_freq_factor", 4.0},
                        {"original_max_position_embeddings", 32}};
    EXPECT_TRUE(parse(with(spelling, whole)));
    for (const char* key :
         {"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"}) {
      json part = whole;
      part.erase(key);
      refused(part, key);
    }
    refused({{"full_attention", {{"rope_type", "default"}}},
             {"sliding_attention", {{"rope_type", "linear"}, {"factor", 8}}}},
            "full_attention, sliding_attention");
    refused({{"rope_type", "default"}, {"partial_rotary_factor", 0.5}}, "partial_rotary_factor");
    json mixed = with(spelling, {{"full_attention", {{"rope_type", "default"}}}});
    mixed["layer_types"] = {"sliding_attention"};
    EXPECT_THAT(refusal(mixed), HasSubstr("kind of layer"));
    mixed["layer_types"] = {"full_attention"};
    EXPECT_TRUE(parse(mixed));
  }
  json both = with("rope_scaling", {{"rope_type", "linear"}, {"factor", 4}});
  both["rope_parameters"] = {{"rope_type", "linear"}, {"factor", 4.0}, {"rope_theta", 10000}};
  EXPECT_TRUE(parse(both)) << "both say the same";
  both["rope_parameters"]["factor"] = 8;
  EXPECT_THAT(refusal(both), HasSubstr("different things"));
  both["rope_parameters"] = {{"rope_type", "default"}};
  EXPECT_THAT(refusal(both), HasSubstr("different things"));
}

TEST(ConfigFromJson, SizesAreCheckedBeforeTheyAreCast) {
  const auto with_context = [](const json& context) {
    json config = llama();
    config["max_position_embeddings"] = context;
    return config;
  };
  const auto longest = parse(with_context(kMaxPosition));
  ASSERT_TRUE(longest);
  EXPECT_EQ(longest->max_position, 1 << 30);
  for (const json& context :
       {json(int64_t{1} << 31), json((int64_t{1} << 31) - 1), json(int64_t{1} << 32),
        json((int64_t{1} << 32) + 512), json(~uint64_t{0}), json(-1), json(0)})
    EXPECT_THAT(refusal(with_context(context)), HasSubstr("max_position_embeddings"));
}

TEST(ConfigFromGguf, RopeAndKindsOfValues) {
  ScratchFolder folder;
  write_file(folder / "config.json", kTinyConfig);
  const auto dummy = WeightFiles::dummy(folder.path(), 1);
  ASSERT_TRUE(dummy);
  const auto message = [&](const std::function<void(GgufWriter&)>& add) -> std::string {
    GgufWriter writer = as_gguf(**dummy);
    add(writer);
    write_file(folder / "model.gguf", writer.bytes());
    const auto opened = WeightFiles::open(folder / "model.gguf");
    return opened ? "opened" : opened.error().message;
  };
  const std::string scaling = "llama.rope.scaling.";
  EXPECT_EQ(message([](GgufWriter&) {}), "opened");
  EXPECT_EQ(message([&](GgufWriter& w) {
              w.text(scaling + "type", "linear"), w.real(scaling + "factor", 4);
            }),
            "opened");
  EXPECT_THAT(message([&](GgufWriter& w) { w.text(scaling + "type", "linear"); }),
              HasSubstr("scaling.factor"));
  for (const char* type : {"yarn", "longrope"})
    EXPECT_THAT(message([&](GgufWriter& w) { w.text(scaling + "type", type); }),
                HasSubstr("found "s + type));
  EXPECT_THAT(message([&](GgufWriter& w) { w.real(scaling + "attn_factor", 1.2f); }),
              HasSubstr("attn_factor"));
  EXPECT_THAT(message([&](GgufWriter& w) { w.text(scaling + "factor", "4"); }),
              AllOf(HasSubstr("scaling.factor"), HasSubstr("a number")));
  EXPECT_THAT(message([&](GgufWriter& w) { w.integer(scaling + "type", 1); }),
              AllOf(HasSubstr("scaling.type"), HasSubstr("a text")));
  EXPECT_THAT(message([&](GgufWriter& w) { w.real("llama.expert_count", 8); }),
              AllOf(HasSubstr("expert_count"), HasSubstr("whole number")));
  std::string bytes = as_gguf(**dummy).bytes();
  const size_t at = bytes.find("llama.context_length") + 20 + 4;
  bytes.replace(at, 4, raw(uint32_t{1} << 31));
  write_file(folder / "model.gguf", bytes);
  EXPECT_THAT(WeightFiles::open(folder / "model.gguf").error().message,
              AllOf(HasSubstr("max_position_embeddings"), HasSubstr("found 2147483648")));
}

TEST(ConfigFromJson, EndTokensAreThoseOfBothConfigs) {
  json config = llama();
  config["eos_token_id"] = 3;
  EXPECT_EQ(parse(config)->eos_tokens, std::vector<TokenId>{3});
  EXPECT_EQ(parse(config, {{"eos_token_id", {4, 3}}})->eos_tokens, (std::vector<TokenId>{3, 4}));
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
