// A whole replica in this process around an exact engine (hash_engine.h), for tests: real leader
// and follower loops, sampler, text thread, plan channel and collective; only the wire to the
// coordinator is a pair of mailboxes.
#pragma once

#include <gtest/gtest.h>

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <thread>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "comm/collective_inprocess.h"
#include "tests/parallel/delayed_engine.h"
#include "tests/worker/hash_engine.h"
#include "tests/worker/told.h"
#include "worker/follower_loop.h"
#include "worker/leader_loop.h"

namespace tailor::worker::test {

/// A WorkerIo whose other end is in this process.
class LocalIo : public comm::WorkerIo {
 public:
  Mailbox<comm::WorkerInput>& inbox() override { return inbox_; }
  void report(comm::ReportFrame report) override { reports_.push_always(std::move(report)); }
  size_t backlog() const override { return reports_.size(); }
  void ring() override {
    for (LocalIo* f : followers) f->inbox_.push_always(comm::Doorbell{});
  }
  const std::string& doorbell_endpoint() const override { return endpoint_; }
  Mailbox<comm::ReportFrame>& reports() { return reports_; }

  std::vector<LocalIo*> followers;

 private:
  Mailbox<comm::WorkerInput> inbox_{4096};
  Mailbox<comm::ReportFrame> reports_{1 << 20};
  std::string endpoint_ = "here";
};

struct Answer {
  std::vector<TokenId> tokens;
  FinishReason finish = FinishReason::kNone;
  Error error;
  std::vector<LogprobEntry> logprobs;
};

inline constexpr int32_t kContext = 400;

/// The coordinator's end of a replica's link: sends commands and keeps what the reports say. Where
/// the tokens are not told (the simulator), they are zeros.
class ReplicaEnd {
 public:
  virtual ~ReplicaEnd() = default;

  void send(WorkerCommand command, DispatchPayload payload = {}) {
    deliver({{{{}, epoch_, ++sequence_}, std::move(command)}, std::move(payload)});
  }
  void welcome(uint32_t epoch) {
    epoch_ = Epoch{epoch};
    send(Welcome{});
  }
  void dispatch(const Request& request, std::vector<std::vector<TokenId>> generated = {},
                uint32_t attempt = 1) {
    generated.resize(request.sampling.n);
    for (int s = 0; s < request.sampling.n; ++s) {
      const bool again = answers.count({request.id, static_cast<uint32_t>(s)}) > 0;
      answers[{request.id, static_cast<uint32_t>(s)}].tokens = generated[s];
      if (!again) ++open_;
    }
    attempts_[request.id] = Attempt{attempt};
    send_dispatch(request, generated, attempt);
  }
  void send_dispatch(const Request& request, std::vector<std::vector<TokenId>> generated,
                     uint32_t attempt) {
    send(Dispatch{request.id, Attempt{attempt}, static_cast<uint32_t>(request.sampling.n),
                  static_cast<uint32_t>(request.prompt.size()),
                  static_cast<uint32_t>(request.sampling.max_tokens)},
         {std::make_shared<const Request>(request), std::move(generated)});
  }
  void cancel(const Request& request) { send(CancelRequest{request.id, attempts_[request.id]}); }

  /// Reads reports until `until` holds; false after 20 s.
  bool read(const std::function<bool()>& until) {
    const auto deadline = now() + seconds(20);
    while (!until()) {
      if (now() > deadline) return false;
      for (comm::ReportFrame& report : listen()) take(report);
    }
    return true;
  }
  bool read_all() {
    return read([this] { return open_ == 0; });
  }
  std::map<SequenceId, Answer> answers;
  std::vector<LawProbed> laws;
  int preemptions = 0, prefills = 0, hellos = 0, drained = 0;
  StepReport last;

  std::vector<StepReport> reports;  ///< without what they are about

 protected:
  virtual void deliver(comm::CommandFrame frame) = 0;
  virtual std::deque<comm::ReportFrame> listen() = 0;  ///< waits a little
  const std::map<RequestId, Attempt>& attempts() const { return attempts_; }

 private:
  void take(comm::ReportFrame& frame) {
    WorkerReport& report = frame.from.report;
    if (std::holds_alternative<Hello>(report)) ++hellos;
    if (std::holds_alternative<Drained>(report)) ++drained;
    auto* step = std::get_if<StepReport>(&report);
    if (step == nullptr) return;
    EXPECT_GE(step->step_time, step->forward_time + step->sample_time);
    if (frame.payload.texts.empty()) {  // numbers only
      frame.payload.texts.resize(step->progress.size());
      for (const SequenceProgress& p : step->progress)
        frame.payload.token_ids.resize(frame.payload.token_ids.size() + p.num_tokens);
    }
    for (const Told& t : told(*step, std::move(frame.payload))) {
      Answer& a = answers[t.sequence];
      if (t.attempt < attempts_[t.sequence.request]) continue;
      EXPECT_EQ(t.attempt, attempts_[t.sequence.request]);
      EXPECT_EQ(a.finish, FinishReason::kNone) << "reported behind its end";
      EXPECT_EQ(t.first_index, a.tokens.size()) << "a token is lost or doubled";
      a.tokens.insert(a.tokens.end(), t.token_ids.begin(), t.token_ids.end());
      a.logprobs.insert(a.logprobs.end(), t.logprobs.begin(), t.logprobs.end());
      if (t.finish == FinishReason::kNone) continue;
      a.finish = t.finish;
      a.error = t.error;
      --open_;
    }
    preemptions += static_cast<int>(step->preempted.size());
    prefills += static_cast<int>(step->prefills.size());
    laws.insert(laws.end(), step->laws.begin(), step->laws.end());
    last = *step;
    last.progress.clear();
    reports.push_back(std::move(*step));
  }

  std::map<RequestId, Attempt> attempts_;
  Epoch epoch_;
  uint64_t sequence_ = 0;
  int open_ = 0;
};

/// Block moves of a replica: each rank's store, and who wants them.
struct Moving {
  std::vector<kv::BlockStore*> stores;  ///< by rank, or none
  MoveDesk* desk = nullptr;
};

/// A whole replica of `tp` threads.
class Replica : public ReplicaEnd {
 public:
  Replica(int tp, PlannerOptions planner, size_t max_backlog = 64, LengthProbe probe = {},
          bool ahead = false, std::shared_ptr<const text::Tokenizer> tokenizer = nullptr,
          Moving moving = {})
      : group_(tp, seconds(20)), engine_group_(tp, seconds(20)) {
    for (int rank = 0; rank < tp; ++rank) ios_.push_back(std::make_unique<LocalIo>());
    for (int rank = 1; rank < tp; ++rank) ios_[0]->followers.push_back(ios_[rank].get());
    progress_ = std::vector<Progress>(tp);
    exits_.resize(tp);
    for (int rank = 0; rank < tp; ++rank) {
      threads_.emplace_back(
          [this, rank, tp, planner, max_backlog, probe, ahead, tokenizer, moving] {
            kv::BlockStore* const store = moving.stores.empty() ? nullptr : moving.stores[rank];
            auto collective = group_.join(rank);
            auto engines = engine_group_.join(rank);
            HashEngine exact(planner.num_blocks, kContext, engines.get());
            parallel::testing::DelayedEngine delayed(exact, engines.get());
            parallel::Engine& engine = ahead ? static_cast<parallel::Engine&>(delayed) : exact;
            if (rank > 0) {
              exits_[rank] = run_follower(
                  {engine, *collective, *ios_[rank], progress_[rank], store}, milliseconds(50));
              return;
            }
            LeaderOptions options{.planner = planner,
                                  .limits = {.eos_tokens = {kEos}, .max_context = kContext},
                                  .max_backlog = max_backlog,
                                  .idle_wait = milliseconds(50),
                                  .probe = probe};
            options.hello.info.num_blocks = planner.num_blocks;
            LeaderLoop loop({engine, tp > 1 ? collective.get() : nullptr, *ios_[0], progress_[0],
                             tokenizer, nullptr, store, moving.desk},
                            options);
            exits_[rank] = loop.run();
          });
    }
  }
  ~Replica() {
    if (!joined_) stop();
  }

  void send_input(comm::WorkerInput input) { ios_[0]->inbox().push_always(std::move(input)); }
  std::vector<LoopExit> stop(bool cluster_stops = true) {
    send(Shutdown{cluster_stops});
    return join();
  }
  std::vector<LoopExit> join() {
    for (auto& t : threads_) t.join();
    joined_ = true;
    return exits_;
  }

 private:
  void deliver(comm::CommandFrame frame) override { send_input(std::move(frame)); }
  std::deque<comm::ReportFrame> listen() override {
    return ios_[0]->reports().drain_wait(milliseconds(20));
  }

  comm::InProcessGroup group_, engine_group_;
  std::vector<std::unique_ptr<LocalIo>> ios_;
  std::vector<Progress> progress_;
  std::vector<LoopExit> exits_;
  std::vector<std::thread> threads_;
  bool joined_ = false;
};

/// The answer as the definition gives it: token by token, alone, without blocks. Its text ends
/// with token `text_stop`, where the request has stop strings.
inline Answer truth(const Request& r, uint32_t sample, TokenId text_stop = -1) {
  parallel::Sampler sampler(kVocab, {kEos});
  SequenceLimits limits{.eos_tokens = {kEos}, .max_context = kContext};
  Answer a;
  while (a.finish == FinishReason::kNone) {
    std::vector<TokenId> all = r.prompt;
    all.insert(all.end(), a.tokens.begin(), a.tokens.end());
    LogprobEntry e;
    a.tokens.push_back(*sampler.sample(r, sample, a.tokens, logits_of(all), &e));
    if (r.sampling.logprobs >= 0) a.logprobs.push_back(e);
    a.finish = finish_reason(r.sampling, static_cast<int64_t>(r.prompt.size()),
                             static_cast<int64_t>(a.tokens.size()), a.tokens.back(), limits);
    const bool late = static_cast<int32_t>(a.tokens.size()) > r.sampling.min_tokens;
    if (!r.sampling.stop.empty() && a.tokens.back() == text_stop && late)
      a.finish = FinishReason::kStop;
  }
  return a;
}

inline std::vector<Request> workload(int count, uint64_t seed) {
  std::mt19937_64 rng(seed);
  auto between = [&](int a, int b) { return a + static_cast<int>(rng() % (b - a + 1)); };
  std::vector<Request> out;
  for (int i = 0; i < count; ++i) {
    Request r;
    r.id = RequestId{static_cast<uint64_t>(100 + i)};
    for (int n = between(1, 90); n > 0; --n) r.prompt.push_back(between(1, 60));
    SamplingParams& p = r.sampling;
    p.temperature = between(0, 2) == 0 ? 0.0f : 1.2f;
    p.seed = rng();
    p.max_tokens = between(1, 70);
    p.min_tokens = between(0, 1) ? between(0, p.max_tokens) : 0;
    p.ignore_eos = between(0, 3) == 0;
    if (between(0, 2) == 0) p.top_p = 0.8f;
    if (between(0, 2) == 0) p.repetition_penalty = 1.3f;
    if (between(0, 2) == 0) p.stop_token_ids = {7};
    if (between(0, 3) == 0) p.n = between(2, 4);
    if (between(0, 3) == 0) p.logprobs = 2;
    out.push_back(std::move(r));
  }
  return out;
}

}  // namespace tailor::worker::test
