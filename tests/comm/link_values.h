// Random values of every message of both links. What has a field list is filled by it
// (tests/base/random_message.h); the structured bindings below name every field of the rest: a
// field added to a message of the public API does not compile here until the codec's tests know it.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "base/api.h"
#include "base/messages.h"
#include "comm/codec_control.h"
#include "tests/base/dump.h"
#include "tests/base/random_message.h"

namespace tailor::comm::test {

using tailor::test::Dump;

class RandomValues : public tailor::test::RandomMessages {
 public:
  using RandomMessages::RandomMessages;

  double wide() { return static_cast<double>(u64()) / 3; }
  Duration us() { return microseconds(number(1ull << 40)); }
  std::string name() { return "id-" + std::to_string(number(UINT64_MAX)); }

  // ---- the public API ----

  api::Sampling said() {
    api::Sampling p(any<SamplingParams>());
    if (coin()) p.temperature.reset();
    if (coin()) p.top_k.reset();
    if (coin()) p.top_p.reset();
    if (coin()) p.min_p.reset();
    if (coin()) p.repetition_penalty.reset();
    return p;
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
        s.priority = any<PriorityClass>();
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
        const auto logprobs = list([&] { return any<LogprobEntry>(); });
        return api::TokenChunk{name(), u32(), u32(), tokens(), u64(), text(), logprobs};
      }
      case 2:
        return api::Finished{name(),
                             list([&] {
                               return api::SampleResult{any<FinishReason>(), text(), u32()}; }),
                             u32(),
                             api::Timings{us(), us(), us(), us(), u32(), u32(), u32()},
                             any<Error>(),
                             u32()};
      case 3:
        return api::Rejected{name(), any<Error>(), us()};
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
                                    any<ReplicaInfo>(),
                                    u32(),
                                    u32(),
                                    u32(),
                                    u64(),
                                    u64(),
                                    u64(),
                                    wide(),
                                    wide(),
                                    wide(),
                                    wide(),
                                    wide(),
                                    wide()};
        });
        s.drained = list([&] { return api::DrainedReplica{ReplicaId{u32()}, Epoch{u32()}}; });
        s.counters = list([&] { return std::pair<std::string, double>(text(), wide()); });
        s.end_tokens = list([&] { return api::EndToken{i32(), text()}; });
        s.predictor = text();
        return s;
      }
    }
  }

  // ---- the control link: whole frames, as decoding asks for ----

  CommandFrame command() {
    CommandFrame frame{{any<Envelope>(), any<WorkerCommand>()}, {}};
    if (auto* dispatch = std::get_if<Dispatch>(&frame.to.command)) {
      auto request = any<Request>();
      request.id = dispatch->request;
      dispatch->prompt_tokens = static_cast<uint32_t>(request.prompt.size());
      dispatch->samples = static_cast<uint32_t>(1 + number(4));
      request.sampling.n = static_cast<int32_t>(dispatch->samples);
      request.sampling.max_tokens = static_cast<int32_t>(number(INT32_MAX));
      dispatch->max_tokens = static_cast<uint32_t>(request.sampling.max_tokens);
      frame.payload.request = std::make_shared<const Request>(std::move(request));
      if (coin()) frame.payload.generated.resize(dispatch->samples);
      for (auto& ids : frame.payload.generated) ids = tokens();
    }
    return frame;
  }

  ReportFrame report() {
    ReportFrame frame{{any<Envelope>(), any<WorkerReport>()}, {}};
    if (auto* step = std::get_if<StepReport>(&frame.from.report)) frame.payload = payload_of(*step);
    return frame;
  }
  /// With as many tokens in `step` as it has.
  StepPayload payload_of(StepReport& step) {
    StepPayload payload;
    for (uint32_t entry = 0; entry < step.progress.size(); ++entry) {
      const auto ids = tokens();
      const std::string words = text();
      const auto bytes = static_cast<uint32_t>(words.size());
      const auto count = step.progress[entry].num_tokens = static_cast<uint32_t>(ids.size());
      payload.token_ids.insert(payload.token_ids.end(), ids.begin(), ids.end());
      payload.texts.push_back({u64(), bytes, coin() ? count : 0});
      payload.text += words;
      for (uint32_t i = payload.texts.back().num_logprobs; i > 0; --i)
        payload.logprobs.push_back(any<LogprobEntry>());
      if (coin()) payload.ends.push_back({entry, text(), any<Error>()});
    }
    return payload;
  }
};

}  // namespace tailor::comm::test

// ---- Dump of what has no field list ----

namespace tailor {

template <class All>
void dump_fields(const AnswerParams& v, All all) {
  const auto& [a, b, c, d, e, f, g, h, i, j, k, l, m] = v;
  all(a, b, c, d, e, f, g, h, i, j, k, l, m);
}
template <class All>
void dump_fields(const ToReplica& v, All all) {
  const auto& [a, b] = v;
  all(a, b);
}
template <class All>
void dump_fields(const FromReplica& v, All all) {
  const auto& [a, b] = v;
  all(a, b);
}

namespace comm {
template <class All>
void dump_fields(const CommandFrame& v, All all) {
  const auto& [a, b] = v;
  all(a, b);
}
template <class All>
void dump_fields(const ReportFrame& v, All all) {
  const auto& [a, b] = v;
  all(a, b);
}
}  // namespace comm

namespace api {
template <class All>
void dump_fields(const Sampling& v, All all) {
  all(static_cast<const AnswerParams&>(v), v.temperature, v.top_k, v.top_p, v.min_p,
      v.repetition_penalty);
}
template <class All>
void dump_fields(const ChatMessage& v, All all) {
  all(v.role, v.content);
}
template <class All>
void dump_fields(const Submit& v, All all) {
  const auto& [a, b, c, d, e, f, g, h, i, j] = v;
  all(a, b, c, d, e, f, g, h, i, j);
}
template <class All>
void dump_fields(const Cancel& v, All all) {
  all(v.request_id, v.token);
}
template <class All>
void dump_fields(const Credit& v, All all) {
  all(v.messages);
}
template <class All>
void dump_fields(const Resume& v, All all) {
  all(v.request_id, v.from_token, v.token);
}
template <class All>
void dump_fields(const StatusQuery&, All all) {
  all();
}
template <class All>
void dump_fields(const Accepted& v, All all) {
  const auto& [a, b, c, d, e] = v;
  all(a, b, c, d, e);
}
template <class All>
void dump_fields(const TokenChunk& v, All all) {
  const auto& [a, b, c, d, e, f, g] = v;
  all(a, b, c, d, e, f, g);
}
template <class All>
void dump_fields(const SampleResult& v, All all) {
  const auto& [a, b, c] = v;
  all(a, b, c);
}
template <class All>
void dump_fields(const Timings& v, All all) {
  const auto& [a, b, c, d, e, f, g] = v;
  all(a, b, c, d, e, f, g);
}
template <class All>
void dump_fields(const Finished& v, All all) {
  const auto& [a, b, c, d, e, f] = v;
  all(a, b, c, d, e, f);
}
template <class All>
void dump_fields(const Rejected& v, All all) {
  const auto& [a, b, c] = v;
  all(a, b, c);
}
template <class All>
void dump_fields(const Forgotten&, All all) {
  all();
}
template <class All>
void dump_fields(const ReplicaStatus& v, All all) {
  const auto& [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q] = v;
  all(a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q);
}
template <class All>
void dump_fields(const EndToken& v, All all) {
  all(v.token, v.text);
}
template <class All>
void dump_fields(const DrainedReplica& v, All all) {
  all(v.replica, v.epoch);
}
template <class All>
void dump_fields(const StatusReport& v, All all) {
  const auto& [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o] = v;
  all(a, b, c, d, e, f, g, h, i, j, k, l, m, n, o);
}
}  // namespace api

}  // namespace tailor
