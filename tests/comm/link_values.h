// Random values of every message, and their text form for comparison. The structured bindings name
// every field: a field added to a message does not compile here until the codec's tests know it.
#pragma once

#include <bit>
#include <random>
#include <sstream>
#include <string>

#include "base/api.h"
#include "base/messages.h"
#include "comm/codec_control.h"

namespace tailor::comm::test {

class RandomValues {
 public:
  explicit RandomValues(uint64_t seed) : engine_(seed) {}

  uint64_t number(uint64_t below) { return engine_() % below; }
  bool coin() { return number(2) == 1; }
  uint32_t u32() {
    return coin() ? static_cast<uint32_t>(number(100)) : static_cast<uint32_t>(engine_());
  }
  uint64_t u64() { return coin() ? number(100) : engine_(); }
  int32_t i32() { return static_cast<int32_t>(u32()); }
  float real() {
    return std::bit_cast<float>(static_cast<uint32_t>(engine_()));
  }  // NaN and infinities included
  double wide() { return static_cast<double>(engine_()) / 3; }
  Duration ns() { return Duration(static_cast<int64_t>(engine_() >> 2)); }
  Duration us() { return microseconds(number(1ull << 40)); }
  std::string text() {
    static const char* const kPieces[] = {"a", "Zürich", "\xE2\x82\xAC", "\xF0\x9F\x8E\x84",
                                          " ", "\n",     "\"",           ""};
    std::string out;
    for (uint64_t i = number(6); i > 0; --i) out += kPieces[number(8)];
    if (coin()) out.push_back('\0');
    return out;
  }
  std::string name() { return "id-" + std::to_string(engine_()); }
  template <class Make>
  auto list(Make make) {
    std::vector<decltype(make())> out;
    for (uint64_t i = number(5); i > 0; --i) out.push_back(make());
    return out;
  }
  std::vector<TokenId> tokens() {
    return list([&] { return TokenId(i32()); });
  }

  SamplingParams sampling() {
    SamplingParams p;
    static_cast<AnswerParams&>(p) = answer();
    p.temperature = real();
    p.top_k = i32();
    p.top_p = real();
    p.min_p = real();
    p.repetition_penalty = real();
    return p;
  }
  api::Sampling said() {
    api::Sampling p(sampling());
    if (coin()) p.temperature.reset();
    if (coin()) p.top_k.reset();
    if (coin()) p.top_p.reset();
    if (coin()) p.min_p.reset();
    if (coin()) p.repetition_penalty.reset();
    return p;
  }
  AnswerParams answer() {
    AnswerParams p;
    p.presence_penalty = real();
    p.frequency_penalty = real();
    p.logit_bias = list([&] { return std::pair<TokenId, float>(i32(), real()); });
    p.seed = u64();
    p.n = i32();
    p.max_tokens = i32();
    p.min_tokens = i32();
    p.ignore_eos = coin();
    p.stop = list([&] { return text(); });
    p.stop_token_ids = tokens();
    p.include_stop_in_output = coin();
    p.logprobs = i32();
    p.skip_special_tokens = coin();
    return p;
  }
  PriorityClass priority() { return static_cast<PriorityClass>(number(kNumPriorityClasses)); }
  FinishReason finish() { return static_cast<FinishReason>(number(5)); }
  Error error() { return {static_cast<ErrorCode>(number(17)), text()}; }
  LogprobEntry logprob() {
    return {{i32(), real()}, list([&] { return TokenLogprob{i32(), real()}; })};
  }
  ReplicaInfo info() {
    ReplicaInfo i;
    i.protocol_version = u32();
    i.model_fingerprint = text();
    i.arithmetic_version = text();
    i.engine = text();
    i.tp_size = u32();
    i.slots = u32();
    i.block_tokens = u32();
    i.num_blocks = u32();
    i.max_context = u32();
    i.vocab_size = u32();
    i.host = text();
    i.pid = i32();
    return i;
  }

  api::ClientMessage client_message() {
    switch (number(5)) {
      case 0: {
        api::Submit s;
        s.request_id = name();
        switch (number(3)) {
          case 0:
            s.prompt = text();
            break;
          case 1:
            s.prompt = list([&] { return api::ChatMessage{text(), text()}; });
            break;
          default:
            s.prompt = tokens();
        }
        s.add_special_tokens = coin();
        if (coin()) s.parse_special_tokens = coin();
        s.sampling = said();
        s.has_seed = coin();
        if (!s.has_seed) s.sampling.seed = 0;
        s.priority = priority();
        s.tenant = text();
        if (coin()) s.deadline = us() % std::chrono::hours(1000) + microseconds(1);
        s.detach = coin();
        return s;
      }
      case 1:
        return api::Cancel{name(), name()};
      case 2:
        return api::Credit{u32()};
      case 3:
        return api::Resume{name(), list([&] { return u32(); }), name()};
      default:
        return api::StatusQuery{};
    }
  }

  api::ServerEvent server_event() {
    switch (number(6)) {
      case 0:
        return api::Accepted{name(), tokens(), u64(), u32(), name()};
      case 1: {
        const auto logprobs = list([&] { return logprob(); });
        return api::TokenChunk{name(), u32(), u32(), tokens(), u64(), text(), logprobs};
      }
      case 2:
        return api::Finished{name(), list([&] {
                               return api::SampleResult{finish(), text(), u32()};
                             }),
                             u32(), api::Timings{us(), us(), us(), us(), u32(), u32(), u32()},
                             error()};
      case 3:
        return api::Rejected{name(), error(), us()};
      case 4:
        return api::Forgotten{};
      default: {
        api::StatusReport s;
        s.ready = coin();
        s.version = text();
        s.protocol_version = u32();
        s.model = text();
        s.policy = text();
        s.waiting_requests = u32();
        s.active_requests = u32();
        s.queue_limit = u32();
        s.expected_replicas = u32();
        s.uptime_s = wide();
        s.replicas = list([&] {
          return api::ReplicaStatus{ReplicaId{u32()},
                                    Epoch{u32()},
                                    coin(),
                                    coin(),
                                    info(),
                                    u32(),
                                    u32(),
                                    u32(),
                                    u64(),
                                    u64(),
                                    wide(),
                                    wide(),
                                    wide(),
                                    wide(),
                                    wide(),
                                    wide()};
        });
        s.counters = list([&] { return std::pair<std::string, double>(text(), wide()); });
        s.end_tokens = list([&] { return api::EndToken{i32(), text()}; });
        s.predictor = text();
        return s;
      }
    }
  }

  WorkerCommand command() {
    switch (number(5)) {
      case 0:
        return Welcome{ReplicaId{u32()}, Epoch{u32()}};
      case 1: {
        Dispatch d;
        d.attempt = Attempt{u32()};
        d.request.id = RequestId{u64()};
        d.request.prompt = tokens();
        d.request.sampling = sampling();
        d.request.priority = priority();
        d.request.tenant = text();
        if (coin()) d.request.deadline = ns();
        d.generated = list([&] { return tokens(); });
        return d;
      }
      case 2:
        return CancelRequest{RequestId{u64()}, Attempt{u32()}};
      case 3:
        return Drain{};
      default:
        return Shutdown{coin()};
    }
  }

  /// A well-formed one.
  LengthLaw law() {
    LengthLaw l;
    switch (number(3)) {
      case 0:
        break;
      case 1:
        l.kind = LengthLaw::Kind::kLogT;
        l.mu = static_cast<float>(number(900)) / 100 - 1;
        l.sigma = static_cast<float>(1 + number(200)) / 100;
        l.nu = static_cast<float>(3 + number(60)) / 2;
        break;
      default: {
        l.kind = LengthLaw::Kind::kHistogram;
        l.low = static_cast<float>(1 + number(10)) / 2;
        l.high = l.low + static_cast<float>(1 + number(4000));
        const auto at = number(LengthLaw::kBins);
        l.bins[at] = 0.25f;
        l.bins[(at + 1 + number(LengthLaw::kBins - 1)) % LengthLaw::kBins] = 0.75f;
      }
    }
    return l;
  }
  PredictorReport predictor_report() {
    if (coin()) return Predicted{RequestId{u64()}, law()};
    return PredictorHello{text(), text(), text(), law(), text(), i32()};
  }

  SequenceProgress progress() {
    SequenceProgress p;
    p.sequence = {RequestId{u64()}, u32()};
    p.attempt = Attempt{u32()};
    p.first_index = u32();
    p.token_ids = tokens();
    p.text_offset = u64();
    p.text = text();
    p.logprobs = list([&] { return logprob(); });
    p.finish = finish();
    p.stop_match = text();
    if (p.finish == FinishReason::kFailed) p.error = error();
    return p;
  }

  WorkerReport report() {
    switch (number(4)) {
      case 0:
        return Hello{ReplicaId{u32()}, info()};
      case 1: {
        StepReport r;
        r.step = u64();
        r.applied_seq = u64();
        r.step_time = ns();
        r.forward_time = ns();
        r.sample_time = ns();
        r.prefill_tokens = u32();
        r.decode_tokens = u32();
        r.running_sequences = u32();
        r.waiting_sequences = u32();
        r.free_blocks = u32();
        r.progress = list([&] { return progress(); });
        r.events = list([&]() -> WorkerEvent {
          if (coin()) return PrefillDone{RequestId{u64()}, Attempt{u32()}, u32()};
          if (coin()) return LawProbed{RequestId{u64()}, Attempt{u32()}, u32(), u32(), law()};
          return SequencePreempted{{RequestId{u64()}, u32()}, Attempt{u32()}, u32()};
        });
        return r;
      }
      case 2:
        return Drained{};
      default:
        return Heartbeat{ReplicaId{u32()}, u32(), u64(), coin(), Epoch{u32()}};
    }
  }

 private:
  std::mt19937_64 engine_;
};

/// Every field of a value in one line of text; floats by their bits, so that NaN equals itself.
class Dump {
 public:
  template <class T>
  static std::string of(const T& value) {
    Dump dump;
    dump.put(value);
    return dump.out_.str();
  }

 private:
  template <class... Fields>
  void all(const Fields&... fields) {
    out_ << '{';
    ((put(fields), out_ << ';'), ...);
    out_ << '}';
  }
  void put(const std::string& v) { out_ << '"' << v.size() << ':' << v << '"'; }
  void put(bool v) { out_ << v; }
  void put(int32_t v) { out_ << v; }
  void put(uint32_t v) { out_ << v; }
  void put(uint64_t v) { out_ << v; }
  void put(float v) { out_ << std::bit_cast<uint32_t>(v); }
  void put(double v) { out_ << std::bit_cast<uint64_t>(v); }
  void put(Duration v) { out_ << v.count() << "ns"; }
  void put(PriorityClass v) { out_ << 'p' << static_cast<int>(v); }
  void put(FinishReason v) { out_ << 'f' << static_cast<int>(v); }
  template <class Tag, class Rep>
  void put(const Id<Tag, Rep>& v) {
    out_ << '#' << v.value;
  }
  template <class A, class B>
  void put(const std::pair<A, B>& v) {
    all(v.first, v.second);
  }
  template <class T>
  void put(const std::optional<T>& v) {
    if (v) put(*v);
    out_ << '?';
  }
  template <class T>
  void put(const std::vector<T>& v) {
    out_ << '[';
    for (const auto& item : v) put(item), out_ << ',';
    out_ << ']';
  }
  template <class... Ts>
  void put(const std::variant<Ts...>& v) {
    out_ << v.index() << '=';
    std::visit([this](const auto& value) { put(value); }, v);
  }
  void put(const Error& v) {
    out_ << 'e' << static_cast<int>(v.code);
    put(v.message);
  }
  void put(const SequenceId& v) { all(v.request, v.sample); }
  void put(const AnswerParams& v) {
    const auto& [a, b, c, d, e, f, g, h, i, j, k, l, m] = v;
    all(a, b, c, d, e, f, g, h, i, j, k, l, m);
  }
  void put(const SamplingParams& v) { put(api::Sampling(v)); }
  void put(const api::Sampling& v) {
    put(static_cast<const AnswerParams&>(v));
    all(v.temperature, v.top_k, v.top_p, v.min_p, v.repetition_penalty);
  }
  void put(const Request& v) {
    const auto& [a, b, c, d, e, arrival, g] = v;
    (void)arrival;  // the coordinator's clock: not sent
    all(a, b, c, d, e, g);
  }
  void put(const TokenLogprob& v) { all(v.token, v.logprob); }
  void put(const LogprobEntry& v) { all(v.chosen, v.top); }
  void put(const ReplicaInfo& v) {
    const auto& [a, b, c, d, e, f, g, h, i, j, k, l] = v;
    all(a, b, c, d, e, f, g, h, i, j, k, l);
  }
  void put(const api::ChatMessage& v) { all(v.role, v.content); }
  void put(const api::Submit& v) {
    const auto& [a, b, c, d, e, f, g, h, i, j] = v;
    all(a, b, c, d, e, f, g, h, i, j);
  }
  void put(const api::Cancel& v) { all(v.request_id, v.token); }
  void put(const api::Credit& v) { all(v.messages); }
  void put(const api::Resume& v) { all(v.request_id, v.from_token, v.token); }
  void put(const api::StatusQuery&) { all(); }
  void put(const api::Accepted& v) {
    const auto& [a, b, c, d, e] = v;
    all(a, b, c, d, e);
  }
  void put(const api::TokenChunk& v) {
    const auto& [a, b, c, d, e, f, g] = v;
    all(a, b, c, d, e, f, g);
  }
  void put(const api::SampleResult& v) {
    const auto& [a, b, c] = v;
    all(a, b, c);
  }
  void put(const api::Timings& v) {
    const auto& [a, b, c, d, e, f, g] = v;
    all(a, b, c, d, e, f, g);
  }
  void put(const api::Finished& v) {
    const auto& [a, b, c, d, e] = v;
    all(a, b, c, d, e);
  }
  void put(const api::Rejected& v) {
    const auto& [a, b, c] = v;
    all(a, b, c);
  }
  void put(const api::Forgotten&) { all(); }
  void put(const api::ReplicaStatus& v) {
    const auto& [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = v;
    all(a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p);
  }
  void put(const api::EndToken& v) { all(v.token, v.text); }
  void put(const api::StatusReport& v) {
    const auto& [a, b, c, d, e, f, g, h, i, j, k, l, m, n] = v;
    all(a, b, c, d, e, f, g, h, i, j, k, l, m, n);
  }
  void put(const Welcome& v) { all(v.replica, v.epoch); }
  void put(const Dispatch& v) {
    const auto& [a, b, c] = v;
    all(a, b, c);
  }
  void put(const CancelRequest& v) { all(v.request, v.attempt); }
  void put(const Drain&) { all(); }
  void put(const Shutdown& v) { all(v.cluster_stops); }
  void put(const Hello& v) { all(v.configured_replica, v.info); }
  void put(const SequenceProgress& v) {
    const auto& [a, b, c, d, e, f, g, h, i, error] = v;
    all(a, b, c, d, e, f, g, h, i);
    if (v.finish == FinishReason::kFailed) put(error);
  }
  void put(const PrefillDone& v) { all(v.request, v.attempt, v.cached_tokens); }
  void put(const SequencePreempted& v) { all(v.sequence, v.attempt, v.tokens_lost); }
  void put(const LengthLaw& v) {
    const auto& [kind, mu, sigma, nu, low, high, bins] = v;
    all(static_cast<int32_t>(kind), mu, sigma, nu, low, high,
        std::vector<float>(bins.begin(), bins.end()));
  }
  void put(const LawProbed& v) {
    const auto& [a, b, c, d, e] = v;
    all(a, b, c, d, e);
  }
  void put(const PredictorHello& v) {
    const auto& [a, b, c, d, e, f] = v;
    all(a, b, c, d, e, f);
  }
  void put(const Predict& v) {
    const auto& [a, b, c] = v;
    all(a, b, c);
  }
  void put(const Predicted& v) { all(v.request, v.law); }
  void put(const StepReport& v) {
    const auto& [a, b, c, d, e, f, g, h, i, j, k, l] = v;
    all(a, b, c, d, e, f, g, h, i, j, k, l);
  }
  void put(const Drained&) { all(); }
  void put(const Heartbeat& v) {
    const auto& [a, b, c, d, e] = v;
    all(a, b, c, d, e);
  }
  void put(const CommandEnvelope& v) {
    const auto& [a, b, c] = v;
    all(a, b, c);
  }

  std::ostringstream out_;
};

}  // namespace tailor::comm::test
