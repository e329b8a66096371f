// Lexical features: what each counts, and that no bytes break them.
#include "predict/lexical.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <set>
#include <string>

namespace tailor::predict {
namespace {

float feature(std::string_view name, std::string_view prompt) {
  for (size_t i = 0; i < kLexicalFeatures; ++i) {
    if (kLexicalNames[i] == name) return lexical_features(prompt)[i];
  }
  ADD_FAILURE() << "no feature " << name;
  return NAN;
}
float log_count(double n) { return static_cast<float>(std::log1p(n)); }

TEST(Lexical, NamesAreDistinct) {
  EXPECT_EQ(std::set<std::string_view>(kLexicalNames.begin(), kLexicalNames.end()).size(),
            kLexicalFeatures);
}

TEST(Lexical, EmptyPromptIsAllZero) {
  for (const float value : lexical_features("")) EXPECT_EQ(value, 0);
}

TEST(Lexical, CountsBytesWordsLinesParagraphs) {
  const std::string text = "Hello there,\nfriend.\n\n\nIt's late.";
  EXPECT_FLOAT_EQ(feature("log_bytes", text), log_count(static_cast<double>(text.size())));
  EXPECT_FLOAT_EQ(feature("log_words", text), log_count(5));
  EXPECT_FLOAT_EQ(feature("log_lines", text), log_count(3));
  EXPECT_FLOAT_EQ(feature("log_paragraphs", text), log_count(2));
  EXPECT_FLOAT_EQ(feature("word_bytes", "abcd ab"), 3.0f / 8);
}

TEST(Lexical, Questions) {
  EXPECT_EQ(feature("ends_in_question", "Who are you? \n"), 1);
  EXPECT_EQ(feature("ends_in_question", "Who? Me."), 0);
  EXPECT_EQ(feature("ends_in_question", "你是谁？"), 1);
  EXPECT_FLOAT_EQ(feature("log_questions", "Who? 谁？"), log_count(2));
}

TEST(Lexical, SharesOfCharacters) {
  EXPECT_FLOAT_EQ(feature("digit_share", "a1b2"), 0.5f);
  EXPECT_FLOAT_EQ(feature("upper_share", "ABcd 12"), 0.5f);
  EXPECT_FLOAT_EQ(feature("symbol_share", "f(x)"), 0.5f);
  EXPECT_FLOAT_EQ(feature("cjk_share", "ab你好"), 0.5f);
  EXPECT_FLOAT_EQ(feature("other_share", "ab你好"), 0.5f);
  EXPECT_FLOAT_EQ(feature("cyrillic_share", "море"), 1.0f);
  EXPECT_FLOAT_EQ(feature("rtl_share", "שלום"), 1.0f);
  EXPECT_FLOAT_EQ(feature("indic_share", "नमस"), 1.0f);
  EXPECT_FLOAT_EQ(feature("cjk_share", "한국"), 1.0f);
  EXPECT_FLOAT_EQ(feature("cyrillic_share", "café"), 0);
}

TEST(Lexical, ListsFencesLinks) {
  EXPECT_FLOAT_EQ(feature("log_list_lines", "To do:\n- a\n * b\n1. c\n12) d\n3.5 e\n-f"),
                  log_count(4));
  EXPECT_EQ(feature("code_fence", "x\n```\ny\n```"), 1);
  EXPECT_EQ(feature("code_fence", "x `y`"), 0);
  EXPECT_EQ(feature("link", "see https://example.org"), 1);
}

TEST(Lexical, WordsAskedFor) {
  EXPECT_FLOAT_EQ(feature("log_words_asked", "Write 500 words on bees."), log_count(500));
  EXPECT_FLOAT_EQ(feature("log_words_asked", "Write a 300-word text."), log_count(300));
  EXPECT_FLOAT_EQ(feature("log_words_asked", "In three paragraphs, or 2 sentences"),
                  log_count(300));
  EXPECT_EQ(feature("log_words_asked", "Chapter 3. Words of wisdom"), 0);
  EXPECT_FLOAT_EQ(feature("log_words_asked", "9999999 words"), log_count(100'000));
  EXPECT_EQ(feature("log_words_asked", "99999999999999999999999 words"), 0);
}

TEST(Lexical, ItemsAskedFor) {
  EXPECT_FLOAT_EQ(feature("log_items_asked", "List five ways to 12 places"), log_count(12));
  EXPECT_EQ(feature("log_items_asked", "It is 1990, friends"), 0);
  EXPECT_EQ(feature("log_items_asked", "write 500 words"), 0);
}

TEST(Lexical, BriefAndExtensive) {
  EXPECT_EQ(feature("brief", "Answer in one word: is it?"), 1);
  EXPECT_EQ(feature("brief", "Answer yes or no."), 1);
  EXPECT_EQ(feature("brief", "Answer yes, no, or maybe: two words."), 0);
  EXPECT_EQ(feature("extensive", "Give a detailed plan"), 1);
}

TEST(Lexical, KeywordsWeighTheirPlaceAndIgnoreCase) {
  EXPECT_EQ(feature("verb_shorten", "SUMMARIZE this"), 1);
  EXPECT_EQ(feature("verb_shorten", "a b c d e f g h summarize"), 0.5f);
  EXPECT_EQ(feature("verb_shorten", "summarized summar ize"), 0);
  EXPECT_EQ(feature("verb_list", "List them"), 1);
  EXPECT_EQ(feature("verb_write", "Please write it"), 1);
  EXPECT_EQ(feature("verb_explain", "Why is it so"), 1);
  EXPECT_EQ(feature("verb_classify", "Which is it"), 1);
  EXPECT_EQ(feature("verb_compute", "How many are there"), 1);
  EXPECT_EQ(feature("asks_fact", "Who was it"), 1);
  EXPECT_EQ(feature("noun_text", "a story about bees"), 1);
  EXPECT_EQ(feature("noun_code", "some Python code"), 1);
}

TEST(Lexical, OnlyHeadAndTailOfALongPromptAreLookedAt) {
  const std::string filler(100'000, '.');
  EXPECT_EQ(feature("verb_shorten", filler + " summarize"), 1);
  EXPECT_EQ(feature("verb_shorten", filler + " summarize " + filler), 0);
  EXPECT_FLOAT_EQ(feature("log_bytes", filler), log_count(100'000));
}

TEST(Lexical, AnyBytesGiveFiniteValuesInRange) {
  std::mt19937 random(7);
  for (int round = 0; round < 2000; ++round) {
    std::string text(random() % 200, '\0');
    for (char& c : text) c = static_cast<char>(random());
    const auto features = lexical_features(text);
    for (size_t i = 0; i < kLexicalFeatures; ++i) {
      EXPECT_TRUE(std::isfinite(features[i]) && features[i] >= 0)
          << kLexicalNames[i] << " " << features[i];
      const bool share = std::string_view(kLexicalNames[i]).ends_with("_share");
      EXPECT_LE(features[i], share ? 1 : 20) << kLexicalNames[i];
    }
  }
}

}  // namespace
}  // namespace tailor::predict
