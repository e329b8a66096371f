// Lexical features of a prompt: what can be counted in its bytes that tells how long an answer will
// be. They stand beside a sentence encoder's features, which know the topic but neither the
// prompt's length nor "in 500 words". Pure, no allocation, any bytes are welcome.
// Cost: 10 to 20 ns a byte, at most 64 KiB are looked at.
#pragma once

#include <array>
#include <cstddef>
#include <string_view>

namespace tailor::predict {

/// The features in order; a trained head depends on names and order, so new ones go to the end.
/// log_ = ln(1 + count). Verbs and words are 1 where one stands among the first eight words, 0.5
/// where one stands elsewhere, else 0. "Chars" are Unicode characters.
inline constexpr std::array kLexicalNames = {
    "log_bytes",       // of the whole prompt
    "log_words",       // a word: letters, digits, apostrophes and what is not ASCII
    "log_lines",       // that are not empty
    "log_paragraphs",  // separated by an empty line
    "word_bytes",      // mean bytes of a word, divided by 8, at most 4
    "log_questions",   // question marks, also those of other scripts
    "ends_in_question",
    "digit_share",     // of the characters
    "upper_share",     // of the ASCII letters
    "symbol_share",    // of { } [ ] ( ) < > = ; / \ _ among the characters
    "other_share",     // of characters outside ASCII
    "cjk_share",       // of Chinese, Japanese and Korean characters
    "cyrillic_share",  // of Cyrillic and Greek characters
    "rtl_share",       // of Hebrew and Arabic characters
    "indic_share",     // of characters from Devanagari to Thai
    "log_list_lines",  // lines that begin like "- ", "* " or "1."
    "code_fence",      // ``` stands somewhere
    "link",            // http:// or https://
    // the largest n of "n words"; a sentence counts 20, a paragraph 100, a page 400
    "log_words_asked",
    "log_items_asked",  // the largest n of "n ways", "five examples"
    "brief",            // "briefly", "short", "one word", "yes or no"
    "extensive",        // "detailed", "comprehensive", "thorough", "step by step"
    "verb_list",        // list, name, give, suggest, ...
    "verb_write",       // write, create, compose, generate, ...
    "verb_explain",     // explain, describe, why, how, ...
    "verb_shorten",     // summarize, extract, translate, rewrite, ...
    "verb_classify",    // classify, identify, choose, which, ...
    "verb_compute",     // calculate, solve, "how many", ...
    "asks_fact",        // what, who, when, where
    "noun_text",        // story, essay, poem, article, letter, ...
    "noun_code",        // code, function, python, sql, ...
};
inline constexpr size_t kLexicalFeatures = kLexicalNames.size();

/// `prompt`: the user's text before any chat template. Of a prompt above 64 KiB the first 48 and
/// the last 16 KiB are looked at. All values are finite.
std::array<float, kLexicalFeatures> lexical_features(std::string_view prompt);

}  // namespace tailor::predict
