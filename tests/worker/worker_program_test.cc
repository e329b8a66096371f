// tailor-worker as it is served: started by mpirun, spoken to over the real control link by this
// process, which plays the coordinator. The model is a small random one with stored greedy tokens
// of Hugging Face transformers.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>

#include "base/clock.h"
#include "comm/coordinator_io.h"
#include "tests/worker/told.h"

namespace tailor {
namespace {

namespace fs = std::filesystem;
// of the reference's two best logits: as in tests/parallel/parity_test.cc
constexpr double kTieGap = 0.01;

/// The small model with a tokenizer of one word per token beside it.
class Worker : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() / ("tailor-worker-test-" + std::to_string(getpid()));
    fs::remove_all(folder_);
    fs::create_directories(folder_ / "run");
    const fs::path model = fs::path(TAILOR_SOURCE_DIR) / "tests/fixtures/models/llama32_small";
    int64_t vocab = 0;
    for (const auto& entry : fs::directory_iterator(model))
      fs::create_symlink(entry.path(), folder_ / entry.path().filename());
    std::ifstream(model / "config.json") >> config_;
    vocab = config_["vocab_size"];
    nlohmann::json words;
    for (int64_t i = 0; i < vocab; ++i) words[word(static_cast<TokenId>(i))] = i;
    nlohmann::json tokenizer = {
        {"version", "1.0"},
        {"pre_tokenizer", {{"type", "WhitespaceSplit"}}},
        {"decoder", {{"type", "Fuse"}}},
        {"model", {{"type", "WordLevel"}, {"vocab", words}, {"unk_token", word(0)}}}};
    std::ofstream(folder_ / "tokenizer.json") << tokenizer.dump();

    comm::CoordinatorIoOptions options;
    options.api_endpoint = "tcp://127.0.0.1:*";
    options.control_endpoint = "tcp://127.0.0.1:*";
    std::ofstream(folder_ / "link.key") << "01" + std::string(62, '0');
    chmod((folder_ / "link.key").c_str(), 0600);
    options.link_key = *comm::make_link_key({1});
    auto io = comm::CoordinatorIo::start(options);
    ASSERT_TRUE(io) << to_string(io.error());
    io_ = std::move(*io);
    read_fixtures();
  }
  void TearDown() override {
    if (mpirun_ > 0) {
      kill(mpirun_, SIGKILL);
      waitpid(mpirun_, nullptr, 0);
    }
    io_.reset();
    fs::remove_all(folder_);
  }

  static std::string word(TokenId id) { return "w" + std::to_string(id) + "."; }

  void read_fixtures() {
    std::ifstream file(std::string(TAILOR_SOURCE_DIR) +
                       "/tests/fixtures/parity/llama32_small.jsonl");
    uint64_t id = 1;
    for (std::string line; std::getline(file, line); ++id) {
      const auto json = nlohmann::json::parse(line);
      Request r;
      r.id = RequestId{id};
      r.prompt = json["prompt_token_ids"].get<std::vector<TokenId>>();
      r.sampling.temperature = 0;
      expected_[r.id] = json["token_ids"].get<std::vector<TokenId>>();
      gaps_[r.id] = json["gaps"].get<std::vector<double>>();
      r.sampling.max_tokens = static_cast<int32_t>(expected_[r.id].size());
      r.sampling.ignore_eos = json["finish"] == "length";
      requests_.push_back(r);
    }
    ASSERT_GT(requests_.size(), 5u);
  }

  void start(int tp, std::vector<std::string> more = {}) {
    const std::string binary = std::string(TAILOR_BINARY_DIR) + "/bin/" + program_;
    std::vector<std::string> words = {"mpirun",
                                      "--oversubscribe",
                                      "--bind-to",
                                      "none",
                                      "--mca",
                                      "mpi_yield_when_idle",
                                      "1",
                                      "-n",
                                      std::to_string(tp),
                                      binary,
                                      "--model",
                                      folder_.string(),
                                      "--control-endpoint",
                                      io_->control_endpoint(),
                                      "--link-key",
                                      (folder_ / "link.key").string(),
                                      "--replica",
                                      "3",
                                      "--tp",
                                      std::to_string(tp),
                                      "--dtype",
                                      "f32",
                                      "--kv-dtype",
                                      "f32",
                                      "--run-dir",
                                      (folder_ / "run").string(),
                                      "--stuck-after-ms",
                                      "20000",
                                      "--log-level",
                                      "info"};
    words.insert(words.end(), more.begin(), more.end());
    mpirun_ = fork();
    if (mpirun_ == 0) {
      std::vector<char*> argv;
      for (auto& w : words) argv.push_back(w.data());
      argv.push_back(nullptr);
      setenv("HWLOC_COMPONENTS", "-gl", 1);  // as launch/supervisor/cluster_lines.cc
      setenv("OMPI_ALLOW_RUN_AS_ROOT", "1", 1);
      setenv("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1", 1);
      setenv("OMP_NUM_THREADS", "1", 1);
      setenv("TAILOR_CACHE", folder_.c_str(), 1);  // packed weights go with the folder
      dup2(open((folder_ / "log").c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600), STDERR_FILENO);
      execvp(argv[0], argv.data());
      _exit(127);
    }
  }
  void start_and_greet(int tp, std::vector<std::string> more = {}) {
    start(tp, std::move(more));
    ASSERT_TRUE(read([this] { return hello_.has_value(); }, seconds(60))) << log();
    send(Welcome{});
  }

  std::string log() const {
    std::ifstream file(folder_ / "log");
    return std::string(std::istreambuf_iterator<char>(file), {});
  }

  void send(WorkerCommand command, DispatchPayload payload = {}) {
    io_->send(comm::ToWorker{
        link_, {{{replica_, Epoch{1}, ++sequence_}, std::move(command)}, std::move(payload)}});
  }
  void dispatch(const Request& r) {
    send(Dispatch{r.id, Attempt{1}, static_cast<uint32_t>(r.sampling.n),
                  static_cast<uint32_t>(r.prompt.size()),
                  static_cast<uint32_t>(r.sampling.max_tokens)},
         {std::make_shared<const Request>(r), {}});
  }

  bool read(const std::function<bool()>& until, Duration limit = seconds(60)) {
    for (const Time end = now() + limit; !until();) {
      siginfo_t gone{};
      waitid(P_PID, static_cast<id_t>(mpirun_), &gone, WEXITED | WNOHANG | WNOWAIT);
      if (now() > end || gone.si_pid != 0) return false;
      for (auto& input : io_->inbox().drain_wait(milliseconds(50))) {
        auto* from = std::get_if<comm::FromWorker>(&input);
        if (from == nullptr) continue;
        const WorkerReport& report = from->frame.from.report;
        if (auto* hello = std::get_if<Hello>(&report)) {
          hello_ = *hello;
          link_ = from->link;
          replica_ = from->frame.from.envelope.replica;
        }
        if (auto* beat = std::get_if<Heartbeat>(&report)) beats_[beat->rank]++;
        if (std::holds_alternative<Drained>(report)) drained_ = true;
        if (auto* step = std::get_if<StepReport>(&report))
          take(*step, std::move(from->frame.payload));
      }
    }
    return true;
  }
  void take(const StepReport& step, StepPayload payload) {
    last_ = step;
    for (const auto& p : worker::test::told(step, std::move(payload))) {
      auto& tokens = tokens_[p.sequence];
      EXPECT_EQ(p.first_index, tokens.size());
      tokens.insert(tokens.end(), p.token_ids.begin(), p.token_ids.end());
      text_[p.sequence] += p.text;
      if (p.finish != FinishReason::kNone)
        finished_[p.sequence] = p.finish, errors_[p.sequence] = p.error;
    }
    preemptions_ += static_cast<int>(step.preempted.size());
  }
  void expect_reference(const Request& r) {
    const auto& tokens = tokens_[{r.id, 0}];
    const auto& expected = expected_[r.id];
    for (size_t i = 0; i < expected.size(); ++i) {
      if (i < tokens.size() && tokens[i] == expected[i]) continue;
      EXPECT_LT(gaps_[r.id][i], kTieGap) << "request " << r.id.value << " token " << i;
      return;
    }
    EXPECT_EQ(tokens.size(), expected.size());
    std::string text;
    for (TokenId t : tokens) text += word(t);
    const std::string& got = text_[{r.id, 0}];
    // An end token has no text.
    const bool stopped = finished_.at({r.id, 0}) == FinishReason::kStop;
    EXPECT_EQ(got, stopped ? text.substr(0, got.size()) : text);
  }
  int wait_exit() {
    int status = 0;
    for (const Time end = now() + seconds(30); waitpid(mpirun_, &status, WNOHANG) == 0;) {
      if (now() > end) return -1;
      for (auto& input : io_->inbox().drain_wait(milliseconds(20))) (void)input;
    }
    mpirun_ = -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }

  fs::path folder_;
  nlohmann::json config_;
  std::unique_ptr<comm::CoordinatorIo> io_;
  pid_t mpirun_ = -1;
  comm::LinkId link_;
  ReplicaId replica_;
  std::optional<Hello> hello_;
  uint64_t sequence_ = 0;
  std::vector<Request> requests_;
  std::string program_ = "tailor-worker";
  std::map<RequestId, std::vector<TokenId>> expected_;
  std::map<RequestId, std::vector<double>> gaps_;
  std::map<SequenceId, std::vector<TokenId>> tokens_;
  std::map<SequenceId, std::string> text_;
  std::map<SequenceId, FinishReason> finished_;
  std::map<SequenceId, Error> errors_;
  std::map<uint32_t, int> beats_;
  StepReport last_;
  int preemptions_ = 0;
  bool drained_ = false;
};

TEST_F(Worker, AnswersAsTransformersDoes) {
  std::vector<std::pair<std::string, int>> programs = {{"tailor-worker", 1}, {"tailor-worker", 2}};
  if (TAILOR_WITH_TORCH) programs.push_back({"tailor-worker-torch", 2});
  for (const auto& [program, tp] : programs) {
    program_ = program;
    tokens_.clear(), text_.clear(), finished_.clear(), beats_.clear(), hello_.reset(),
        drained_ = false;
    sequence_ = 0;
    start_and_greet(tp, {"--kv-memory", "16MiB"});
    if (HasFatalFailure()) return;
    EXPECT_EQ(replica_, ReplicaId{3});
    EXPECT_EQ(hello_->info.tp_size, static_cast<uint32_t>(tp));
    EXPECT_EQ(hello_->info.vocab_size, config_["vocab_size"].get<uint32_t>());
    EXPECT_GT(hello_->info.num_blocks, 0u);
    EXPECT_FALSE(hello_->info.model_fingerprint.empty());
    for (const auto& r : requests_) dispatch(r);
    ASSERT_TRUE(read([this] { return finished_.size() == requests_.size(); })) << log();
    for (const auto& r : requests_) expect_reference(r);
    EXPECT_EQ(last_.free_blocks, hello_->info.num_blocks);
    EXPECT_GT(last_.step_time, Duration(0));

    // Idle, then once more: the followers sleep and are woken. Meanwhile every rank's heart beats.
    beats_.clear();
    ASSERT_TRUE(read([&] { return static_cast<int>(beats_.size()) == tp && beats_[0] > 4; }));
    finished_.clear(), tokens_.clear(), text_.clear();
    dispatch(requests_[2]);
    ASSERT_TRUE(read([this] { return finished_.size() == 1; })) << log();
    expect_reference(requests_[2]);

    send(Drain{});
    ASSERT_TRUE(read([this] { return drained_; }));
    send(Shutdown{.cluster_stops = true});
    EXPECT_EQ(wait_exit(), 0) << log();
    std::ifstream progress(folder_ / "run/replica-3.progress");
    double part = 0;
    progress >> part;
    EXPECT_EQ(part, 1.0);
  }
}

TEST_F(Worker, EveryTransportBetweenRanksGivesTheSameAnswers) {
  const std::pair<const char*, const char*> transports[] = {
      {"mpi", "transport between the ranks: MPI (as asked)"},
      {"shm", "transport between the ranks: shared memory"},
      {"auto", "transport between the ranks: shared memory"}};
  std::map<SequenceId, std::vector<TokenId>> first;
  for (const auto& [transport, line] : transports) {
    tokens_.clear(), text_.clear(), finished_.clear(), hello_.reset();
    sequence_ = 0;
    start_and_greet(2, {"--kv-memory", "16MiB", "--transport", transport});
    if (HasFatalFailure()) return;
    EXPECT_NE(log().find(line), std::string::npos) << log();
    for (const auto& r : requests_) dispatch(r);
    ASSERT_TRUE(read([this] { return finished_.size() == requests_.size(); })) << log();
    for (const auto& r : requests_) expect_reference(r);
    if (first.empty()) first = tokens_;
    EXPECT_EQ(tokens_, first) << transport;
    send(Shutdown{.cluster_stops = true});
    EXPECT_EQ(wait_exit(), 0) << log();
  }
}

TEST_F(Worker, GivesTheSameTokensWhenBlocksRunOut) {
  // So few blocks that the requests together do not fit.
  const uint64_t layers = config_["num_hidden_layers"], groups = config_["num_key_value_heads"],
                 head = config_.contains("head_dim")
                            ? config_["head_dim"].get<uint64_t>()
                            : config_["hidden_size"].get<uint64_t>() /
                                  config_["num_attention_heads"].get<uint64_t>();
  size_t longest = 0;
  for (const auto& r : requests_)
    longest = std::max(longest, r.prompt.size() + expected_[r.id].size());
  const uint64_t blocks = longest / 16 + 4, bytes = blocks * 16 * layers * 2 * groups * head * 4;
  start_and_greet(1, {"--kv-memory", std::to_string(bytes), "--prefill-budget", "40"});
  if (HasFatalFailure()) return;
  EXPECT_LE(hello_->info.num_blocks, blocks);
  // On a busy machine they may happen to come one after the other: then once more.
  for (int round = 0; round < 20 && preemptions_ == 0; ++round) {
    tokens_.clear(), text_.clear(), finished_.clear();
    for (const auto& r : requests_) dispatch(r);
    ASSERT_TRUE(read([this] { return finished_.size() == requests_.size(); })) << log();
    for (const auto& r : requests_) expect_reference(r);
  }
  EXPECT_GT(preemptions_, 0);
  send(Shutdown{.cluster_stops = true});
  EXPECT_EQ(wait_exit(), 0) << log();
}

TEST_F(Worker, StopStringsAreFoundInTheText) {
  start_and_greet(1, {"--kv-memory", "16MiB"});
  if (HasFatalFailure()) return;
  Request r = requests_[3];
  r.sampling.stop = {word(expected_[r.id][4])};
  size_t first = 0;
  while (expected_[r.id][first] != expected_[r.id][4]) ++first;
  dispatch(r);
  ASSERT_TRUE(read([this] { return finished_.size() == 1; })) << log();
  SequenceId id{r.id, 0};
  EXPECT_EQ(finished_[id], FinishReason::kStop);
  EXPECT_LE(tokens_[id].size(), first + 1) << "nothing behind the stop is reported";
  EXPECT_EQ(text_[id].find(r.sampling.stop[0]), std::string::npos);
  ASSERT_TRUE(read([this] { return last_.free_blocks == hello_->info.num_blocks; }))
      << "its blocks are freed";
  send(Shutdown{});  // it alone: whoever started it does so again
  EXPECT_EQ(wait_exit(), 69) << log();
}

TEST_F(Worker, AMissingModelIsOneSentenceAndExitCode66) {
  fs::remove(folder_ / "config.json");
  start(1);
  EXPECT_EQ(wait_exit(), 66);
  EXPECT_NE(log().find("config.json"), std::string::npos) << log();
}

}  // namespace
}  // namespace tailor
