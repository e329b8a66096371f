// `tailor generate`, `chat` and `status` against the real request server (comm::CoordinatorIo) with
// scripted answers: what a model would say is the only thing made up here.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>

#include "base/clock.h"
#include "comm/coordinator_io.h"

namespace tailor::launch {
namespace {

using nlohmann::json;

constexpr Duration kPatience = seconds(60);  // ends a test that hangs

class Generate : public testing::Test {
 protected:
  Generate() {
    std::string pattern = testing::TempDir() + "generate-XXXXXX";
    folder_ = mkdtemp(pattern.data());
    comm::CoordinatorIoOptions options;
    options.api_endpoint = "tcp://127.0.0.1:*";
    options.control_endpoint = "tcp://127.0.0.1:*";
    options.link_key = *comm::make_link_key({1});
    auto io = comm::CoordinatorIo::start(options);
    EXPECT_TRUE(io.has_value());
    io_ = std::move(*io);
  }
  ~Generate() override {
    if (pid_ > 0) {
      kill(pid_, SIGKILL);
      waitpid(pid_, nullptr, 0);
    }
    std::filesystem::remove_all(folder_);
  }

  /// Starts `tailor ARGUMENTS --endpoint ...`; output goes to files, input comes from one.
  void start(const std::string& arguments, const std::string& input = "") {
    std::ofstream(folder_ + "/in") << input;
    start_reading("in", arguments);
  }
  void start_reading(const std::string& name, const std::string& arguments) {
    const std::string line = "exec " TAILOR_BINARY_DIR "/bin/tailor " + arguments + " --endpoint " +
                             io_->api_endpoint() + " <" + folder_ + "/" + name + " >" + folder_ +
                             "/out 2>" + folder_ + "/err";
    pid_ = fork();
    if (pid_ == 0) {
      execl("/bin/sh", "sh", "-c", line.c_str(), static_cast<char*>(nullptr));
      _exit(127);
    }
  }

  /// A pipe as standard input that stays open; the end to write to, which the caller closes.
  int start_on_open_input(const std::string& arguments, const std::string& input) {
    const std::string path = folder_ + "/pipe";
    EXPECT_EQ(mkfifo(path.c_str(), 0600), 0);
    const int fd = open(path.c_str(), O_RDWR | O_CLOEXEC);
    EXPECT_EQ(write(fd, input.data(), input.size()), static_cast<ssize_t>(input.size()));
    start_reading("pipe", arguments);
    return fd;
  }

  std::string text_of(const std::string& name) const {
    std::ostringstream out;
    out << std::ifstream(folder_ + "/" + name).rdbuf();
    return out.str();
  }

  /// Serves status queries; returns the next other message of a client. Fails the test after
  /// kPatience.
  std::optional<comm::FromClient> next_message() {
    const Time until = now() + kPatience;
    while (now() < until) {
      if (!kept_.empty()) {
        comm::FromClient message = std::move(kept_.front());
        kept_.pop_front();
        return message;
      }
      for (comm::CoordinatorInput& input : io_->inbox().drain_wait(milliseconds(20))) {
        auto* message = std::get_if<comm::FromClient>(&input);
        if (message == nullptr || std::holds_alternative<api::Credit>(message->message)) continue;
        if (std::holds_alternative<api::StatusQuery>(message->message)) {
          io_->send(comm::ToClient{message->client, {status_}});
        } else {
          kept_.push_back(std::move(*message));
        }
      }
      if (stop_when_ended_ && ended()) return std::nullopt;
    }
    ADD_FAILURE() << "no message came; stderr: " << text_of("err");
    return std::nullopt;
  }

  struct Asked {
    ClientId client;
    api::Submit submit;
    std::string prompt;
  };
  Asked next_submit() {
    auto message = next_message();
    if (!message || !std::holds_alternative<api::Submit>(message->message)) {
      ADD_FAILURE() << "no submit; stderr: " << text_of("err");
      return {};
    }
    Asked asked{message->client, std::get<api::Submit>(message->message), ""};
    if (const auto* text = std::get_if<std::string>(&asked.submit.prompt)) asked.prompt = *text;
    return asked;
  }

  void answer(const Asked& asked, const std::string& text, bool finish = true) {
    api::Finished finished;
    finished.request_id = asked.submit.request_id;
    finished.samples = {{FinishReason::kStop, "", 1}};
    finished.error.code = ErrorCode::kOk;
    std::vector<api::ServerEvent> events = {
        api::Accepted{asked.submit.request_id, {1, 2}, 3, 10},
        api::TokenChunk{asked.submit.request_id, 0, 0, {9}, 0, text, {}}};
    if (finish) events.push_back(finished);
    io_->send(comm::ToClient{asked.client, events});
  }
  void reject(const Asked& asked, ErrorCode code, const std::string& why,
              Duration retry_after = {}) {
    io_->send(comm::ToClient{asked.client,
                             {api::Rejected{asked.submit.request_id, {code, why}, retry_after}}});
  }

  bool ended() {
    if (pid_ > 0 && waitpid(pid_, &status_code_, WNOHANG) == pid_) pid_ = 0;
    return pid_ == 0;
  }
  int exit_code() {
    stop_when_ended_ = true;
    if (!ended()) {
      const auto unexpected = next_message();
      EXPECT_FALSE(unexpected.has_value()) << "a message nobody expected";
    }
    return ended() && WIFEXITED(status_code_) ? WEXITSTATUS(status_code_) : -1;
  }

  std::unique_ptr<comm::CoordinatorIo> io_;
  api::StatusReport status_{.ready = true,
                            .model = "scripted",
                            .policy = "fcfs",
                            .expected_replicas = 1,
                            .uptime_s = 100};
  std::deque<comm::FromClient> kept_;
  std::string folder_;
  pid_t pid_ = 0;
  int status_code_ = 0;
  bool stop_when_ended_ = false;
};

TEST_F(Generate, StreamsTextAndEndsWithANewline) {
  start("generate 'Once upon' --max-tokens 5 --temperature 0 --seed 7 --stop x --stop y");
  const Asked asked = next_submit();
  EXPECT_EQ(asked.prompt, "Once upon");
  EXPECT_EQ(asked.submit.sampling.max_tokens, 5);
  EXPECT_EQ(asked.submit.sampling.temperature, 0.0f);
  EXPECT_EQ(asked.submit.sampling.top_p, std::nullopt) << "the server knows the model's default";
  EXPECT_TRUE(asked.submit.has_seed);
  EXPECT_EQ(asked.submit.sampling.stop, (std::vector<std::string>{"x", "y"}));
  answer(asked, " a time \xC3\xA9");
  EXPECT_EQ(exit_code(), 0) << text_of("err");
  EXPECT_EQ(text_of("out"), " a time \xC3\xA9\n");
}

TEST_F(Generate, JsonCarriesTokensAndTimings) {
  start("generate --chat Hi --system Be --json");
  const Asked asked = next_submit();
  const auto& messages = std::get<std::vector<api::ChatMessage>>(asked.submit.prompt);
  ASSERT_EQ(messages.size(), 2u);
  EXPECT_EQ(messages[0].role, "system");
  EXPECT_EQ(messages[1].content, "Hi");
  answer(asked, "Hello");
  EXPECT_EQ(exit_code(), 0) << text_of("err");
  const json out = json::parse(text_of("out"));
  EXPECT_EQ(out["text"], "Hello");
  EXPECT_EQ(out["token_ids"], json::array({9}));
  EXPECT_EQ(out["prompt_token_ids"], json({1, 2}));
  EXPECT_EQ(out["finish_reason"], "stop");
  EXPECT_TRUE(out["timings"].contains("first_token"));
}

TEST_F(Generate, AFileIsAnsweredInItsOrderWithErrorsInTheirPlace) {
  start("generate --prompts - --json",
        "{\"prompt\": \"a\", \"id\": \"first\"}\n\nnot json\n{\"prompt\": \"b\"}\n{\"prompt\": "
        "\"c\"}\n");
  std::map<std::string, Asked> asked;
  for (int i = 0; i < 3; ++i) {
    const Asked next = next_submit();
    asked[next.prompt] = next;
  }
  reject(asked["c"], ErrorCode::kInvalidArgument, "no c");
  answer(asked["b"], "B");
  answer(asked["a"], "A");
  EXPECT_EQ(exit_code(), 1);
  std::istringstream lines(text_of("out"));
  std::vector<json> out;
  for (std::string line; std::getline(lines, line);) out.push_back(json::parse(line));
  ASSERT_EQ(out.size(), 4u);
  EXPECT_EQ(out[0]["text"], "A");
  EXPECT_EQ(out[0]["id"], "first");
  EXPECT_EQ(out[1]["error"]["message"], "line 3: not valid JSON (at byte 1)");
  EXPECT_EQ(out[2]["text"], "B");
  EXPECT_EQ(out[3]["error"]["message"], "no c");
}

TEST_F(Generate, ALineNestedDeepCostsOnlyItself) {
  const std::string deep = std::string(100000, '[') + std::string(100000, ']');
  start("generate --prompts - --json", "{\"prompt\": \"a\"}\n{\"prompt\": " + deep +
                                           "}\n{\"id\": " + deep +
                                           ", \"prompt\": \"c\"}\n{\"prompt\": \"d\"}\n");
  for (int i = 0; i < 2; ++i) {
    const Asked asked = next_submit();
    answer(asked, asked.prompt);
  }
  EXPECT_EQ(exit_code(), 1);
  std::istringstream lines(text_of("out"));
  std::vector<json> out;
  for (std::string line; std::getline(lines, line);) out.push_back(json::parse(line));
  ASSERT_EQ(out.size(), 4u);
  EXPECT_EQ(out[0]["text"], "a");
  for (const int i : {1, 2}) {
    const std::string message = out[i]["error"]["message"];
    EXPECT_EQ(message.rfind("line " + std::to_string(i + 1) + ": JSON nested deeper than 100", 0),
              0u)
        << message;
  }
  EXPECT_EQ(out[3]["text"], "d");
}

TEST_F(Generate, TextThatIsNotUtf8IsRefusedByItsName) {
  const auto refusal = [&](const std::string& arguments) {
    stop_when_ended_ = true;
    start("generate " + arguments);
    EXPECT_EQ(next_message(), std::nullopt) << arguments;
    EXPECT_EQ(exit_code(), 1);
    return text_of("err");
  };
  EXPECT_EQ(refusal("Hi --stop ok --stop ' \xE9'"), "tailor: stop[1] is not UTF-8 at byte 1\n");
  EXPECT_EQ(refusal("'Hi \xE9'"), "tailor: the prompt is not UTF-8 at byte 3\n");
  EXPECT_EQ(refusal("--chat '\xC3('"), "tailor: messages[0].content is not UTF-8 at byte 0\n");
}

TEST_F(Generate, EndTokensAndSpecialTokensAreAsked) {
  start("generate --stop-token-ids 5,7 --stop-token-ids 9 Hi --no-parse-special-tokens");
  const Asked words = next_submit();
  EXPECT_EQ(words.submit.sampling.stop_token_ids, (std::vector<TokenId>{5, 7, 9}));
  EXPECT_EQ(words.submit.parse_special_tokens, false);
  answer(words, "A");
  EXPECT_EQ(exit_code(), 0) << text_of("err");
  start("generate --chat Hi");
  const Asked plain = next_submit();
  EXPECT_EQ(plain.submit.parse_special_tokens, std::nullopt);
  answer(plain, "A");
  EXPECT_EQ(exit_code(), 0) << text_of("err");
}

TEST_F(Generate, AFileIsReadAheadOnlyAsFarAsParallelSays) {
  std::string input;
  for (int i = 0; i < 5; ++i) input += "{\"prompt\": \"" + std::to_string(i) + "\"}\n";
  start("generate --prompts - --json --parallel 2", input);
  Asked first = next_submit();
  Asked second = next_submit();
  EXPECT_EQ(first.prompt, "0");
  answer(second, "1");  // out of order: nothing can be printed, so nothing more may be read
  const auto more = [&] {
    for (int i = 0; i < 10; ++i) {
      for (auto& input : io_->inbox().drain_wait(milliseconds(20))) {
        if (auto* from = std::get_if<comm::FromClient>(&input);
            from && std::holds_alternative<api::Submit>(from->message))
          return true;
      }
    }
    return false;
  };
  EXPECT_FALSE(more());
  answer(first, "0");
  for (int i = 2; i < 5; ++i) {
    const Asked next = next_submit();
    EXPECT_EQ(next.prompt, std::to_string(i));
    answer(next, next.prompt);
  }
  EXPECT_EQ(exit_code(), 0) << text_of("err");
}

TEST_F(Generate, AnInputThatStaysOpenHoldsUpNeitherAnswersNorAnInterrupt) {
  const int input = start_on_open_input("generate --prompts - --json",
                                        "{\"prompt\": \"a\"}\n{\"prompt\": \"b\"}\n");
  answer(next_submit(), "A");
  const Asked second = next_submit();
  const Time until = now() + kPatience;
  while (text_of("out").find("\n") == std::string::npos && now() < until) poll(nullptr, 0, 10);
  EXPECT_NE(text_of("out").find("\"A\""), std::string::npos);
  kill(pid_, SIGTERM);
  const auto message = next_message();
  ASSERT_TRUE(message && std::holds_alternative<api::Cancel>(message->message));
  EXPECT_EQ(std::get<api::Cancel>(message->message).request_id, second.submit.request_id);
  EXPECT_EQ(exit_code(), 130);
  close(input);
}

TEST_F(Generate, ATerminatedChatCancelsAndLeaves) {
  const int input = start_on_open_input("chat", "one\n");
  const Asked asked = next_submit();
  kill(pid_, SIGTERM);
  const auto message = next_message();
  ASSERT_TRUE(message && std::holds_alternative<api::Cancel>(message->message));
  EXPECT_EQ(exit_code(), 143);
  close(input);
}

TEST_F(Generate, AFullQueueIsTriedAgainForAFile) {
  start("generate --prompts - --json", "{\"prompt\": \"a\"}\n");
  const Asked first = next_submit();
  reject(first, ErrorCode::kQueueFull, "full", milliseconds(50));
  const Asked again = next_submit();
  EXPECT_EQ(again.prompt, "a");
  answer(again, "A");
  EXPECT_EQ(exit_code(), 0) << text_of("err");
  EXPECT_EQ(json::parse(text_of("out"))["text"], "A");
}

TEST_F(Generate, CollectSendsAgainNotBeforeItIsToldTo) {
  api::ReplicaStatus replica;
  replica.info.model_fingerprint = "f";
  replica.info.arithmetic_version = "a";
  status_.replicas = {replica};
  std::ofstream(folder_ + "/prompts") << "{\"id\": \"a\", \"text\": \"A\"}\n"
                                      << "{\"id\": \"b\", \"text\": \"B\"}\n";
  start("collect --prompts " + folder_ + "/prompts --out " + folder_ +
        "/lengths --samples 1 --slots 2");
  const auto word = [](const Asked& asked) {
    return std::get<std::vector<api::ChatMessage>>(asked.submit.prompt).at(0).content;
  };
  const Asked a = next_submit(), b = next_submit();
  ASSERT_EQ(word(a) + word(b), "AB");
  EXPECT_EQ(a.submit.sampling.top_p, 0.95f) << "all of it is given";
  EXPECT_EQ(a.submit.sampling.repetition_penalty, 1.0f);
  // At once, so that both waits begin together: the shorter one ends first.
  const auto full = [](const Asked& asked, Duration wait) {
    return api::Rejected{asked.submit.request_id, {ErrorCode::kQueueFull, "full"}, wait};
  };
  io_->send(comm::ToClient{a.client, {full(a, seconds(1)), full(b, milliseconds(1))}});
  const Asked first = next_submit(), second = next_submit();
  EXPECT_EQ(word(first) + word(second), "BA");
  answer(first, "x");
  answer(second, "y");
  EXPECT_EQ(exit_code(), 0) << text_of("err");
  const std::string lengths = text_of("lengths");
  EXPECT_EQ(std::count(lengths.begin(), lengths.end(), '\n'), 3) << lengths;
}

TEST_F(Generate, InterruptCancelsOnTheServer) {
  start("generate hello");
  const Asked asked = next_submit();
  answer(asked, "partial", /*finish=*/false);
  const Time until = now() + kPatience;
  while (text_of("out") != "partial" && now() < until) poll(nullptr, 0, 10);
  kill(pid_, SIGINT);
  const auto message = next_message();
  ASSERT_TRUE(message && std::holds_alternative<api::Cancel>(message->message));
  EXPECT_EQ(std::get<api::Cancel>(message->message).request_id, asked.submit.request_id);
  EXPECT_EQ(exit_code(), 130);
}

TEST_F(Generate, AClosedPipeCancelsAndEndsQuietly) {
  const std::string line = TAILOR_BINARY_DIR "/bin/tailor generate hello --endpoint " +
                           io_->api_endpoint() + " 2>" + folder_ + "/err | true; exit 0";
  pid_ = fork();
  if (pid_ == 0) {
    execl("/bin/sh", "sh", "-c", line.c_str(), static_cast<char*>(nullptr));
    _exit(127);
  }
  const Asked asked = next_submit();
  answer(asked, "text into nothing", /*finish=*/false);
  const auto message = next_message();
  ASSERT_TRUE(message && std::holds_alternative<api::Cancel>(message->message));
  EXPECT_EQ(exit_code(), 0);
  EXPECT_EQ(text_of("err"), "");
}

TEST_F(Generate, ATimeoutCancelsAndSaysSo) {
  start("generate hello --timeout 0.3");
  const Asked asked = next_submit();
  const auto message = next_message();
  ASSERT_TRUE(message && std::holds_alternative<api::Cancel>(message->message));
  EXPECT_EQ(exit_code(), 1);
  EXPECT_NE(text_of("err").find("--timeout"), std::string::npos) << text_of("err");
}

TEST_F(Generate, ChatKeepsTheHistoryAndTrimsItWhenItOutgrowsTheContext) {
  start("chat --system S", "one\ntwo\n/quit\n");
  Asked asked = next_submit();
  answer(asked, "1");
  asked = next_submit();
  EXPECT_EQ(std::get<std::vector<api::ChatMessage>>(asked.submit.prompt).size(), 4u);
  reject(asked, ErrorCode::kLimitExceeded, "too long");
  asked = next_submit();
  const auto& messages = std::get<std::vector<api::ChatMessage>>(asked.submit.prompt);
  ASSERT_EQ(messages.size(), 2u);
  EXPECT_EQ(messages[0].content, "S");
  EXPECT_EQ(messages[1].content, "two");
  answer(asked, "2");
  EXPECT_EQ(exit_code(), 0) << text_of("err");
  EXPECT_NE(text_of("err").find("forgotten"), std::string::npos);
}

TEST_F(Generate, StatusPrintsEverythingAsJsonAndWaitsForReady) {
  status_.ready = false;
  api::ReplicaStatus replica;
  replica.busy_s = 4;
  replica.forward_s = 3;
  replica.sample_s = 0.5;
  status_.replicas = {replica};
  status_.end_tokens = {{2, "<|im_end|>"}, {0, "</s>"}};
  start("status --json");
  EXPECT_EQ(exit_code(), 0) << text_of("err");
  json out = json::parse(text_of("out"));
  EXPECT_EQ(out["ready"], false);
  EXPECT_EQ(out["model"], "scripted");
  ASSERT_EQ(out["replicas"].size(), 1u);
  EXPECT_EQ(out["end_tokens"][0]["token"], 2);
  EXPECT_EQ(out["end_tokens"][1]["text"], "</s>");
  EXPECT_EQ(out["replicas"][0]["busy_s"], 4.0);
  EXPECT_EQ(out["replicas"][0]["forward_s"], 3.0);
  EXPECT_EQ(out["replicas"][0]["sample_s"], 0.5);

  stop_when_ended_ = false;
  start("status --wait 0.2");
  EXPECT_EQ(exit_code(), 1);
  status_.ready = true;
  stop_when_ended_ = false;
  start("status --wait 20");
  EXPECT_EQ(exit_code(), 0) << text_of("err");
  EXPECT_EQ(text_of("out").find("ready at tcp://127.0.0.1:"), 0u) << text_of("out");
  EXPECT_NE(text_of("out").find("an answer ends with 2 <|im_end|>, 0 </s>\n"), std::string::npos)
      << text_of("out");
}

}  // namespace
}  // namespace tailor::launch
