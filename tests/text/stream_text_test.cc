// Streamed text: pieces joined are the whole decode, every piece is UTF-8, stop strings cut where
// they should.
#include "text/stream_text.h"

#include <gtest/gtest.h>

#include <random>

#include "base/utf8.h"
#include "tests/text/fixture_files.h"

namespace tailor::text {
namespace {

using Ids = std::vector<TokenId>;

/// Streams `ids`; checks offsets and UTF-8 on the way.
struct Streamed {
  std::string text;
  bool stopped = false;
  std::string match;
  size_t tokens = 0;  ///< fed
};
Streamed stream(std::shared_ptr<const Tokenizer> tokenizer, const Ids& ids,
                StreamTextOptions options = {}) {
  StreamText stream(std::move(tokenizer), std::move(options));
  Streamed out;
  const auto take = [&](const StreamText::Piece& piece) {
    EXPECT_EQ(piece.offset, out.text.size());
    EXPECT_EQ(find_invalid_utf8(piece.text), std::string_view::npos);
    out.text += piece.text;
    EXPECT_EQ(stream.text_bytes(), out.text.size());
    out.stopped = piece.stopped;
    out.match = piece.stop_match;
  };
  for (const TokenId id : ids) {
    ++out.tokens;
    take(stream.push(id));
    if (out.stopped) return out;
  }
  take(stream.finish());
  return out;
}

/// A byte per token: the finest cut of a text.
Ids byte_tokens(std::string_view text) {
  Ids ids;
  for (const char c : text) ids.push_back(3 + static_cast<uint8_t>(c));
  return ids;
}

class StreamOf : public testing::TestWithParam<bool> {
 protected:
  std::shared_ptr<const Tokenizer> tokenizer() const { return GetParam() ? mistral() : smollm2(); }
};

TEST_P(StreamOf, RealTextsGiveTheWholeDecode) {
  const nlohmann::json j = read_json(fixture("text/smollm2.json"));
  for (const auto& prompt : j.at("prompts")) {
    const std::string text = prompt.at("text");
    const Ids ids = *tokenizer()->encode(text, true);
    for (const bool skip : {true, false}) {
      const std::string whole = tokenizer()->decode(ids, skip);
      EXPECT_EQ(stream(tokenizer(), ids, {.skip_special_tokens = skip}).text, whole);
      // Stop strings that never come hold text back on the way, and give it out in the end.
      EXPECT_EQ(
          stream(tokenizer(), ids, {.stop = {text + "!", "\x01\x02"}, .skip_special_tokens = skip})
              .text,
          whole);
    }
  }
}

TEST_P(StreamOf, RandomIdsGiveTheWholeDecode) {
  std::mt19937 random(11);
  const auto size = static_cast<TokenId>(tokenizer()->vocab_size());
  for (int round = 0; round < 400; ++round) {
    Ids ids;
    // Every other round: bytes only (mistral's byte tokens; the first characters of SmolLM2's
    // alphabet), so that broken characters are common. Ids outside the vocabulary come too.
    const TokenId low = round % 2 ? 3 : -3, high = round % 2 ? 258 : size + 3;
    std::uniform_int_distribution<TokenId> pick(low, high);
    for (int i = 0; i < 60; ++i) ids.push_back(pick(random));
    for (const bool skip : {true, false}) {
      EXPECT_EQ(stream(tokenizer(), ids, {.skip_special_tokens = skip}).text,
                tokenizer()->decode(ids, skip));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Kinds, StreamOf, testing::Bool(), [](const auto& info) {
  return info.param ? "sentencepiece" : "byte_level";
});

// However the characters are cut, the stop is found at the same place: against a search in the
// whole text.
TEST(StreamText, StopsDoNotDependOnHowTheTextIsCut) {
  std::mt19937 random(5);
  const std::vector<std::string> letters = {"a", "b", "c", "ä", "🙂"};
  const auto word = [&](int size) {
    std::string text;
    for (int i = 0; i < size; ++i) text += letters[random() % letters.size()];
    return text;
  };
  int stopped = 0;
  for (int round = 0; round < 2000; ++round) {
    const std::string text = word(20);
    StreamTextOptions options{.stop = {word(1 + random() % 4), word(1 + random() % 4), word(3)}};
    options.include_stop_in_output = round % 2;
    size_t best_end = std::string::npos;
    std::string match;
    for (const std::string& stop : options.stop) {
      const size_t at = text.find(stop);
      if (at == std::string::npos) continue;
      const size_t end = at + stop.size();
      if (end < best_end || (end == best_end && stop.size() > match.size()))
        best_end = end, match = stop;
    }
    std::string want = text;
    if (best_end != std::string::npos)
      want = text.substr(0, best_end - (options.include_stop_in_output ? 0 : match.size()));
    const Ids fine = byte_tokens(text);
    const Ids coarse = *smollm2()->encode(text, false);
    for (const Streamed& got :
         {stream(mistral(), fine, options), stream(smollm2(), coarse, options)}) {
      EXPECT_EQ(got.text, want) << text;
      EXPECT_EQ(got.stopped, best_end != std::string::npos);
      EXPECT_EQ(got.match, match);
      stopped += got.stopped;
    }
  }
  EXPECT_GT(stopped, 1000);
}

TEST(StreamText, HoldsBackOnlyWhatCouldBeginAStop) {
  StreamText text(mistral(), {.stop = {"END"}});
  const Ids ids = byte_tokens("xEEN");
  std::vector<std::string> pieces;
  for (const TokenId id : ids) pieces.push_back(text.push(id).text);
  EXPECT_EQ(pieces, (std::vector<std::string>{"x", "", "E", ""}));
  EXPECT_EQ(text.push(3 + '!').text, "EN!");
  EXPECT_EQ(text.finish().text, "");
}

TEST(StreamText, NeverEmitsHalfACharacter) {
  StreamText text(mistral(), {});
  std::vector<std::string> pieces;
  for (const TokenId id : byte_tokens("é🙂")) pieces.push_back(text.push(id).text);
  EXPECT_EQ(pieces, (std::vector<std::string>{"", "é", "", "", "", "🙂"}));
}

TEST(StreamText, ABrokenCharacterIsShownAsSoonAsItIsDecided) {
  StreamText text(mistral(), {});
  EXPECT_EQ(text.push(3 + 0xF0).text, "");
  EXPECT_EQ(text.push(3 + 0x9F).text, "");
  EXPECT_EQ(text.push(3 + 'a').text, "\uFFFDa");
  EXPECT_EQ(text.push(3 + 0xE2).text, "");
  EXPECT_EQ(text.finish().text, "\uFFFD");
}

TEST(StreamText, StopsInsideTheFirstMinTokensDoNotCount) {
  const Ids ids = byte_tokens("a.b.c.d");
  for (const auto& [min_tokens, want] : std::vector<std::pair<int, std::string>>{
           {0, "a"}, {1, "a"}, {2, "a.b"}, {3, "a.b"}, {4, "a.b.c"}, {7, "a.b.c.d"}}) {
    const Streamed got = stream(mistral(), ids, {.stop = {"."}, .min_tokens = min_tokens});
    EXPECT_EQ(got.text, want) << min_tokens;
    EXPECT_EQ(got.stopped, min_tokens < 7);
  }
  // A stop that begins inside and ends after them counts.
  EXPECT_EQ(stream(mistral(), byte_tokens("abcd"), {.stop = {"bc"}, .min_tokens = 2}).text, "a");
  EXPECT_EQ(stream(mistral(), byte_tokens("abab!"), {.stop = {"abab"}, .min_tokens = 4}).text,
            "abab!");
}

TEST(StreamText, TextAfterTheStopInTheSameTokenIsDropped) {
  const Ids ids = *smollm2()->encode("one two three", false);
  const Streamed got = stream(smollm2(), ids, {.stop = {"wo t"}});
  EXPECT_EQ(got.text, "one t");
  EXPECT_EQ(got.match, "wo t");
  EXPECT_EQ(got.tokens, 3u);
  EXPECT_EQ(stream(smollm2(), ids, {.stop = {"wo t"}, .include_stop_in_output = true}).text,
            "one two t");
}

TEST(StreamText, EmptyAndBrokenStopsAreIgnored) {
  const Streamed got = stream(mistral(), byte_tokens("aé"), {.stop = {"", "\xA9"}});
  EXPECT_EQ(got.text, "aé");
  EXPECT_FALSE(got.stopped);
}

TEST(StreamText, SpecialTokensShowOnlyWhenAsked) {
  const Ids ids = {1, smollm2()->encode("hi", false)->at(0), 2};
  EXPECT_EQ(stream(smollm2(), ids).text, "hi");
  EXPECT_EQ(stream(smollm2(), ids, {.skip_special_tokens = false}).text,
            "<|im_start|>hi<|im_end|>");
  EXPECT_EQ(stream(smollm2(), ids, {.stop = {"<|im_end|>"}, .skip_special_tokens = false}).text,
            "<|im_start|>hi");
}

TEST(StreamText, AStopFindsSpecialTokensThatAreNotShown) {
  const TokenId end = 2, unknown = 0;  // <|im_end|>, <|endoftext|>
  Ids ids = *smollm2()->encode("one two", false);
  ids.insert(ids.end(), {end, smollm2()->encode(" three", false)->at(0)});
  const auto stopped = [&](StreamTextOptions options) {
    const Streamed got = stream(smollm2(), ids, std::move(options));
    EXPECT_TRUE(got.stopped);
    return got.text;
  };
  EXPECT_EQ(stopped({.stop = {"<|im_end|>"}}), "one two");
  EXPECT_EQ(stopped({.stop = {"<|im_end|>"}, .include_stop_in_output = true}), "one two<|im_end|>");
  EXPECT_EQ(stopped({.stop = {"|im_e"}}), "one two");
  EXPECT_EQ(stopped({.stop = {"two<|im_end|>"}}), "one ");
  EXPECT_EQ(stopped({.stop = {"two<|im_end|> th"}}), "one ");
  EXPECT_EQ(stopped({.stop = {"<|im_end|> three"}}), "one two");
  // As the text is shown, the token is not there.
  EXPECT_EQ(stopped({.stop = {"two three"}}), "one ");
  EXPECT_EQ(stopped({.stop = {"two three"}, .include_stop_in_output = true}), "one two three");
  // What could have become a stop comes out when it does not.
  const Streamed all = stream(smollm2(), ids, {.stop = {"<|im_end|> thrice", "two<|im_end|>!"}});
  EXPECT_FALSE(all.stopped);
  EXPECT_EQ(all.text, "one two three");
  EXPECT_FALSE(stream(smollm2(), ids, {.stop = {"<|im_end|>"}, .min_tokens = 4}).stopped);
  ids.push_back(unknown);
  EXPECT_EQ(stream(smollm2(), ids, {.stop = {"three<|endoftext|>", "<|endoftext|>"}}).text,
            "one two ");
}

// The Unicode Standard, table 3-8 and its neighbours: one U+FFFD for each maximal part.
TEST(Utf8, ReplacesMaximalSubparts) {
  const auto lossy = [](std::string_view bytes) {
    std::string out;
    EXPECT_EQ(append_utf8(bytes, true, out), bytes.size());
    return out;
  };
  const std::string r = "\uFFFD";
  EXPECT_EQ(lossy("\xC0\xAF\xE0\x80\xBF\xF0\x81\x82\x41"), r + r + r + r + r + r + r + r + "A");
  EXPECT_EQ(lossy("\xED\xA0\x80\xED\xBF\xBF\xED\xAF\x41"), r + r + r + r + r + r + r + r + "A");
  EXPECT_EQ(lossy("\xF4\x91\x92\x93\xFF\x41\x80\xBF\x42"), r + r + r + r + r + "A" + r + r + "B");
  EXPECT_EQ(lossy("\xE1\x80\xE2\xF0\x91\x92\xF1\xBF\x41"), r + r + r + r + "A");
  EXPECT_EQ(lossy("\xF4\x8F\xBF\xBF"), "\xF4\x8F\xBF\xBF");
  EXPECT_EQ(lossy("\xF4\x90\x80\x80"), r + r + r + r);
}

}  // namespace
}  // namespace tailor::text
