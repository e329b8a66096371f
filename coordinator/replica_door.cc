#include "coordinator/replica_door.h"

#include <utility>

#include "base/check.h"
#include "base/describe.h"
#include "base/log.h"

namespace tailor::coordinator {

void ReplicaDoor::on(comm::FromWorker& input, Time now) {
  FromReplica& from = input.frame.from;
  const Envelope envelope = from.envelope;
  if (auto* hello = std::get_if<Hello>(&from.report)) return greet(input.link, envelope, *hello);
  if (const auto* beat = std::get_if<Heartbeat>(&from.report))
    return hear(input.link, envelope, *beat, now);
  // All else is told to the core, when it comes from who speaks for the replica. What a leader had
  // said before it joined anew is counted there, and changes nothing here either.
  if (!links_.speaks(input.link, envelope.replica)) return;  // refused or given up
  const bool current = links_.find(envelope.replica)->epoch == envelope.epoch;
  if (const auto* report = std::get_if<StepReport>(&from.report); report && current)
    links_.stepped(envelope.replica, *report, now);
  if (current && std::holds_alternative<Drained>(from.report)) {
    if (!core_.replica(envelope.replica).draining)
      return lose(envelope.replica, "it says that it has drained, though nobody asked it to");
    part(envelope);
  }
  const CoreEvent event = std::move(from);
  report_ = std::get_if<StepReport>(&std::get<FromReplica>(event).report);
  payload_.emplace(input.frame.payload);
  num_read_ = 0;
  outside_.tell(event);
  payload_.reset();
  report_ = nullptr;
  if (!links_.find(envelope.replica)) outside_.contexts_changed();  // it has just left
}

ReplicaDoor::Entry ReplicaDoor::entry(uint32_t index) {
  TAILOR_CHECK(report_ && index + 1 >= num_read_ && index < report_->progress.size(),
               "a report's entries are asked for in their order");
  for (; num_read_ <= index; ++num_read_) parts_ = payload_->next(report_->progress[num_read_]);
  return {report_->progress[index], parts_};
}

// ---- who is there ----

void ReplicaDoor::greet(comm::LinkId link, const Envelope& from, Hello& hello) {
  const ReplicaId replica = from.replica;
  if (links_.repeated(link, replica, hello))
    return say({{replica, links_.find(replica)->epoch}, Welcome{}});
  if (const auto objection = links_.objection(replica, hello)) {
    ++refused_;
    LOG_ERROR("replica {} (pid {} on {}) is refused: {}", replica.value, hello.info.pid,
              on_one_line(hello.info.host), on_one_line(*objection));
    io_.send(comm::ToWorker{link, {{{replica, Epoch{0}}, Shutdown{}}, {}}});
    return;
  }
  if (const auto* predecessor = links_.find(replica)) {
    ++lost_;
    LOG_WARN("replica {} says Hello again: what its predecessor ran is queued anew", replica.value);
    // A process that lost its number to another one may live on: it would compute for nobody.
    if (predecessor->info.pid != hello.info.pid || predecessor->info.host != hello.info.host)
      say({{replica, predecessor->epoch}, Shutdown{}});
    links_.left(replica);
  }
  joining_.emplace(Joining{link, hello.info});
  outside_.tell(FromReplica{from, std::move(hello)});
  joining_.reset();
  outside_.contexts_changed();
}

void ReplicaDoor::join(const Envelope& welcome, Time now) {
  TAILOR_CHECK(joining_.has_value(), "a welcome answers a Hello");
  links_.joined(welcome.replica, welcome.epoch, joining_->link, joining_->info, now);
  const ReplicaInfo& info = joining_->info;
  LOG_INFO(
      "replica {} epoch {} joins: {} tp {} on {} (pid {}), {} slots, {} KV blocks of {} tokens, "
      "context {}",
      welcome.replica.value, welcome.epoch.value, on_one_line(info.engine), info.tp_size,
      on_one_line(info.host), info.pid, info.slots, info.num_blocks, info.block_tokens,
      info.max_context);
}

void ReplicaDoor::part(const Envelope& from) {
  ++drained_;
  LOG_INFO("replica {} has drained and leaves", from.replica.value);
  say({from, Shutdown{}});
  links_.drained(from.replica);
  if (outside_.drained) outside_.drained(from.replica);
}

void ReplicaDoor::hear(comm::LinkId link, const Envelope& from, const Heartbeat& beat, Time now) {
  links_.heard(from, beat, link, now);
  if (links_.is_stale(from, beat))  // until it hears it: what it was sent may be lost
    io_.send(comm::ToWorker{link, {{from, Shutdown{}}, {}}});
}

void ReplicaDoor::keep_house(Time now) {
  for (const auto& silent : links_.silent(now))
    lose(silent.replica, "rank " + std::to_string(silent.rank) + " has been silent for " +
                             std::to_string(to_us(silent.silence) / 1000) + " ms");
}

/// Its books are closed and, should it live after all, it is told to leave; its launcher ends what
/// cannot hear that, and starts it anew.
void ReplicaDoor::lose(ReplicaId replica, const std::string& why) {
  const auto* link = links_.find(replica);
  ++lost_;
  LOG_WARN("replica {} is lost: {}; its {} requests are queued anew", replica.value, why,
           core_.replica(replica).requests);
  const Epoch epoch = link->epoch;
  say({{replica, epoch}, Shutdown{}});
  if (outside_.lost) outside_.lost(link->info);
  links_.left(replica);
  outside_.tell(ReplicaLost{replica, epoch});
  outside_.contexts_changed();
}

// ---- what it is told ----

void ReplicaDoor::send(const ToReplica& message, DispatchPayload payload, Time now) {
  if (std::holds_alternative<Welcome>(message.command)) join(message.envelope, now);
  say(message, std::move(payload));
}

void ReplicaDoor::say(const ToReplica& message, DispatchPayload payload) {
  const auto* link = links_.find(message.envelope.replica);
  if (!link || link->epoch != message.envelope.epoch) return;  // it has just left
  io_.send(comm::ToWorker{link->link, {message, std::move(payload)}});
}

}  // namespace tailor::coordinator
