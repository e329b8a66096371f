#include "comm/codec_control.h"

#include <google/protobuf/arena.h>

#include <algorithm>
#include <optional>

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
  to_wire(api::Sampling(in.request.sampling), request->mutable_sampling());
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
void put(const Shutdown& in, v1::CommandEnvelope* out) {
  out->mutable_shutdown()->set_cluster_stops(in.cluster_stops);
}

Dispatch take(v1::Dispatch& in) {
  Dispatch out;
  out.attempt.value = in.attempt();
  auto& request = *in.mutable_request();
  out.request.id.value = request.id();
  out.request.prompt.assign(request.prompt().begin(), request.prompt().end());
  out.request.sampling = from_wire(request.sampling()).resolved({});  // all are there
  out.request.priority = static_cast<PriorityClass>(request.priority());
  out.request.tenant = std::move(*request.mutable_tenant());
  if (request.has_deadline_ns()) out.request.deadline = Duration(request.deadline_ns());
  out.generated.reserve(in.generated_size());
  for (const auto& ids : in.generated())
    out.generated.emplace_back(ids.ids().begin(), ids.ids().end());
  return out;
}

// ---- laws
// -----------------------------------------------------------------------------------------

void put(const LengthLaw& in, v1::LengthLaw* out) {
  out->set_kind(static_cast<uint32_t>(in.kind));
  if (in.kind == LengthLaw::Kind::kLogT) {
    out->set_mu(in.mu);
    out->set_sigma(in.sigma);
    out->set_nu(in.nu);
  } else if (in.kind == LengthLaw::Kind::kHistogram) {
    out->set_low(in.low);
    out->set_high(in.high);
    out->mutable_bins()->Add(in.bins.begin(), in.bins.end());
  }
}

/// Nothing when the numbers can be no law.
std::optional<LengthLaw> take(const v1::LengthLaw& in) {
  LengthLaw out;
  switch (in.kind()) {
    case static_cast<uint32_t>(LengthLaw::Kind::kNone):
      return out;
    case static_cast<uint32_t>(LengthLaw::Kind::kLogT):
      out.kind = LengthLaw::Kind::kLogT;
      out.mu = in.mu();
      out.sigma = in.sigma();
      out.nu = in.nu();
      break;
    case static_cast<uint32_t>(LengthLaw::Kind::kHistogram):
      if (in.bins_size() != LengthLaw::kBins) return std::nullopt;
      out.kind = LengthLaw::Kind::kHistogram;
      out.low = in.low();
      out.high = in.high();
      std::copy(in.bins().begin(), in.bins().end(), out.bins.begin());
      break;
    default:
      return std::nullopt;
  }
  return well_formed(out) ? std::optional(out) : std::nullopt;
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
    } else if (const auto* probed = std::get_if<LawProbed>(&event)) {
      auto* law = entry->mutable_probed();
      law->set_request(probed->request.value);
      law->set_attempt(probed->attempt.value);
      law->set_sample(probed->sample);
      law->set_generated(probed->generated);
      put(probed->law, law->mutable_law());
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
  out->set_epoch(in.epoch.value);
}

void put(const PredictorHello& in, v1::ReportEnvelope* envelope) {
  auto* out = envelope->mutable_predictor_hello();
  out->set_name(to_utf8(in.name));
  out->set_encoder(to_utf8(in.encoder));
  out->set_head(to_utf8(in.head));
  put(in.population, out->mutable_population());
  out->set_version(to_utf8(in.version));
  out->set_pid(in.pid);
}

void put(const Predicted& in, v1::ReportEnvelope* envelope) {
  envelope->mutable_predicted()->set_request(in.request.value);
  put(in.law, envelope->mutable_predicted()->mutable_law());
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
    } else if (event.has_probed()) {
      const auto& probed = event.probed();
      // A law that is none costs itself only, never the tokens of the report it rides on.
      if (const auto law = take(probed.law()))
        out.events.emplace_back(LawProbed{RequestId{probed.request()}, Attempt{probed.attempt()},
                                          probed.sample(), probed.generated(), *law});
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
      out.command = Shutdown{in->shutdown().cluster_stops()};
      return out;
    case v1::CommandEnvelope::kPredict:  // for a predictor, not for a worker
    case v1::CommandEnvelope::COMMAND_NOT_SET:
      break;
  }
  return not_understood("command");
}

namespace {

template <class Report>
std::string encode_report(const Report& report) {
  Arena arena;
  auto* envelope = Arena::CreateMessage<v1::ReportEnvelope>(&arena);
  envelope->set_protocol_version(kProtocolVersion);
  std::visit([&](const auto& value) { put(value, envelope); }, report);
  return envelope->SerializeAsString();
}

Result<PredictorReport> take(v1::PredictorHello& in) {
  const auto population = take(in.population());
  if (!population) return not_understood("report");
  return PredictorReport(PredictorHello{
      std::move(*in.mutable_name()), std::move(*in.mutable_encoder()),
      std::move(*in.mutable_head()), *population, std::move(*in.mutable_version()), in.pid()});
}

Result<PredictorReport> take(const v1::Predicted& in) {
  const auto law = take(in.law());
  if (!law) return not_understood("report");
  return PredictorReport(Predicted{RequestId{in.request()}, *law});
}

}  // namespace

std::string encode(const WorkerReport& report) { return encode_report(report); }
std::string encode(const PredictorReport& report) { return encode_report(report); }

Result<ControlReport> decode_control(std::string_view bytes) {
  Arena arena;
  auto* in = Arena::CreateMessage<v1::ReportEnvelope>(&arena);
  if (!in->ParseFromArray(bytes.data(), static_cast<int>(bytes.size())))
    return not_understood("report");
  if (in->protocol_version() != kProtocolVersion) return other_version(in->protocol_version());
  switch (in->report_case()) {
    case v1::ReportEnvelope::kHello: {
      auto& hello = *in->mutable_hello();
      return ControlReport(WorkerReport(
          Hello{ReplicaId{hello.configured_replica()}, from_wire(hello.mutable_info())}));
    }
    case v1::ReportEnvelope::kStep:
      return ControlReport(WorkerReport(take(*in->mutable_step())));
    case v1::ReportEnvelope::kDrained:
      return ControlReport(WorkerReport(Drained{}));
    case v1::ReportEnvelope::kHeartbeat: {
      const auto& beat = in->heartbeat();
      return ControlReport(
          WorkerReport(Heartbeat{ReplicaId{beat.configured_replica()}, beat.rank(), beat.progress(),
                                 beat.busy(), Epoch{beat.epoch()}}));
    }
    case v1::ReportEnvelope::kPredictorHello: {
      TAILOR_ASSIGN(PredictorReport report, take(*in->mutable_predictor_hello()));
      return ControlReport(std::move(report));
    }
    case v1::ReportEnvelope::kPredicted: {
      TAILOR_ASSIGN(PredictorReport report, take(in->predicted()));
      return ControlReport(std::move(report));
    }
    case v1::ReportEnvelope::REPORT_NOT_SET:
      break;
  }
  return not_understood("report");
}

Result<WorkerReport> decode_report(std::string_view bytes) {
  TAILOR_ASSIGN(ControlReport report, decode_control(bytes));
  if (auto* worker = std::get_if<WorkerReport>(&report)) return std::move(*worker);
  return not_understood("worker's report");
}

std::string encode(const Predict& question) {
  v1::CommandEnvelope envelope;
  envelope.set_protocol_version(kProtocolVersion);
  envelope.mutable_predict()->set_request(question.request.value);
  envelope.mutable_predict()->set_prompt(question.prompt);
  envelope.mutable_predict()->set_max_tokens(question.max_tokens);
  return envelope.SerializeAsString();
}

Result<Predict> decode_predict(std::string_view bytes) {
  v1::CommandEnvelope in;
  if (!in.ParseFromArray(bytes.data(), static_cast<int>(bytes.size())))
    return not_understood("question");
  if (in.protocol_version() != kProtocolVersion) return other_version(in.protocol_version());
  if (!in.has_predict()) return not_understood("question");
  auto& question = *in.mutable_predict();
  return Predict{RequestId{question.request()}, std::move(*question.mutable_prompt()),
                 question.max_tokens()};
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
