// Interrupts, writes and lines over real pipes and real signals.
#include "launch/commands/terminal.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <array>

namespace tailor::launch {
namespace {

struct Pipe {
  Pipe() { EXPECT_EQ(pipe2(ends.data(), O_CLOEXEC), 0); }
  std::array<int, 2> ends{};
};

TEST(WriteAll, AReaderThatStandsStillDoesNotKeepASignalAway) {
  InterruptWatch watch;
  Pipe pipe;
  raise(SIGTERM);
  EXPECT_FALSE(write_all(pipe.ends[1], std::string(1 << 20, 'x'), &watch));
  EXPECT_EQ(watch.interrupted(), SIGTERM);
  EXPECT_EQ(watch.interrupted(), 0);
  EXPECT_TRUE(write_all(pipe.ends[1], "y", &watch));
  close(pipe.ends[0]);
  EXPECT_FALSE(write_all(pipe.ends[1], "z", &watch));
  close(pipe.ends[1]);
}

TEST(InputLines, GivesWholeLinesAndNeverWaitsForTheRest) {
  InterruptWatch watch;
  Pipe pipe;
  InputLines lines(pipe.ends[0], watch);
  EXPECT_EQ(lines.next(), std::nullopt);
  const std::string longer(100000 - 4, 'x');
  fcntl(pipe.ends[1], F_SETPIPE_SZ, 1 << 20);
  ASSERT_TRUE(write_all(pipe.ends[1], "a\n\n" + longer + "\nb"));
  EXPECT_EQ(lines.next(), "a");
  EXPECT_EQ(lines.next(), "");
  EXPECT_EQ(lines.next(), longer);
  EXPECT_EQ(lines.next(), std::nullopt);
  ASSERT_TRUE(write_all(pipe.ends[1], "c\nlast"));
  EXPECT_EQ(lines.next(), "bc");
  close(pipe.ends[1]);
  EXPECT_FALSE(lines.at_end());
  EXPECT_EQ(lines.next(), "last");
  EXPECT_EQ(lines.next(), std::nullopt);
  EXPECT_TRUE(lines.at_end());
}

TEST(InputLines, ASignalEndsTheWaitAndIsLeftToBeAskedFor) {
  InterruptWatch watch;
  Pipe pipe;
  InputLines lines(pipe.ends[0], watch);
  raise(SIGINT);
  lines.wait(seconds(1000));
  EXPECT_EQ(lines.next(), std::nullopt);
  EXPECT_EQ(watch.interrupted(), SIGINT);
  close(pipe.ends[1]);
}

/// The text wrapped, whatever pieces it comes in.
std::string wrapped(const std::string& text, size_t columns) {
  WordWrap whole;
  std::string at_once = whole.add(text, columns);
  at_once += whole.rest();
  WordWrap cut;
  std::string in_pieces;
  size_t from = 0;
  for (size_t to = 1; to <= text.size(); ++to) {
    if (to < text.size() && (text[to] & 0xC0) == 0x80) continue;
    in_pieces += cut.add(text.substr(from, to - from), columns);
    from = to;
  }
  in_pieces += cut.rest();
  EXPECT_EQ(in_pieces, at_once);
  return at_once;
}

TEST(WordWrap, BreaksBetweenWordsWhereTheLineEnds) {
  EXPECT_EQ(wrapped("the quick brown fox", 10), "the quick\nbrown fox");
  EXPECT_EQ(wrapped("the quick  brown", 9), "the quick\nbrown") << "spaces become the break";
  EXPECT_EQ(wrapped("a b\n  indented line\n\nend ", 12), "a b\n  indented\nline\n\nend ");
  EXPECT_EQ(wrapped("no terminal, no change  \n", 0).find("no change"), 13u);
  EXPECT_EQ(wrapped("a 0123456789abcdef b", 8), "a\n0123456789abcdef\nb") << "longer than a line";
  EXPECT_EQ(wrapped("été été été", 7), "été été\nété") << "columns, not bytes";
  EXPECT_EQ(wrapped("\u4f60\u597d\u4f60\u597d\u4f60", 5), "\u4f60\u597d\n\u4f60\u597d\n\u4f60");
}

TEST(Terminal, WholeUtf8EndsBeforeAHalfCharacter) {
  EXPECT_EQ(whole_utf8("abc"), 3u);
  EXPECT_EQ(whole_utf8("ab\xC3"), 2u);
  EXPECT_EQ(whole_utf8("ab\xC3\xA9"), 4u);
  EXPECT_EQ(whole_utf8("\xF0\x9F\x98"), 0u);
  EXPECT_EQ(whole_utf8(""), 0u);
}

}  // namespace
}  // namespace tailor::launch
