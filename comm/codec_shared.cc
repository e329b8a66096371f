#include "comm/codec_shared.h"

#include <google/protobuf/stubs/common.h>
#if GOOGLE_PROTOBUF_VERSION < 4022000
#include <google/protobuf/stubs/logging.h>
#endif

#include <algorithm>
#include <string_view>

#include "base/log.h"
#include "base/utf8.h"
#include "proto/api.pb.h"

namespace tailor::comm {

void to_wire(const api::Sampling& in, v1::SamplingParams* out) {
  if (in.temperature) out->set_temperature(*in.temperature);
  if (in.top_k) out->set_top_k(*in.top_k);
  if (in.top_p) out->set_top_p(*in.top_p);
  if (in.min_p) out->set_min_p(*in.min_p);
  if (in.repetition_penalty) out->set_repetition_penalty(*in.repetition_penalty);
  out->set_presence_penalty(in.presence_penalty);
  out->set_frequency_penalty(in.frequency_penalty);
  for (const auto& [token, bias] : in.logit_bias) {
    auto* entry = out->add_logit_bias();
    entry->set_token(token);
    entry->set_bias(bias);
  }
  out->set_seed(in.seed);
  out->set_n(in.n);
  out->set_max_tokens(in.max_tokens);
  out->set_min_tokens(in.min_tokens);
  out->set_ignore_eos(in.ignore_eos);
  for (const auto& stop : in.stop) out->add_stop(to_utf8(stop));
  out->mutable_stop_token_ids()->Add(in.stop_token_ids.begin(), in.stop_token_ids.end());
  out->set_include_stop_in_output(in.include_stop_in_output);
  out->set_logprobs(in.logprobs);
  out->set_skip_special_tokens(in.skip_special_tokens);
}

api::Sampling from_wire(const v1::SamplingParams& in) {
  api::Sampling out;
  if (in.has_temperature()) out.temperature = in.temperature();
  if (in.has_top_k()) out.top_k = in.top_k();
  if (in.has_top_p()) out.top_p = in.top_p();
  if (in.has_min_p()) out.min_p = in.min_p();
  if (in.has_repetition_penalty()) out.repetition_penalty = in.repetition_penalty();
  out.presence_penalty = in.presence_penalty();
  out.frequency_penalty = in.frequency_penalty();
  out.logit_bias.reserve(in.logit_bias_size());
  for (const auto& entry : in.logit_bias())
    out.logit_bias.emplace_back(entry.token(), entry.bias());
  out.seed = in.seed();
  if (in.has_n()) out.n = in.n();
  if (in.has_max_tokens()) out.max_tokens = in.max_tokens();
  out.min_tokens = in.min_tokens();
  out.ignore_eos = in.ignore_eos();
  out.stop.assign(in.stop().begin(), in.stop().end());
  out.stop_token_ids.assign(in.stop_token_ids().begin(), in.stop_token_ids().end());
  out.include_stop_in_output = in.include_stop_in_output();
  if (in.has_logprobs()) out.logprobs = in.logprobs();
  if (in.has_skip_special_tokens()) out.skip_special_tokens = in.skip_special_tokens();
  return out;
}

void to_wire(const ReplicaInfo& in, v1::ReplicaInfo* out) {
  out->set_protocol_version(in.protocol_version);
  out->set_model_fingerprint(to_utf8(in.model_fingerprint));
  out->set_arithmetic_version(to_utf8(in.arithmetic_version));
  out->set_engine(to_utf8(in.engine));
  out->set_tp_size(in.tp_size);
  out->set_slots(in.slots);
  out->set_block_tokens(in.block_tokens);
  out->set_num_blocks(in.num_blocks);
  out->set_max_context(in.max_context);
  out->set_vocab_size(in.vocab_size);
  out->set_host(to_utf8(in.host));
  out->set_pid(in.pid);
}

ReplicaInfo from_wire(v1::ReplicaInfo* in) {
  ReplicaInfo out;
  out.protocol_version = in->protocol_version();
  out.model_fingerprint = std::move(*in->mutable_model_fingerprint());
  out.arithmetic_version = std::move(*in->mutable_arithmetic_version());
  out.engine = std::move(*in->mutable_engine());
  out.tp_size = in->tp_size();
  out.slots = in->slots();
  out.block_tokens = in->block_tokens();
  out.num_blocks = in->num_blocks();
  out.max_context = in->max_context();
  out.vocab_size = in->vocab_size();
  out.host = std::move(*in->mutable_host());
  out.pid = in->pid();
  return out;
}

void to_wire(const LogprobEntry& in, v1::LogprobEntry* out) {
  out->mutable_chosen()->set_token(in.chosen.token);
  out->mutable_chosen()->set_logprob(in.chosen.logprob);
  for (const auto& best : in.top) {
    auto* entry = out->add_top();
    entry->set_token(best.token);
    entry->set_logprob(best.logprob);
  }
}

LogprobEntry from_wire(const v1::LogprobEntry& in) {
  LogprobEntry out;
  out.chosen = {in.chosen().token(), in.chosen().logprob()};
  out.top.reserve(in.top_size());
  for (const auto& best : in.top()) out.top.push_back({best.token(), best.logprob()});
  return out;
}

void to_wire(const Error& in, v1::Error* out) {
  out->set_code(static_cast<v1::ErrorCode>(in.code));
  out->set_message(to_utf8(in.message));
}

Error from_wire(v1::Error* in) {
  const bool known = in->code() >= 0 && in->code() <= static_cast<int>(ErrorCode::kInternal);
  return {known ? static_cast<ErrorCode>(in->code()) : ErrorCode::kInternal,
          std::move(*in->mutable_message())};
}

FinishReason finish_reason_from_wire(int value) {
  const bool known = value >= 0 && value <= static_cast<int>(FinishReason::kFailed);
  return known ? static_cast<FinishReason>(value) : FinishReason::kFailed;
}

std::string to_utf8(std::string text) {
  size_t at = find_invalid_utf8(text);
  while (at < text.size()) {
    text[at++] = '?';
    at += std::min(find_invalid_utf8(std::string_view(text).substr(at)), text.size() - at);
  }
  return text;
}

void quiet_protobuf_log() {
// Later versions log through Abseil and say nothing about bad strings.
#if GOOGLE_PROTOBUF_VERSION < 4022000
  static const bool once = [] {
    google::protobuf::SetLogHandler(
        [](google::protobuf::LogLevel, const char*, int, const std::string& text) {
          LOG_DEBUG("protobuf: {}", text);
        });
    return true;
  }();
  (void)once;
#endif
}

}  // namespace tailor::comm
