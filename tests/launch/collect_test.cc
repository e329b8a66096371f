// `tailor collect` on the default model: killed and started again it gives the file of a run that
// was never killed, and the lengths are those a replica would give.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <thread>

#include "base/clock.h"
#include "predict/feature_file.h"
#include "predict/length_file.h"

namespace tailor::launch {
namespace {

namespace fs = std::filesystem;

class Collect : public ::testing::Test {
 protected:
  Collect() : folder_(::testing::TempDir() + "tailor_collect_" + std::to_string(getpid())) {
    fs::remove_all(folder_);
    fs::create_directories(folder_);
    std::ofstream out(path("prompts"));
    const char* prompts[] = {"Name three colours.", "What is 2 + 2?",    "Write a poem on the sea.",
                             "Say hello.",          "List the planets.", "Why is the sky blue?"};
    int i = 0;
    for (const char* prompt : prompts)
      out << "{\"id\":\"t/" << i++ << "\",\"text\":\"" << prompt << "\"}\n";
  }
  ~Collect() override { fs::remove_all(folder_); }
  std::string path(const std::string& name) const { return folder_ + "/" + name; }
  static std::string text(const std::string& path) {
    std::ifstream in(path, std::ios::binary);
    std::stringstream out;
    out << in.rdbuf();
    return out.str();
  }
  static size_t lines(const std::string& path) {
    const std::string all = text(path);
    return static_cast<size_t>(std::count(all.begin(), all.end(), '\n'));
  }
  std::vector<std::string> words(const std::string& name) const {
    return {TAILOR_BINARY_DIR "/bin/tailor",
            "collect",
            "--prompts",
            path("prompts"),
            "--out",
            path(name),
            "--features",
            path(name + ".features"),
            "--layers",
            "10,20",
            "--samples",
            "3",
            "--max-tokens",
            "48",
            "--slots",
            "4",
            "--threads",
            "1"};
  }
  static pid_t start(std::vector<std::string> words) {
    const pid_t child = fork();
    if (child == 0) {
      std::vector<char*> argv;
      for (std::string& word : words) argv.push_back(word.data());
      argv.push_back(nullptr);
      freopen("/dev/null", "w", stderr);
      execv(argv[0], argv.data());
      _exit(127);
    }
    return child;
  }
  static int wait(pid_t child) {
    int status = 0;
    waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  }
  /// Prompt lines in the order of their ids: which prompt ends first depends on what ran beside it.
  static std::vector<predict::PromptLengths> sorted(const std::string& path) {
    auto file = predict::read_length_file(path);
    EXPECT_TRUE(file.has_value());
    if (!file) return {};
    std::sort(file->prompts.begin(), file->prompts.end(),
              [](const auto& a, const auto& b) { return a.id < b.id; });
    return file->prompts;
  }

  const std::string folder_;
};

TEST_F(Collect, KilledAndStartedAgainGivesTheSame) {
  ASSERT_EQ(wait(start(words("whole"))), 0);
  const auto whole = sorted(path("whole"));
  ASSERT_EQ(whole.size(), 6u);
  bool cut = false, ended = false;
  for (const auto& prompt : whole) {
    ASSERT_EQ(prompt.lengths.size(), 3u);
    EXPECT_GT(prompt.prompt_tokens, 5u);
    for (size_t i = 0; i < 3; ++i) {
      EXPECT_LE(prompt.lengths[i], 48u);
      if (prompt.censored[i]) EXPECT_EQ(prompt.lengths[i], 48u);
      (prompt.censored[i] ? cut : ended) = true;
    }
  }
  EXPECT_TRUE(cut);
  EXPECT_TRUE(ended);

  for (size_t kill_at : {2u, 4u}) {  // header and 1 prompt, header and 3
    const pid_t child = start(words("killed"));
    const Time deadline = now() + seconds(60);
    while (lines(path("killed")) < kill_at && now() < deadline) std::this_thread::yield();
    kill(child, SIGKILL);
    EXPECT_EQ(wait(child), -SIGKILL);
  }
  ASSERT_EQ(wait(start(words("killed"))), 0);
  const auto again = sorted(path("killed"));
  ASSERT_EQ(again.size(), whole.size());
  for (size_t i = 0; i < whole.size(); ++i) {
    EXPECT_EQ(again[i].id, whole[i].id);
    EXPECT_EQ(again[i].lengths, whole[i].lengths);
  }
  const auto states = predict::read_features(path("whole.features"), 20);
  const auto states_again = predict::read_features(path("killed.features"), 20);
  ASSERT_TRUE(states.has_value() && states_again.has_value());
  ASSERT_GE(states->size(), 6u);
  ASSERT_EQ(states->size(), states_again->size());
  for (size_t i = 0; i < states->size(); ++i) {
    EXPECT_EQ((*states)[i].prompt, (*states_again)[i].prompt);
    EXPECT_EQ((*states)[i].values, (*states_again)[i].values);
  }

  // All there already: nothing is asked again, nothing changes.
  const std::string before = text(path("killed"));
  ASSERT_EQ(wait(start(words("killed"))), 0);
  EXPECT_EQ(text(path("killed")), before);
  // And another temperature is another collection.
  auto other = words("killed");
  other.insert(other.end(), {"--temperature", "1"});
  EXPECT_EQ(wait(start(other)), 1);
  EXPECT_EQ(text(path("killed")), before);
}

}  // namespace
}  // namespace tailor::launch
