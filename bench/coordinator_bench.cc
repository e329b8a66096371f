// coordinator_bench: what a token costs the coordinator, and what a waiting request holds there.
//
//   core_step          SchedulerCore takes a step's report of 1,000 sequences, one token each, with
//                      100,000 requests waiting
//   coordinator_step   the live CoordinatorLoop takes the same report as the io thread hands it
//                      over; to the messages for the clients, and to their bytes
//   report_codec       a step's report of 250 sequences, from a leader's values to bytes and back
//   waiting_request    what the coordinator's process holds for a request that waits
//
// Google Benchmark, CPU time of the thread that works; the counter `token` is what to read.
// `--smoke` runs each once with 1,000 requests waiting: whether it works, no figures. The
// loop runs as it is, on the benchmark's own thread: only the io thread is replaced, by World
// below, which plays clients and leader. What it does for that is not timed.
#include <benchmark/benchmark.h>
#include <malloc.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <new>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"
#include "comm/codec_api.h"
#include "comm/codec_control.h"
#include "coordinator/coordinator_loop.h"
#include "coordinator/scheduler_core.h"
#include "tie/law.h"

// ---- memory in use, counted while `counting` ----

namespace {
std::atomic<bool> counting{false};
std::atomic<int64_t> bytes_in_use{0};

/// With what the allocator keeps in front of it.
int64_t size_of(void* block) {
  return static_cast<int64_t>(malloc_usable_size(block) + sizeof(size_t));
}
}  // namespace

void* operator new(size_t bytes) {
  void* block = std::malloc(bytes ? bytes : 1);
  if (!block) throw std::bad_alloc();
  if (counting.load(std::memory_order_relaxed))
    bytes_in_use.fetch_add(size_of(block), std::memory_order_relaxed);
  return block;
}
void operator delete(void* block) noexcept {
  if (block && counting.load(std::memory_order_relaxed))
    bytes_in_use.fetch_sub(size_of(block), std::memory_order_relaxed);
  std::free(block);
}
void operator delete(void* block, size_t) noexcept { operator delete(block); }

namespace tailor::bench {
namespace {

using benchmark::Counter;
using benchmark::State;

constexpr uint32_t kNeverEnds = 1u << 20;
constexpr Duration kStep = milliseconds(25);
constexpr Duration kForever = seconds(1'000'000);

/// A sequence at its replica, and which of its tokens comes next.
struct Running {
  RequestId id;
  Attempt attempt;
  uint32_t next = 0;
};

/// Tokens of the n-th request's answer: of 100 to 299, or without end.
uint32_t answer_length(RequestId id, bool ends) {
  return ends ? 100 + static_cast<uint32_t>(id.value * 7919 % 200) : kNeverEnds;
}

/// What a replica says of its running sequences after a step.
comm::ReportFrame report_of(std::vector<Running>& running, Epoch epoch, uint64_t step, bool ends) {
  StepReport report;
  StepPayload payload;
  report.step = step;
  report.applied_seq = step;
  report.step_time = kStep;
  report.forward_time = milliseconds(20);
  report.sample_time = milliseconds(2);
  report.decode_tokens = report.running_sequences = static_cast<uint32_t>(running.size());
  report.free_blocks = 50'000;
  report.progress.reserve(running.size());
  for (Running& sequence : running) {
    SequenceProgress progress{sequence.id,   0, sequence.attempt,
                              sequence.next, 1, FinishReason::kNone};
    payload.token_ids.push_back(static_cast<TokenId>(1 + sequence.next % 30'000));
    payload.texts.push_back({5ull * sequence.next, 5, 0});
    payload.text += " word";
    if (++sequence.next == answer_length(sequence.id, ends)) progress.finish = FinishReason::kStop;
    report.progress.push_back(progress);
  }
  return {{{ReplicaId{0}, epoch, step}, std::move(report)}, std::move(payload)};
}

/// CPU time for one of `things`.
Counter each(double things) { return Counter(things, Counter::kIsRate | Counter::kInvert); }

// ---- the core alone ----

/// A core with one replica that is full, and requests that wait.
class CoreUnderLoad {
 public:
  CoreUnderLoad(const char* policy, uint32_t slots, uint32_t waiting, bool ends)
      : core_(options(policy)), ends_(ends) {
    Hello hello;
    hello.info.slots = slots;
    hello.info.num_blocks = 100'000;
    tell(FromReplica{{ReplicaId{0}}, hello});
    for (uint32_t i = 0; i < slots + waiting; ++i) arrive();
    TAILOR_CHECK(running_.size() == slots && core_.waiting() == waiting, "all have arrived");
  }

  void build_report() {
    now_ += kStep;
    auto& from = std::get<FromReplica>(report_);
    from.envelope = {ReplicaId{0}, epoch_, ++step_};
    auto& report = std::get<StepReport>(from.report);
    report.running_sequences = static_cast<uint32_t>(running_.size());
    report.free_blocks = 50'000;
    report.progress.clear();
    for (Running& sequence : running_) {
      const bool last = sequence.next + 1 == answer_length(sequence.id, ends_);
      report.progress.push_back({sequence.id, 0, sequence.attempt, sequence.next++, 1,
                                 last ? FinishReason::kStop : FinishReason::kNone});
    }
  }
  /// What is timed.
  void take_report() {
    commands_.clear();
    core_.handle(now_, report_, commands_);
  }
  /// Whoever has ended makes room for those who were dispatched, and as many arrive anew.
  void follow() {
    const size_t ended = std::erase_if(running_, [this](const Running& sequence) {
      return sequence.next == answer_length(sequence.id, ends_);
    });
    take_dispatches();
    for (size_t i = 0; i < ended; ++i) arrive();
    ended_ += ended;
  }
  double ended() const { return static_cast<double>(ended_); }

 private:
  static coordinator::CoreOptions options(const char* policy) {
    coordinator::CoreOptions options;
    options.policy = *coordinator::policy_named(policy);
    options.queue_limit = UINT32_MAX;
    options.ahead_requests = 0;
    return options;
  }
  void tell(const coordinator::CoreEvent& event) {
    commands_.clear();
    core_.handle(now_, event, commands_);
    take_dispatches();
  }
  void take_dispatches() {
    for (const auto& command : commands_) {
      const auto* to = std::get_if<ToReplica>(&command);
      if (!to) continue;
      epoch_ = to->envelope.epoch;
      if (const auto* dispatch = std::get_if<Dispatch>(&to->command))
        running_.push_back({dispatch->request, dispatch->attempt, 0});
    }
  }
  void arrive() {
    now_ += microseconds(10);
    coordinator::Arrived arrived;
    arrived.id = RequestId{++last_id_};
    arrived.prompt_tokens = 100;
    arrived.max_tokens = kNeverEnds;
    arrived.arrival = now_;
    tell(arrived);
    tell(Predicted{arrived.id, tie::log_t(3 + static_cast<double>(random_() % 4000) / 1000, 0.8)});
  }

  coordinator::SchedulerCore core_;
  const bool ends_;
  Time now_{seconds(1)};
  Epoch epoch_;
  uint64_t last_id_ = 0;
  size_t ended_ = 0;
  std::mt19937_64 random_{1};
  std::vector<Running> running_;
  uint64_t step_ = 0;
  coordinator::CoreEvent report_ = FromReplica{{}, StepReport{}};
  std::vector<coordinator::CoreCommand> commands_;
};

void core_step(State& state, const char* policy, uint32_t waiting, bool ends) {
  constexpr uint32_t kSequences = 1000;
  CoreUnderLoad load(policy, kSequences, waiting, ends);
  for (auto _ : state) {
    state.PauseTiming();
    load.build_report();
    state.ResumeTiming();
    load.take_report();
    state.PauseTiming();
    load.follow();
    state.ResumeTiming();
  }
  const auto steps = static_cast<double>(state.iterations());
  state.counters["token"] = each(steps * kSequences);
  if (ends) state.counters["ended/step"] = load.ended() / steps;
}

// ---- the live loop ----

struct WorldOptions {
  uint32_t slots = 1000;
  uint32_t waiting = 0;
  uint32_t clients = 1000;
  uint32_t prompt_tokens = 64;
  uint32_t steps = 300;  ///< 0: it only waits
  bool encode = false;
  bool ends = false;
};

/// In the place of the io thread: clients that submit and listen, one leader that reports. Single
/// threaded: what the loop is told next is put into its inbox when it has sent what it owes.
class World : public comm::CoordinatorIo {
 public:
  /// `state`: its timer runs only while the loop is at work on a report.
  World(const WorldOptions& options, State& state) : options_(options), state_(state) {}

  void run() {
    coordinator::CoordinatorOptions o;
    o.core.policy = *coordinator::policy_named("tie");
    o.core.queue_limit = UINT32_MAX;
    o.core.ahead_requests = 0;
    o.sessions.lease = o.heartbeat_timeout = kForever;  // nobody falls silent here
    o.clients.max_live_bytes = SIZE_MAX;
    o.clients.max_context = kNeverEnds;
    o.clients.new_token = [] { return std::string(32, 't'); };
    coordinator::PromptText text;
    text.vocab_size = 32'000;
    auto loop = coordinator::CoordinatorLoop::create(o, *this, std::move(text));
    TAILOR_CHECK(loop.has_value(), "a loop");
    for (uint32_t c = 0; c < options_.clients; ++c) say(c, api::Credit{1u << 20});
    Hello hello;
    hello.info.slots = options_.slots;
    hello.info.block_tokens = 16;
    hello.info.num_blocks = 100'000;
    hello.info.max_context = kNeverEnds;
    hello.info.vocab_size = 32'000;
    inbox_.push_always(comm::FromWorker{comm::LinkId{1}, {{{ReplicaId{0}}, hello}, {}}});
    (*loop)->run(stop_.fd());
  }
  double tokens() const { return static_cast<double>(tokens_); }
  double bytes() const { return static_cast<double>(bytes_); }
  double messages() const { return static_cast<double>(messages_); }
  int64_t held() const { return held_; }

  // As the loop sees the io thread.
  Mailbox<comm::CoordinatorInput>& inbox() override { return inbox_; }
  Time clients_heard_until() const override { return now(); }
  size_t outbound_bytes() const override { return 0; }
  const std::string& api_endpoint() const override { return endpoint_; }
  const std::string& control_endpoint() const override { return endpoint_; }
  const comm::CoordinatorIoCounters& counters() const override { return counters_; }

  void send(comm::CoordinatorOutput output) override {
    if (auto* to = std::get_if<comm::ToClient>(&output)) {
      for (const auto& event : to->events) hear(event);
      if (measuring_) outbox_.push_back(std::move(*to));  // the io thread's from here on
    } else if (const auto* to = std::get_if<comm::ToWorker>(&output)) {
      const WorkerCommand& command = to->frame.to.command;
      if (std::holds_alternative<Welcome>(command)) {
        epoch_ = to->frame.to.envelope.epoch;
        held_ = -bytes_in_use;
        submit_more();
      } else if (const auto* dispatch = std::get_if<Dispatch>(&command)) {
        running_.push_back({dispatch->request, dispatch->attempt, 0});
      }
    }
    if (measuring_ && told_ == owed_) end_step();
  }

 private:
  void hear(const api::ServerEvent& event) {
    if (const auto* chunk = std::get_if<api::TokenChunk>(&event)) {
      told_ += chunk->token_ids.size();
    } else if (std::holds_alternative<api::Accepted>(event)) {
      if (++accepted_ == submitted_) submit_more();
    } else if (std::holds_alternative<api::StatusReport>(event)) {
      all_are_here();
    }
  }

  /// In windows: no more than the tokenizers take.
  void submit_more() {
    const uint32_t all = options_.slots + options_.waiting;
    const uint32_t until = std::min(all, submitted_ + 1000);
    if (submitted_ == until) return say(0, api::StatusQuery{});  // answered in a turn of its own
    while (submitted_ < until) {
      api::Submit submit;
      char name[40];
      std::snprintf(name, sizeof name, "%032u", submitted_);
      submit.request_id = name;
      submit.prompt = std::vector<TokenId>(options_.prompt_tokens, 7);
      submit.sampling.max_tokens = kNeverEnds / 2;
      say(submitted_++ % options_.clients, std::move(submit));
    }
  }

  void all_are_here() {
    held_ += bytes_in_use;
    if (options_.steps == 0) return stop_.signal();
    TAILOR_CHECK(running_.size() == options_.slots, "the replica is full");
    measuring_ = true;
    begin_step();
  }
  void begin_step() {
    outbox_.clear();
    auto report = report_of(running_, epoch_, ++step_, options_.ends);
    owed_ = told_ + running_.size();
    std::erase_if(running_, [&](const Running& sequence) {
      return sequence.next == answer_length(sequence.id, options_.ends);
    });
    state_.ResumeTiming();
    inbox_.push_always(comm::FromWorker{comm::LinkId{1}, std::move(report)});
  }
  void end_step() {
    if (options_.encode)
      for (const auto& message : outbox_) bytes_ += comm::encode(message.events).size();
    state_.PauseTiming();
    messages_ += outbox_.size();
    if (step_ < options_.steps) return begin_step();
    tokens_ = told_;
    measuring_ = false;
    stop_.signal();
  }
  void say(uint32_t client, api::ClientMessage message) {
    inbox_.push_always(comm::FromClient{ClientId{client + 1}, std::move(message)});
  }

  const WorldOptions options_;
  State& state_;
  Mailbox<comm::CoordinatorInput> inbox_{1u << 20};
  WakeFd stop_;
  const std::string endpoint_ = "here";
  comm::CoordinatorIoCounters counters_;

  uint32_t submitted_ = 0, accepted_ = 0;
  bool measuring_ = false;
  uint64_t step_ = 0, told_ = 0, owed_ = 0, tokens_ = 0, bytes_ = 0, messages_ = 0;
  int64_t held_ = 0;
  Epoch epoch_;
  std::vector<Running> running_;
  std::vector<comm::ToClient> outbox_;
};

void coordinator_step(State& state, WorldOptions options) {
  double tokens = 0, bytes = 0, messages = 0;
  for (auto _ : state) {
    state.PauseTiming();
    {
      World world(options, state);
      world.run();
      tokens += world.tokens();
      bytes += world.bytes();
      messages += world.messages();
    }
    state.ResumeTiming();
  }
  state.counters["token"] = each(tokens);
  state.counters["messages/step"] = messages / options.steps;
  if (options.encode) state.counters["bytes/token"] = bytes / tokens;
}

// ---- the control link ----

void report_codec(State& state, bool encode, bool decode) {
  constexpr uint32_t kSequences = 250;
  std::vector<Running> running;
  for (uint32_t i = 0; i < kSequences; ++i)
    running.push_back({RequestId{1'883'154'307'612'673u + i}, Attempt{1}, 100 + i});
  const comm::ReportFrame report = report_of(running, Epoch{7}, 1000, false);
  std::string bytes = comm::encode(report);
  for (auto _ : state) {
    if (encode) bytes = comm::encode(report);
    if (decode) {
      auto back = comm::decode_control(bytes);
      benchmark::DoNotOptimize(back);
    }
    benchmark::DoNotOptimize(bytes);
  }
  state.counters["sequence"] = each(static_cast<double>(state.iterations()) * kSequences);
  state.counters["bytes/sequence"] = static_cast<double>(bytes.size()) / kSequences;
}

// ---- memory ----

/// With two lengths of prompts: what grows with them is the ids, the rest is the request.
void waiting_request(State& state, uint32_t waiting) {
  constexpr uint32_t kShort = 64, kLong = 1088;
  double held[2] = {};
  for (auto _ : state) {
    for (const bool is_long : {false, true}) {
      state.PauseTiming();
      counting = true;
      World world({.slots = 1,
                   .waiting = waiting,
                   .clients = 10,
                   .prompt_tokens = is_long ? kLong : kShort,
                   .steps = 0},
                  state);
      world.run();
      counting = false;
      held[is_long] = static_cast<double>(world.held()) / waiting;
      state.ResumeTiming();
    }
  }
  const double per_id = (held[1] - held[0]) / (kLong - kShort);
  state.counters["bytes/prompt_id"] = per_id;
  state.counters["bytes_beside_prompt"] = held[0] - per_id * kShort;
}

/// Others share this machine's cores and caches: of several repetitions the least is the cleanest.
benchmark::internal::Benchmark* add(benchmark::internal::Benchmark* one) {
  return one->ComputeStatistics(
      "min", [](const std::vector<double>& v) { return *std::min_element(v.begin(), v.end()); });
}

void register_all(bool smoke) {
  const uint32_t many = smoke ? 1000 : 100'000;
  const std::string waiting = "/waiting:" + std::to_string(many);
  const auto core = [&](const std::string& name, const char* policy, uint32_t count, bool ends) {
    // Every answer of 100 to 299 tokens ends at least twice.
    add(benchmark::RegisterBenchmark(name.c_str(), core_step, policy, count, ends))
        ->Iterations(smoke ? 1 : 600);
  };
  core("core_step/tie", "tie", 0, false);
  for (const char* policy : {"fcfs", "tie"})
    core("core_step/" + (policy + waiting), policy, many, false);
  for (const char* policy : {"fcfs", "tie"})
    core("core_step/" + (policy + waiting) + "/ends", policy, many, true);

  const auto loop = [&](const char* name, WorldOptions options) {
    options.waiting = many;
    if (smoke) options.steps = 1;
    add(benchmark::RegisterBenchmark(name, coordinator_step, options))->Iterations(1);
  };
  loop("coordinator_step/clients:1000/to_messages", {});
  loop("coordinator_step/clients:1000/to_bytes", {.encode = true});
  loop("coordinator_step/clients:1000/to_bytes/ends", {.encode = true, .ends = true});
  loop("coordinator_step/clients:10/to_messages", {.clients = 10});
  loop("coordinator_step/clients:10/to_bytes", {.clients = 10, .encode = true});

  const auto codec = [&](const char* name, bool encode, bool decode) {
    auto* one = add(benchmark::RegisterBenchmark(name, report_codec, encode, decode));
    if (smoke) one->Iterations(1);
  };
  codec("report_codec/encode", true, false);
  codec("report_codec/decode", false, true);
  codec("report_codec/both", true, true);
  benchmark::RegisterBenchmark("waiting_request", waiting_request, smoke ? 1000 : 20'000)
      ->Iterations(1);
}

}  // namespace
}  // namespace tailor::bench

int main(int argc, char** argv) {
  tailor::init_logging("coordinator_bench", "error");
  const bool smoke = argc > 1 && std::string(argv[1]) == "--smoke";
  if (smoke) ++argv, --argc;
  tailor::bench::register_all(smoke);
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 64;
  benchmark::RunSpecifiedBenchmarks();
}
