// Token ids against llama.cpp's vectors, `transformers` and `tokenizers`.
#include "text/tokenizer.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdio>
#include <sstream>

#include "tests/text/fixture_files.h"

namespace tailor::text {
namespace {

using Ids = std::vector<TokenId>;

std::vector<std::string> vector_texts() {
  const std::string all = read_all(fixture("tokenizers/vectors/texts.inp"));
  const std::string line = "\n__ggml_vocab_test__\n";
  std::vector<std::string> texts;
  size_t at = 0;
  for (size_t next; (next = all.find(line, at)) != std::string::npos; at = next + line.size()) {
    texts.push_back(all.substr(at, next - at));
  }
  texts.push_back(all.substr(at));  // the 47th: nothing at all, whose line of ids is empty
  return texts;
}

void expect_vectors(const Tokenizer& tokenizer, const std::string& name) {
  const std::vector<std::string> texts = vector_texts();
  std::ifstream out(fixture("tokenizers/vectors/" + name + ".out"));
  std::string line;
  size_t checked = 0;
  for (const std::string& text : texts) {
    if (!std::getline(out, line)) line.clear();
    std::istringstream words(line);
    Ids want;
    for (TokenId id; words >> id;) want.push_back(id);
    const auto ids = tokenizer.encode(text, false);
    ASSERT_TRUE(ids) << ids.error().message;
    EXPECT_EQ(*ids, want) << name << ", vector " << checked << ": " << text;
    EXPECT_EQ(tokenizer.decode(*ids, false), text);
    ++checked;
  }
  EXPECT_EQ(checked, 47u);
  EXPECT_FALSE(std::getline(out, line)) << "more lines than texts: " << line;
}

TEST(Tokenizer, Gpt2VocabularyGivesLlamaCppVectors) {
  const auto tokenizer = must(Tokenizer::from_vocabulary(
      read_vocabulary(fixture("tokenizers/gpt-2.vocabulary.json")).spec));
  EXPECT_EQ(tokenizer->vocab_size(), 50257);
  expect_vectors(*tokenizer, "gpt-2");
}

class OutsideVocabulary : public testing::TestWithParam<const char*> {};

TEST_P(OutsideVocabulary, GivesLlamaCppVectorsFromBothForms) {
  const std::string folder = outside_tokenizers();
  if (folder.empty()) {
    GTEST_SKIP()
        << GetParam()
        << " is under Meta's community licence and not in this repository: convert it with "
        << "tools/convert_tokenizers.py and set TAILOR_TOKENIZER_DIR to that folder to run this "
           "case.";
  }
  const std::string base = folder + "/" + GetParam();
  expect_vectors(*must(Tokenizer::from_vocabulary(read_vocabulary(base + ".vocabulary.json").spec)),
                 GetParam());
  expect_vectors(*must(Tokenizer::from_file(base + ".tokenizer.json")), GetParam());
}
INSTANTIATE_TEST_SUITE_P(Meta, OutsideVocabulary, testing::Values("llama-bpe", "llama-spm"));

TEST(Tokenizer, DefaultModelGivesTransformersIds) {
  const nlohmann::json j = read_json(fixture("text/smollm2.json"));
  ASSERT_GT(j.at("prompts").size(), 50u);
  for (const auto& prompt : j.at("prompts")) {
    const std::string text = prompt.at("text");
    const auto ids = smollm2()->encode(text, true);
    ASSERT_TRUE(ids);
    EXPECT_EQ(*ids, prompt.at("ids").get<Ids>()) << text;
  }
}

TEST(Tokenizer, DefaultModelDecodesRandomIdsAsPythonDoes) {
  const nlohmann::json j = read_json(fixture("text/smollm2.json"));
  ASSERT_GE(j.at("decoded").size(), 40u);
  for (const auto& c : j.at("decoded")) {
    const Ids ids = c.at("ids");
    EXPECT_EQ(smollm2()->decode(ids, false), c.at("text").get<std::string>());
    EXPECT_EQ(smollm2()->decode(ids, true), c.at("without_special").get<std::string>());
  }
}

TEST(Tokenizer, PreTokenizersSplitAsTheModelsPatternsSay) {
  const nlohmann::json j = read_json(fixture("text/splits.json"));
  std::map<std::string, std::shared_ptr<const Tokenizer>> tokenizers;
  for (const char* pre : {"gpt-2", "smollm", "llama-bpe", "qwen2"}) {
    VocabularySpec spec = smollm2_file().spec;
    spec.pre = pre;
    tokenizers[pre] = must(Tokenizer::from_vocabulary(spec));
  }
  ASSERT_GT(j.size(), 200u);
  for (const auto& c : j) {
    const std::string pre = c.at("pre"), text = c.at("text");
    const auto ids = tokenizers.at(pre)->encode(text, false);
    ASSERT_TRUE(ids);
    EXPECT_EQ(*ids, c.at("ids").get<Ids>())
        << pre << ": " << text << "\npieces: " << c.at("pieces").dump();
  }
}

TEST(Tokenizer, PreTokenizerNamesHaveAliases) {
  VocabularySpec spec = smollm2_file().spec;
  const std::string text = "x  12345 we'LL";
  const auto ids = [&](const char* pre) {
    spec.pre = pre;
    return *must(Tokenizer::from_vocabulary(spec))->encode(text, false);
  };
  const Ids llama3 = ids("llama-bpe");
  EXPECT_EQ(ids("llama3"), llama3);
  EXPECT_EQ(ids("llama-v3"), llama3);
  EXPECT_NE(ids("smollm"), llama3);
}

TEST(Tokenizer, SentencepieceVocabularyRoundTripsTheVectors) {
  const auto tokenizer = mistral();
  EXPECT_EQ(tokenizer->vocab_size(), 32000);
  EXPECT_TRUE(tokenizer->strips_leading_space());
  EXPECT_EQ(*tokenizer->encode("Hello world", false), (Ids{22557, 1526}));
  EXPECT_EQ(*tokenizer->encode("Hello world", true), (Ids{1, 22557, 1526}));
  for (const std::string& text : vector_texts()) {
    EXPECT_EQ(tokenizer->decode(*tokenizer->encode(text, true), true), text);
  }
}

TEST(Tokenizer, SentencepieceHonoursAddSpacePrefixAndAddEos) {
  VocabularySpec spec = read_vocabulary(fixture("tokenizers/mistral-v1.vocabulary.json")).spec;
  spec.add_space_prefix = false;
  spec.add_eos = true;
  const auto tokenizer = must(Tokenizer::from_vocabulary(spec));
  EXPECT_FALSE(tokenizer->strips_leading_space());
  EXPECT_EQ(tokenizer->decode(*tokenizer->encode(" a", false), false), " a");
  EXPECT_EQ(*tokenizer->encode("\xE2\x96\x81Hello", true), (Ids{1, 22557, 2}));
  EXPECT_NE(*tokenizer->encode("Hello", true), (Ids{1, 22557, 2}));
}

TEST(Tokenizer, SpecialTokensWrittenInTextAreRecognised) {
  EXPECT_EQ(*smollm2()->encode("<|im_start|>", false), (Ids{1}));
  EXPECT_EQ(mistral()->encode("<s>Hello</s>Hello", false)->size(), 4u);
  EXPECT_EQ(*mistral()->encode("</s>Hello", false),
            (Ids{2, 22557}));  // a dummy space after a special token too
  EXPECT_TRUE(smollm2()->is_special(1));
  EXPECT_FALSE(smollm2()->is_special(100));
  EXPECT_FALSE(smollm2()->is_special(-1));
  EXPECT_FALSE(smollm2()->is_special(1 << 30));
  EXPECT_EQ(smollm2()->token_bytes(2), "<|im_end|>");
  EXPECT_EQ(smollm2()->token_to_id("<|im_end|>"), 2);
  EXPECT_EQ(smollm2()->token_to_id("no such token, surely"), -1);
  EXPECT_EQ(smollm2()->decode({1, 2}, true), "");
  EXPECT_EQ(smollm2()->decode({1, 2}, false), "<|im_start|><|im_end|>");
}

TEST(Tokenizer, UserDefinedTokensAreRecognisedAndNeverHidden) {
  VocabularySpec spec = smollm2_file().spec;
  spec.types[7] = 4;  // <gh_stars>
  const auto tokenizer = must(Tokenizer::from_vocabulary(spec));
  EXPECT_EQ(*tokenizer->encode("<gh_stars>", false), (Ids{7}));
  EXPECT_FALSE(tokenizer->is_special(7));
  EXPECT_EQ(tokenizer->decode({7}, true), "<gh_stars>");
}

TEST(Tokenizer, TokenBytesAreWhatTheTokenStandsFor) {
  const TokenId space_the = smollm2()->encode(" the", false)->at(0);
  EXPECT_EQ(smollm2()->token_bytes(space_the), " the");
  EXPECT_EQ(mistral()->token_bytes(22557), " Hello");
  EXPECT_EQ(mistral()->token_bytes(3 + 0xE2), "\xE2");  // <0xE2>
  EXPECT_EQ(mistral()->token_bytes(-5), "");
  EXPECT_EQ(mistral()->token_bytes(32000), "");
}

// The same vocabulary through tokenizer.json and through GGUF's metadata gives the same ids.
TEST(Tokenizer, FileAndVocabularyAgree) {
  const VocabularySpec& spec = smollm2_file().spec;
  nlohmann::json vocabulary, added = nlohmann::json::array(), merges = spec.merges;
  for (size_t id = 0; id < spec.tokens.size(); ++id) {
    vocabulary[spec.tokens[id]] = id;
    if (spec.types[id] == 3) {
      added.push_back({{"id", id},
                       {"content", spec.tokens[id]},
                       {"single_word", false},
                       {"lstrip", false},
                       {"rstrip", false},
                       {"normalized", false},
                       {"special", true}});
    }
  }
  const nlohmann::json level = {{"type", "ByteLevel"},
                                {"add_prefix_space", false},
                                {"trim_offsets", true},
                                {"use_regex", true}};
  nlohmann::json file = {
      {"version", "1.0"},
      {"added_tokens", added},
      {"normalizer", nullptr},
      {"post_processor", nullptr},
      {"truncation",
       {{"direction", "Right"}, {"max_length", 4}, {"strategy", "LongestFirst"}, {"stride", 0}}},
      {"padding", nullptr},
      {"decoder", level},
      {"pre_tokenizer",
       {{"type", "Sequence"},
        {"pretokenizers", {{{"type", "Digits"}, {"individual_digits", true}}, level}}}},
      {"model", {{"type", "BPE"}, {"vocab", vocabulary}, {"merges", merges}}}};
  const std::string path =
      testing::TempDir() + "tailor_tokenizer_" + std::to_string(getpid()) + ".json";
  std::ofstream(path) << file.dump();
  const auto tokenizer = must(Tokenizer::from_file(path));
  std::remove(path.c_str());
  EXPECT_EQ(tokenizer->vocab_size(), smollm2()->vocab_size());
  const nlohmann::json j = read_json(fixture("text/smollm2.json"));
  for (const auto& prompt :
       j.at("prompts")) {  // and the file's truncation to 4 tokens is not applied
    EXPECT_EQ(*tokenizer->encode(prompt.at("text").get<std::string>(), true),
              prompt.at("ids").get<Ids>());
  }
  for (TokenId id = 0; id < tokenizer->vocab_size(); ++id) {
    ASSERT_EQ(tokenizer->token_bytes(id), smollm2()->token_bytes(id)) << id;
    ASSERT_EQ(tokenizer->is_special(id), smollm2()->is_special(id)) << id;
  }
}

TEST(Tokenizer, GuardedSpecialTokensAreWords) {
  for (const auto& tokenizer : {smollm2(), mistral()}) {
    const bool chatml = tokenizer == smollm2();
    const std::string mark = chatml ? "<|im_end|>" : "</s>";
    for (const std::string& text :
         {mark, "a" + mark + "b", mark + mark, " " + mark + " é ", mark.substr(1) + mark}) {
      const auto guarded = tokenizer->guard(text);
      ASSERT_TRUE(guarded) << guarded.error().message;
      const auto ids = tokenizer->encode_guarded(*guarded, false);
      ASSERT_TRUE(ids);
      for (const TokenId id : *ids) EXPECT_FALSE(tokenizer->is_special(id)) << text;
      EXPECT_EQ(tokenizer->decode(*ids, false), text);
      EXPECT_NE(*ids, *tokenizer->encode(text, false));
    }
    // Beside a token that is meant, as a template writes it.
    const auto mixed = tokenizer->encode_guarded(*tokenizer->guard("x" + mark) + mark, false);
    const Ids words = *tokenizer->encode_guarded(*tokenizer->guard("x" + mark), false);
    Ids expected = words;
    expected.push_back(tokenizer->token_to_id(mark));
    EXPECT_EQ(*mixed, expected);
    // Without special tokens nothing changes.
    for (const char* text : {"", "plain <words> | é", "<|im_st"}) {
      EXPECT_EQ(*tokenizer->guard(text), text);
      EXPECT_EQ(*tokenizer->encode_guarded(text, true), *tokenizer->encode(text, true));
    }
  }
  // The mark itself, where users write it.
  EXPECT_EQ(*smollm2()->guard("a\uFDD0b"), "a\uFFFDb");
  EXPECT_FALSE(smollm2()->guard("\xFF"));
  EXPECT_EQ(smollm2()->decode(*smollm2()->encode("a\uFDD0b", false), false), "a\uFDD0b");
}

TEST(Tokenizer, NobodyForgesASpecialTokenThroughTheGuard) {
  // What stands for a special token inside, and marks put by the user.
  for (const std::string& text :
       {std::string("\uFDD0\U00100002<|im_end|>"), std::string("<|im_\uFDD0end|><|im_end|>"),
        std::string("\uFDD0<|im_end|>\uFDD0\U00100000")}) {
    const auto ids = smollm2()->encode_guarded(*smollm2()->guard(text), false);
    ASSERT_TRUE(ids);
    for (const TokenId id : *ids) {
      EXPECT_FALSE(smollm2()->is_special(id)) << text;
      EXPECT_LT(id, smollm2()->vocab_size());
    }
  }
}

}  // namespace
}  // namespace tailor::text
