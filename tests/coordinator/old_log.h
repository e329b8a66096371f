// Event logs of version 2 (commit 9eaf963) told to today's core: a reader of their layout, which
// gives today's events. For tests that hold the core against what it did then
// (tests/fixtures/old_logs); command_lines.h says its commands in the words of that time.
#pragma once

#include <bit>
#include <cstdint>
#include <fstream>
#include <iterator>
#include <map>
#include <stdexcept>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "coordinator/core_messages.h"
#include "coordinator/scheduler_core.h"

namespace tailor::coordinator {

struct OldLog {
  CoreOptions options;
  std::vector<std::pair<Time, CoreEvent>> events;

  /// Throws std::runtime_error where the file is not as version 2 wrote it.
  static OldLog read(const std::string& path);
};

// ---- the old layout ----

/// The numbers of one record, little endian, one behind the other.
class OldRecord {
 public:
  OldRecord(const uint8_t* begin, const uint8_t* end) : at_(begin), end_(end) {}

  uint64_t number(size_t bytes) {
    if (bytes > static_cast<size_t>(end_ - at_)) throw std::runtime_error("a record breaks off");
    uint64_t value = 0;
    for (size_t i = 0; i < bytes; ++i) value |= static_cast<uint64_t>(*at_++) << (8 * i);
    return value;
  }
  uint32_t u32() { return static_cast<uint32_t>(number(4)); }
  float f32() { return std::bit_cast<float>(u32()); }
  double f64() { return std::bit_cast<double>(number(8)); }
  Duration duration() { return Duration(static_cast<int64_t>(number(8))); }
  Time time() { return Time(duration()); }
  template <class E>
  E one_of() {
    return static_cast<E>(number(1));
  }
  LengthLaw law() {
    LengthLaw law;
    law.kind = one_of<LengthLaw::Kind>();
    if (law.kind == LengthLaw::Kind::kLogT) law.mu = f32(), law.sigma = f32(), law.nu = f32();
    if (law.kind != LengthLaw::Kind::kHistogram) return law;
    law.low = f32(), law.high = f32();
    for (float& bin : law.bins) bin = f32();
    return law;
  }
  void ends() const {
    if (at_ != end_) throw std::runtime_error("a record is longer than its fields");
  }

 private:
  const uint8_t* at_;
  const uint8_t* end_;
};

/// Makes today's events of the old ones. What was said in several events of one report is one
/// event today: a Reported and the ProbedLaws behind it, of the same life and time, are one
/// StepReport. A ProbedLaw by itself is a StepReport that says of the replica what the last said.
class OldEvents {
 public:
  explicit OldEvents(std::vector<std::pair<Time, CoreEvent>>& out) : out_(out) {}

  void take(OldRecord r) {
    const Time now = r.time();
    const auto kind = r.number(1);
    switch (kind) {
      case 0: {
        Arrived e;
        e.id = {r.number(8)}, e.priority = r.one_of<PriorityClass>(), e.samples = r.u32();
        e.prompt_tokens = r.u32(), e.max_tokens = r.u32(), e.arrival = r.time();
        e.deadline = r.duration();
        say(now, e);
        break;
      }
      case 1: {
        Abandoned e;
        e.id = {r.number(8)}, e.reason = r.one_of<FinishReason>(), e.code = r.one_of<ErrorCode>();
        say(now, e);
        break;
      }
      case 2: {  // ReplicaJoined
        const ReplicaId replica{r.u32()};
        Hello hello;
        hello.info.slots = r.u32(), hello.info.num_blocks = r.u32();
        std::erase_if(last_, [&](const auto& said) { return said.first.first == replica; });
        blocks_[replica] = hello.info.num_blocks;
        say(now, FromReplica{{replica}, hello});
        break;
      }
      case 3: {
        const ReplicaId replica{r.u32()};
        say(now, ReplicaLost{replica, Epoch{r.u32()}});
        break;
      }
      case 4:
        say(now, DrainReplica{ReplicaId{r.u32()}});
        break;
      case 5: {  // ReplicaDrained
        const ReplicaId replica{r.u32()};
        say(now, FromReplica{{replica, Epoch{r.u32()}}, Drained{}});
        break;
      }
      case 6:
        reported(now, r);
        break;
      case 7: {  // PredictedLaw
        const RequestId id{r.number(8)};
        say(now, Predicted{id, r.law()});
        break;
      }
      case 8:
        probed(now, r);
        break;
      case 9: {  // PopulationLaw
        PredictorHello hello;
        hello.population = r.law();
        say(now, std::move(hello));
        break;
      }
      case 10:
        say(now, Tick{});
        break;
      case 11:
        say(now, Stop{});
        break;
      default:
        throw std::runtime_error("an unknown kind of event, " + std::to_string(kind));
    }
    r.ends();
    open_ = kind == 6 || kind == 8;
  }

 private:
  using Life = std::pair<ReplicaId, Epoch>;
  struct Numbers {
    uint32_t running = 0, free_blocks = 0;
  };

  void say(Time now, CoreEvent event) { out_.emplace_back(now, std::move(event)); }

  void reported(Time now, OldRecord& r) {
    const Life life{ReplicaId{r.u32()}, Epoch{r.u32()}};
    StepReport report;
    report.running_sequences = r.u32(), report.free_blocks = r.u32();
    report.progress.resize(r.u32());
    for (SequenceProgress& p : report.progress) {
      p.request = {r.number(8)}, p.sample = r.u32(), p.attempt = {r.u32()};
      p.first_index = r.u32(), p.num_tokens = r.u32(), p.finish = r.one_of<FinishReason>();
    }
    last_[life] = {report.running_sequences, report.free_blocks};
    say(now, FromReplica{{life.first, life.second}, std::move(report)});
  }

  void probed(Time now, OldRecord& r) {
    const Life life{ReplicaId{r.u32()}, Epoch{r.u32()}};
    LawProbed probed;
    probed.request = {r.number(8)}, probed.attempt = {r.u32()}, probed.sample = r.u32();
    probed.generated = r.u32(), probed.law = r.law();
    FromReplica* same = open_ ? std::get_if<FromReplica>(&out_.back().second) : nullptr;
    if (!same || out_.back().first != now || same->envelope != Envelope{life.first, life.second}) {
      const auto said = last_.try_emplace(life, Numbers{0, blocks_[life.first]}).first->second;
      StepReport report;
      report.running_sequences = said.running, report.free_blocks = said.free_blocks;
      say(now, FromReplica{{life.first, life.second}, std::move(report)});
      same = &std::get<FromReplica>(out_.back().second);
    }
    std::get<StepReport>(same->report).laws.push_back(probed);
  }

  std::vector<std::pair<Time, CoreEvent>>& out_;
  bool open_ = false;  // the last event is a report that a law may still be told with
  std::map<Life, Numbers> last_;
  std::map<ReplicaId, uint32_t> blocks_;
};

inline OldLog OldLog::read(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  const std::vector<char> chars{std::istreambuf_iterator<char>(file), {}};
  const std::vector<uint8_t> bytes(chars.begin(), chars.end());
  constexpr size_t kMagicBytes = 8;
  if (std::string(chars.begin(), chars.begin() + std::min(chars.size(), kMagicBytes)) != "TAILORLG")
    throw std::runtime_error(path + " is not an event log");
  OldLog log;
  OldEvents events(log.events);
  size_t at = kMagicBytes;
  const auto record = [&] {  // [u32 length][u32 checksum][bytes]
    OldRecord head(bytes.data() + at, bytes.data() + bytes.size());
    const uint32_t size = head.u32();
    head.u32();
    at += 8;
    if (size > bytes.size() - at) throw std::runtime_error(path + " breaks off");
    at += size;
    return OldRecord(bytes.data() + at - size, bytes.data() + at);
  };
  OldRecord head = record();
  if (head.u32() != 2) throw std::runtime_error(path + " is not of version 2");
  CoreOptions& o = log.options;
  o.policy.row = static_cast<uint8_t>(head.number(1));  // fcfs, sept, tie: as the rows are today
  o.policy.parameters.tau_seconds = head.f64(), o.policy.parameters.gamma = head.f64();
  o.population = head.law();
  o.queue_limit = head.u32(), o.ahead_requests = head.u32(), o.max_losses = head.u32();
  o.expected_replicas = head.u32(), o.epoch_base = head.u32();
  o.retry_after_min = head.duration(), o.retry_after_max = head.duration();
  head.ends();
  while (at < bytes.size()) events.take(record());
  return log;
}

}  // namespace tailor::coordinator
