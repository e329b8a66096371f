#include "base/child_process.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <string>

namespace tailor {
namespace {

TEST(Spawn, LeavesOutVariablesByPrefixButNotThoseItIsGiven) {
  setenv("TAILOR_TEST_FOREIGN_A", "1", 1);
  setenv("TAILOR_TEST_FOREIGN_B", "1", 1);
  setenv("TAILOR_TEST_OURS", "1", 1);
  const auto child =
      spawn({{"/bin/sh", "-c", "env | grep -c TAILOR_TEST; echo $TAILOR_TEST_FOREIGN_B"},
             {{"TAILOR_TEST_FOREIGN_B", "given"}},
             {"TAILOR_TEST_FOREIGN_"}});
  ASSERT_TRUE(child.has_value());
  fcntl(child->output, F_SETFL, 0);
  std::string said;
  char buffer[256];
  for (ssize_t got; (got = read(child->output, buffer, sizeof buffer)) > 0;)
    said.append(buffer, static_cast<size_t>(got));
  close(child->output);
  waitpid(child->pid, nullptr, 0);
  EXPECT_EQ(said, "2\ngiven\n");
}

TEST(Spawn, ShellTextIsQuotedWhereNeeded) {
  EXPECT_EQ(to_shell({{"a", "it's", "x y", ""}, {{"V", "1 2"}}}), "V='1 2' a 'it'\\''s' 'x y' ''");
}

}  // namespace
}  // namespace tailor
