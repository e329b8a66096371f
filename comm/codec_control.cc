#include "comm/codec_control.h"

#include <google/protobuf/arena.h>

#include "comm/codec_shared.h"
#include "proto/api.pb.h"
#include "proto/control.pb.h"

namespace tailor::comm {
namespace {

using google::protobuf::Arena;

Unexpected not_understood(const char* what) {
  return fail(ErrorCode::kProtocol, std::string("bytes that are not a ") + what + " of version " +
                                        std::to_string(kProtocolVersion));
}

Unexpected other_version(uint32_t found) {
  return fail(ErrorCode::kProtocol, "this process speaks control protocol version " +
                                        std::to_string(kProtocolVersion) + ", its peer version " +
                                        std::to_string(found) + "; start both from one build");
}

// ---- commands
// -----------------------------------------------------------------------------------------

void put(const Welcome& in, v1::CommandEnvelope* out) {
  out->mutable_welcome()->set_replica(in.replica.value);
  out->mutable_welcome()->set_epoch(in.epoch.value);
}

void put(const Dispatch& in, v1::CommandEnvelope* envelope) {
  auto* out = envelope->mutable_dispatch();
  out->set_attempt(in.attempt.value);
  auto* request = out->mutable_request();
  request->set_id(in.request.id.value);
  request->mutable_prompt()->Add(in.request.prompt.begin(), in.request.prompt.end());
  to_wire(in.request.sampling, request->mutable_sampling());
  request->set_priority(static_cast<uint32_t>(in.request.priority));
  request->set_tenant(to_utf8(in.request.tenant));
  if (in.request.deadline != Duration::max()) request->set_deadline_ns(in.request.deadline.count());
  for (const auto& ids : in.generated)
    out->add_generated()->mutable_ids()->Add(ids.begin(), ids.end());
}

void put(const CancelRequest& in, v1::CommandEnvelope* out) {
  out->mutable_cancel()->set_request(in.request.value);
  out->mutable_cancel()->set_attempt(in.attempt.value);
}

void put(const Drain&, v1::CommandEnvelope* out) { out->mutable_drain(); }
void put(const Shutdown&, v1::CommandEnvelope* out) { out->mutable_shutdown(); }

Dispatch take(v1::Dispatch& in) {
  Dispatch out;
  out.attempt.value = in.attempt();
  auto& request = *in.mutable_request();
  out.request.id.value = request.id();
  out.request.prompt.assign(request.prompt().begin(), request.prompt().end());
  out.request.sampling = from_wire(request.sampling());
  out.request.priority = static_cast<PriorityClass>(request.priority());
  out.request.tenant = std::move(*request.mutable_tenant());
  if (request.has_deadline_ns()) out.request.deadline = Duration(request.deadline_ns());
  out.generated.reserve(in.generated_size());
  for (const auto& ids : in.generated())
    out.generated.emplace_back(ids.ids().begin(), ids.ids().end());
  return out;
}

// ---- reports
// -----------------------------------------------------------------------------------------

void put(const Hello& in, v1::ReportEnvelope* envelope) {
  auto* out = envelope->mutable_hello();
  out->set_configured_replica(in.configured_replica.value);
  to_wire(in.info, out->mutable_info());
}

void put(const SequenceProgress& in, v1::SequenceProgress* out) {
  out->set_request(in.sequence.request.value);
  out->set_sample(in.sequence.sample);
  out->set_attempt(in.attempt.value);
  out->set_first_index(in.first_index);
  out->mutable_token_ids()->Add(in.token_ids.begin(), in.token_ids.end());
  out->set_text_offset(in.text_offset);
  out->set_text(in.text);
  for (const auto& entry : in.logprobs) to_wire(entry, out->add_logprobs());
  out->set_finish(static_cast<v1::FinishReason>(in.finish));
  out->set_stop_match(in.stop_match);
  if (in.finish == FinishReason::kFailed) to_wire(in.error, out->mutable_error());
}

void put(const StepReport& in, v1::ReportEnvelope* envelope) {
  auto* out = envelope->mutable_step();
  out->set_step(in.step);
  out->set_applied_seq(in.applied_seq);
  out->set_step_time_ns(in.step_time.count());
  out->set_forward_time_ns(in.forward_time.count());
  out->set_sample_time_ns(in.sample_time.count());
  out->set_prefill_tokens(in.prefill_tokens);
  out->set_decode_tokens(in.decode_tokens);
  out->set_running_sequences(in.running_sequences);
  out->set_waiting_sequences(in.waiting_sequences);
  out->set_free_blocks(in.free_blocks);
  for (const auto& progress : in.progress) put(progress, out->add_progress());
  for (const auto& event : in.events) {
    auto* entry = out->add_events();
    if (const auto* done = std::get_if<PrefillDone>(&event)) {
      entry->mutable_prefill_done()->set_request(done->request.value);
      entry->mutable_prefill_done()->set_attempt(done->attempt.value);
      entry->mutable_prefill_done()->set_cached_tokens(done->cached_tokens);
    } else if (const auto* lost = std::get_if<SequencePreempted>(&event)) {
      entry->mutable_preempted()->set_request(lost->sequence.request.value);
      entry->mutable_preempted()->set_sample(lost->sequence.sample);
      entry->mutable_preempted()->set_attempt(lost->attempt.value);
      entry->mutable_preempted()->set_tokens_lost(lost->tokens_lost);
    }
  }
}

void put(const Drained&, v1::ReportEnvelope* out) { out->mutable_drained(); }

void put(const Heartbeat& in, v1::ReportEnvelope* envelope) {
  auto* out = envelope->mutable_heartbeat();
  out->set_configured_replica(in.configured_replica.value);
  out->set_rank(in.rank);
  out->set_progress(in.progress);
  out->set_busy(in.busy);
}

SequenceProgress take(v1::SequenceProgress& in) {
  SequenceProgress out;
  out.sequence = {RequestId{in.request()}, in.sample()};
  out.attempt.value = in.attempt();
  out.first_index = in.first_index();
  out.token_ids.assign(in.token_ids().begin(), in.token_ids().end());
  out.text_offset = in.text_offset();
  out.text = std::move(*in.mutable_text());
  out.logprobs.reserve(in.logprobs_size());
  for (const auto& entry : in.logprobs()) out.logprobs.push_back(from_wire(entry));
  out.finish = finish_reason_from_wire(in.finish());
  out.stop_match = std::move(*in.mutable_stop_match());
  if (in.has_error()) out.error = from_wire(in.mutable_error());
  return out;
}

StepReport take(v1::StepReport& in) {
  StepReport out;
  out.step = in.step();
  out.applied_seq = in.applied_seq();
  out.step_time = Duration(in.step_time_ns());
  out.forward_time = Duration(in.forward_time_ns());
  out.sample_time = Duration(in.sample_time_ns());
  out.prefill_tokens = in.prefill_tokens();
  out.decode_tokens = in.decode_tokens();
  out.running_sequences = in.running_sequences();
  out.waiting_sequences = in.waiting_sequences();
  out.free_blocks = in.free_blocks();
  out.progress.reserve(in.progress_size());
  for (auto& progress : *in.mutable_progress()) out.progress.push_back(take(progress));
  out.events.reserve(in.events_size());
  for (const auto& event : in.events()) {
    if (event.has_prefill_done()) {
      const auto& done = event.prefill_done();
      out.events.emplace_back(
          PrefillDone{RequestId{done.request()}, Attempt{done.attempt()}, done.cached_tokens()});
    } else if (event.has_preempted()) {
      const auto& lost = event.preempted();
      out.events.emplace_back(SequencePreempted{
          {RequestId{lost.request()}, lost.sample()}, Attempt{lost.attempt()}, lost.tokens_lost()});
    }
  }
  return out;
}

}  // namespace

std::string encode(const CommandEnvelope& value) {
  Arena arena;
  auto* envelope = Arena::CreateMessage<v1::CommandEnvelope>(&arena);
  envelope->set_protocol_version(kProtocolVersion);
  envelope->set_sequence(value.sequence);
  envelope->set_epoch(value.epoch.value);
  std::visit([&](const auto& command) { put(command, envelope); }, value.command);
  return envelope->SerializeAsString();
}

Result<CommandEnvelope> decode_command(std::string_view bytes) {
  Arena arena;
  auto* in = Arena::CreateMessage<v1::CommandEnvelope>(&arena);
  if (!in->ParseFromArray(bytes.data(), static_cast<int>(bytes.size())))
    return not_understood("command");
  if (in->protocol_version() != kProtocolVersion) return other_version(in->protocol_version());
  CommandEnvelope out{in->sequence(), Epoch{in->epoch()}, Drain{}};
  switch (in->command_case()) {
    case v1::CommandEnvelope::kWelcome:
      out.command = Welcome{ReplicaId{in->welcome().replica()}, Epoch{in->welcome().epoch()}};
      return out;
    case v1::CommandEnvelope::kDispatch:
      if (in->dispatch().request().priority() >= kNumPriorityClasses)
        return not_understood("command");
      out.command = take(*in->mutable_dispatch());
      return out;
    case v1::CommandEnvelope::kCancel:
      out.command =
          CancelRequest{RequestId{in->cancel().request()}, Attempt{in->cancel().attempt()}};
      return out;
    case v1::CommandEnvelope::kDrain:
      return out;
    case v1::CommandEnvelope::kShutdown:
      out.command = Shutdown{};
      return out;
    case v1::CommandEnvelope::COMMAND_NOT_SET:
      break;
  }
  return not_understood("command");
}

std::string encode(const WorkerReport& report) {
  Arena arena;
  auto* envelope = Arena::CreateMessage<v1::ReportEnvelope>(&arena);
  envelope->set_protocol_version(kProtocolVersion);
  std::visit([&](const auto& value) { put(value, envelope); }, report);
  return envelope->SerializeAsString();
}

Result<WorkerReport> decode_report(std::string_view bytes) {
  Arena arena;
  auto* in = Arena::CreateMessage<v1::ReportEnvelope>(&arena);
  if (!in->ParseFromArray(bytes.data(), static_cast<int>(bytes.size())))
    return not_understood("report");
  if (in->protocol_version() != kProtocolVersion) return other_version(in->protocol_version());
  switch (in->report_case()) {
    case v1::ReportEnvelope::kHello: {
      auto& hello = *in->mutable_hello();
      return WorkerReport(
          Hello{ReplicaId{hello.configured_replica()}, from_wire(hello.mutable_info())});
    }
    case v1::ReportEnvelope::kStep:
      return WorkerReport(take(*in->mutable_step()));
    case v1::ReportEnvelope::kDrained:
      return WorkerReport(Drained{});
    case v1::ReportEnvelope::kHeartbeat: {
      const auto& beat = in->heartbeat();
      return WorkerReport(Heartbeat{ReplicaId{beat.configured_replica()}, beat.rank(),
                                    beat.progress(), beat.busy()});
    }
    case v1::ReportEnvelope::REPORT_NOT_SET:
      break;
  }
  return not_understood("report");
}

std::string encode(const DoorbellWord& word) {
  v1::DoorbellWord out;
  out.set_protocol_version(kProtocolVersion);
  out.set_rank(word.rank);
  out.set_rings(word.rings);
  return out.SerializeAsString();
}

Result<DoorbellWord> decode_doorbell(std::string_view bytes) {
  v1::DoorbellWord in;
  if (!in.ParseFromArray(bytes.data(), static_cast<int>(bytes.size())))
    return not_understood("doorbell word");
  if (in.protocol_version() != kProtocolVersion) return other_version(in.protocol_version());
  return DoorbellWord{in.rank(), in.rings()};
}

}  // namespace tailor::comm
