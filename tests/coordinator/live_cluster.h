// A live coordinator in this process over real sockets, with scripted leaders: threads that speak
// WorkerIo and drive a ReplicaCore with a deterministic answer (letter i of the alphabet as token
// i).
#pragma once

#include <gtest/gtest.h>

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "client/client.h"
#include "comm/predictor_io.h"
#include "comm/worker_io.h"
#include "coordinator/coordinator_loop.h"
#include "worker/replica_core.h"

namespace tailor::coordinator {

inline constexpr Duration kPatience = seconds(60);  // a bound, not a pause

/// Every byte is a token: byte b has id b. The written forms are GPT-2's (printable bytes as they
/// are, the others from U+0100 on).
inline text::VocabularySpec byte_vocabulary() {
  const auto utf8 = [](uint32_t c) {
    return c < 0x80 ? std::string(1, static_cast<char>(c))
                    : std::string{static_cast<char>(0xC0 | (c >> 6)),
                                  static_cast<char>(0x80 | (c & 0x3F))};
  };
  text::VocabularySpec spec;
  spec.model = "gpt2";
  spec.pre = "gpt-2";
  uint32_t next = 256;
  for (uint32_t b = 0; b < 256; ++b) {
    const bool printable = (b >= '!' && b <= '~') || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
    spec.tokens.push_back(utf8(printable ? b : next));
    if (!printable) ++next;
    spec.types.push_back(1);
  }
  return spec;
}

inline PromptText byte_text() {
  PromptText text;
  auto tokenizer = text::Tokenizer::from_vocabulary(byte_vocabulary());
  EXPECT_TRUE(tokenizer.has_value()) << (tokenizer ? "" : tokenizer.error().message);
  if (tokenizer) text.tokenizer = *tokenizer;
  text.vocab_size = 256;
  return text;
}

inline comm::LinkKey cluster_key() { return *comm::make_link_key({3}); }

inline TokenId answer_token(uint32_t index) { return static_cast<TokenId>('a' + index % 26); }
inline std::string answer_text(uint32_t tokens) {
  std::string text;
  for (uint32_t i = 0; i < tokens; ++i) text += static_cast<char>(answer_token(i));
  return text;
}

class ScriptedLeader {
 public:
  struct Options {
    std::string endpoint;
    uint32_t replica = 0;
    uint32_t slots = 4;
    std::string fingerprint = "model-1";
    uint32_t max_context = 4096;
    uint64_t die_after_tokens = UINT64_MAX;    ///< then it leaves without a word
    uint64_t pause_after_tokens = UINT64_MAX;  ///< then it produces nothing more, but lives
  };

  explicit ScriptedLeader(const Options& options) : options_(options) {
    comm::WorkerIoOptions io;
    io.control_endpoint = options.endpoint;
    io.link_key = cluster_key();
    io.replica = ReplicaId{options.replica};
    io.heartbeat_every = milliseconds(20);
    auto started = comm::WorkerIo::start(io, progress_);
    EXPECT_TRUE(started.has_value());
    io_ = std::move(*started);
    thread_ = std::thread([this] { run(); });
  }
  ~ScriptedLeader() {
    leave_ = true;
    thread_.join();
  }
  void wait_until_gone() {
    while (!gone_) std::this_thread::yield();
  }
  int32_t pid() const {  // made up: the test is one process
    return static_cast<int32_t>(reinterpret_cast<uintptr_t>(this) >> 4 & 0x7FFFFFFF);
  }
  bool was_shut_down() const { return shut_down_; }
  uint64_t tokens() const { return tokens_; }

 private:
  void run() {
    Hello hello;
    hello.info.model_fingerprint = options_.fingerprint;
    hello.info.arithmetic_version = "letters-1";
    hello.info.engine = "scripted";
    hello.info.slots = options_.slots;
    hello.info.block_tokens = 16;
    hello.info.num_blocks = kBlocks;
    hello.info.max_context = options_.max_context;
    hello.info.vocab_size = 256;
    hello.info.pid = pid();
    io_->report({{{ReplicaId{options_.replica}}, hello}, {}});
    while (!leave_ && !shut_down_) {
      const bool at_rest = tokens_ >= options_.pause_after_tokens || io_->backlog() > 64;
      const Duration wait = core_.has_work() ? milliseconds(1) : milliseconds(20);
      for (auto& input :
           at_rest || !core_.has_work() ? io_->inbox().drain_wait(wait) : io_->inbox().drain())
        if (auto* command = std::get_if<comm::CommandFrame>(&input)) take(*command);
      if (tokens_ >= options_.die_after_tokens) break;
      if (tokens_ < options_.pause_after_tokens && io_->backlog() <= 64) step();
    }
    if (tokens_ >= options_.die_after_tokens)
      io_.reset();  // its words so far are flushed, then silence
    gone_ = true;
  }

  void take(comm::CommandFrame& frame) {
    if (std::holds_alternative<Shutdown>(frame.to.command)) shut_down_ = true;
    core_.apply(frame.to, std::move(frame.payload));
  }

  void step() {
    if (const worker::Step* step = core_.begin()) {
      std::vector<Result<TokenId>> letters;
      for (const worker::Step::Row& row : step->draws)
        letters.emplace_back(answer_token(row.generated));
      tokens_ += letters.size();
      worker::ReportDraft& draft = core_.end({.tokens = letters});
      draft.report.step_time = microseconds(100);
      draft.report.forward_time = microseconds(60);
      tell(draft);
    } else if (core_.unreported()) {
      tell(core_.report());
    }
    for (FromReplica& word : core_.take_words()) io_->report({std::move(word), {}});
  }

  /// The text of a letter is the letter.
  void tell(worker::ReportDraft& draft) {
    StepPayload& payload = draft.payload;
    for (size_t i = 0; i < payload.texts.size(); ++i) {
      const SequenceProgress& entry = draft.report.progress[i];
      payload.texts[i] = {entry.first_index, entry.num_tokens, 0};
    }
    for (const TokenId letter : payload.token_ids) payload.text += static_cast<char>(letter);
    io_->report({{draft.envelope, std::move(draft.report)}, std::move(payload)});
  }

  static constexpr int32_t kBlocks = 1000;
  const Options options_;
  Progress progress_;
  std::unique_ptr<comm::WorkerIo> io_;
  worker::ReplicaCore core_{{.replica = ReplicaId{options_.replica},
                             .planner = {.num_blocks = kBlocks,
                                         .slots = static_cast<int32_t>(options_.slots),
                                         .token_budget = 1 << 20},
                             .limits = {.max_context = static_cast<int32_t>(options_.max_context)},
                             .vocab_size = 256}};
  std::atomic<uint64_t> tokens_{0};
  std::atomic<bool> leave_{false}, shut_down_{false}, gone_{false};
  std::thread thread_;
};

/// A predictor that is asked over the wire and answers what `law_of` says of the prompt; nothing
/// where that gives nothing.
class ScriptedPredictor {
 public:
  using LawOf = std::function<std::optional<LengthLaw>(const Predict&)>;
  ScriptedPredictor(const std::string& control_endpoint, LawOf law_of)
      : law_of_(std::move(law_of)) {
    comm::PredictorIoOptions options;
    options.control_endpoint = control_endpoint;
    options.link_key = cluster_key();
    options.hello.name = "scripted";
    options.hello_every = milliseconds(20);
    auto started = comm::PredictorIo::start(options);
    EXPECT_TRUE(started.has_value());
    io_ = std::move(*started);
    thread_ = std::thread([this] {
      while (!leave_)
        for (const Predict& question : io_->inbox().drain_wait(milliseconds(10)))
          if (const auto law = law_of_(question)) io_->answer({question.request, *law});
    });
  }
  ~ScriptedPredictor() {
    leave_ = true;
    thread_.join();
  }

 private:
  const LawOf law_of_;
  std::unique_ptr<comm::PredictorIo> io_;
  std::atomic<bool> leave_{false};
  std::thread thread_;
};

class LiveCluster {
 public:
  explicit LiveCluster(CoordinatorOptions options = {}, PromptText text = byte_text()) {
    comm::CoordinatorIoOptions io;
    io.api_endpoint = "tcp://127.0.0.1:*";
    io.control_endpoint = "tcp://127.0.0.1:*";
    io.link_key = cluster_key();
    auto started = comm::CoordinatorIo::start(io);
    EXPECT_TRUE(started.has_value());
    io_ = std::move(*started);
    if (options.clients.max_context == 0) options.clients.max_context = 2048;
    options.model_name = "letters";
    options.clients.seed_entropy = 42;
    options.clients.new_token = client::new_request_id;
    auto loop = CoordinatorLoop::create(options, *io_, std::move(text));
    EXPECT_TRUE(loop.has_value());
    loop_ = std::move(*loop);
    thread_ = std::thread([this] { loop_->run(stop_.fd()); });
  }
  ~LiveCluster() { stop(); }
  void stop() {
    if (!thread_.joinable()) return;
    stop_.signal();
    thread_.join();
  }

  std::unique_ptr<ScriptedLeader> leader(ScriptedLeader::Options options = {}) {
    options.endpoint = io_->control_endpoint();
    return std::make_unique<ScriptedLeader>(options);
  }
  const std::string& endpoint() const { return io_->api_endpoint(); }
  const std::string& control() const { return io_->control_endpoint(); }

 private:
  std::unique_ptr<comm::CoordinatorIo> io_;
  std::unique_ptr<CoordinatorLoop> loop_;
  WakeFd stop_;
  std::thread thread_;
};

/// A client that keeps what it hears, request by request, and checks that it joins.
class Caller {
 public:
  struct Answer {
    int accepted = 0;
    api::Accepted acceptance;
    std::vector<std::vector<TokenId>> tokens;
    std::vector<std::string> text;
    std::vector<api::Finished> finished;
    std::vector<api::Rejected> rejected;
    bool over() const { return !finished.empty() || !rejected.empty(); }
  };

  explicit Caller(const std::string& endpoint,
                  Duration forgotten_after = client::ClientOptions{}.forgotten_after) {
    auto connected = client::Client::connect({endpoint, 64, forgotten_after});
    EXPECT_TRUE(connected.has_value());
    client_ = std::move(*connected);
  }
  static api::Submit ask(const std::string& id, const std::string& prompt, int32_t max_tokens) {
    api::Submit submit;
    submit.request_id = id;
    submit.prompt = prompt;
    submit.sampling.max_tokens = max_tokens;
    return submit;
  }
  void submit(const api::Submit& submit) { EXPECT_TRUE(client_->submit(submit).has_value()); }
  client::Client& client() { return *client_; }

  /// Listens until `enough` says so; false after `limit`.
  bool listen(const std::function<bool()>& enough, Duration limit = kPatience) {
    const Time until = now() + limit;
    while (!enough()) {
      if (now() > until) return false;
      auto events = client_->poll(milliseconds(50));
      if (!events) continue;
      for (auto& event : *events) take(std::move(event));
    }
    return true;
  }
  bool listen_until_over(const std::vector<std::string>& ids, Duration limit = kPatience) {
    return listen(
        [&] {
          return std::all_of(ids.begin(), ids.end(),
                             [&](const auto& id) { return answers[id].over(); });
        },
        limit);
  }
  api::StatusReport status() {
    auto report = client_->status(kPatience);
    EXPECT_TRUE(report.has_value());
    return report ? *report : api::StatusReport{};
  }
  double counter(const std::string& name) {
    for (const auto& [key, value] : status().counters)
      if (key == name) return value;
    ADD_FAILURE() << "no counter " << name;
    return -1;
  }
  /// Asks until the status is as `enough` wants it; false after kPatience.
  bool wait_status(const std::function<bool(const api::StatusReport&)>& enough) {
    const Time until = now() + kPatience;
    while (now() < until)
      if (enough(status())) return true;
    return false;
  }
  bool wait_counter(const std::string& name, double at_least) {
    return wait_status([&](const api::StatusReport& report) {
      for (const auto& [key, value] : report.counters)
        if (key == name) return value >= at_least;
      return false;
    });
  }
  bool wait_predictor(const std::string& state) {
    return wait_status(
        [&](const api::StatusReport& report) { return report.predictor.rfind(state, 0) == 0; });
  }
  bool wait_ready(uint32_t replicas = 1) {
    const Time until = now() + kPatience;
    while (now() < until)
      if (status().replicas.size() >= replicas) return true;
    return false;
  }

  std::map<std::string, Answer> answers;

 private:
  void take(api::ServerEvent event) {
    if (auto* a = std::get_if<api::Accepted>(&event)) {
      ++answers[a->request_id].accepted;
      answers[a->request_id].acceptance = *a;
    } else if (auto* c = std::get_if<api::TokenChunk>(&event)) {
      Answer& answer = answers[c->request_id];
      EXPECT_TRUE(answer.finished.empty()) << "a chunk behind the end";
      if (answer.tokens.size() <= c->sample) {
        answer.tokens.resize(c->sample + 1);
        answer.text.resize(c->sample + 1);
      }
      EXPECT_EQ(c->first_index, answer.tokens[c->sample].size()) << c->request_id;
      EXPECT_EQ(c->text_offset, answer.text[c->sample].size()) << c->request_id;
      answer.tokens[c->sample].insert(answer.tokens[c->sample].end(), c->token_ids.begin(),
                                      c->token_ids.end());
      answer.text[c->sample] += c->text;
    } else if (auto* f = std::get_if<api::Finished>(&event)) {
      answers[f->request_id].finished.push_back(*f);
    } else if (auto* r = std::get_if<api::Rejected>(&event)) {
      answers[r->request_id].rejected.push_back(*r);
    }
  }
  std::unique_ptr<client::Client> client_;
};

}  // namespace tailor::coordinator
