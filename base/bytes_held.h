// The memory that a value holds, about: what queues bounded in bytes count. Pure.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "base/api.h"
#include "base/messages.h"
#include "base/request.h"

namespace tailor {

inline size_t bytes_held(const AnswerParams& sampling) {
  size_t bytes = sampling.stop_token_ids.size() * sizeof(TokenId) +
                 sampling.logit_bias.size() * sizeof sampling.logit_bias.front();
  for (const auto& stop : sampling.stop) bytes += sizeof stop + stop.size();
  return bytes;
}

inline size_t bytes_held(const Request& request) {
  return sizeof request + request.prompt.size() * sizeof(TokenId) + request.tenant.size() +
         bytes_held(request.sampling);
}

inline size_t bytes_held(const Dispatch& dispatch) {
  size_t bytes = bytes_held(dispatch.request);
  for (const auto& tokens : dispatch.generated)
    bytes += sizeof tokens + tokens.size() * sizeof(TokenId);
  return bytes;
}

inline size_t bytes_held(const std::vector<LogprobEntry>& logprobs) {
  size_t bytes = logprobs.size() * sizeof(LogprobEntry);
  for (const auto& entry : logprobs) bytes += entry.top.size() * sizeof(TokenLogprob);
  return bytes;
}

inline size_t bytes_held(const StepReport& report) {
  size_t bytes = sizeof report + report.events.size() * sizeof(WorkerEvent);
  for (const auto& p : report.progress)
    bytes += sizeof p + p.token_ids.size() * sizeof(TokenId) + p.text.size() + p.stop_match.size() +
             p.error.message.size() + bytes_held(p.logprobs);
  return bytes;
}

namespace api {

inline size_t bytes_held(const Submit& submit) {
  size_t bytes = sizeof submit + submit.request_id.size() + submit.tenant.size() +
                 tailor::bytes_held(submit.sampling);
  if (const auto* text = std::get_if<std::string>(&submit.prompt)) return bytes + text->size();
  if (const auto* ids = std::get_if<std::vector<TokenId>>(&submit.prompt))
    return bytes + ids->size() * sizeof(TokenId);
  for (const auto& message : std::get<std::vector<ChatMessage>>(submit.prompt))
    bytes += sizeof message + message.role.size() + message.content.size();
  return bytes;
}

inline size_t bytes_held(const ClientMessage& message) {
  if (const auto* submit = std::get_if<Submit>(&message)) return bytes_held(*submit);
  if (const auto* cancel = std::get_if<Cancel>(&message))
    return sizeof message + cancel->request_id.size() + cancel->token.size();
  if (const auto* resume = std::get_if<Resume>(&message))
    return sizeof message + resume->request_id.size() + resume->token.size() +
           resume->from_token.size() * sizeof(uint32_t);
  return sizeof message;
}

inline size_t bytes_held(const ServerEvent& event) {
  size_t bytes = sizeof event;
  if (const auto* accepted = std::get_if<Accepted>(&event)) {
    bytes += accepted->request_id.size() + accepted->token.size() +
             accepted->prompt_token_ids.size() * sizeof(TokenId);
  } else if (const auto* chunk = std::get_if<TokenChunk>(&event)) {
    bytes += chunk->request_id.size() + chunk->token_ids.size() * sizeof(TokenId) +
             chunk->text.size() + tailor::bytes_held(chunk->logprobs);
  } else if (const auto* finished = std::get_if<Finished>(&event)) {
    bytes += finished->request_id.size() + finished->error.message.size();
    for (const auto& sample : finished->samples) bytes += sizeof sample + sample.stop_match.size();
  } else if (const auto* rejected = std::get_if<Rejected>(&event)) {
    bytes += rejected->request_id.size() + rejected->error.message.size();
  } else if (const auto* status = std::get_if<StatusReport>(&event)) {
    bytes += status->replicas.size() * sizeof(ReplicaStatus) + status->predictor.size();
    for (const auto& end : status->end_tokens) bytes += sizeof end + end.text.size();
    for (const auto& [name, value] : status->counters) bytes += sizeof name + name.size() + 8;
  }
  return bytes;
}

inline size_t bytes_held(const std::vector<ServerEvent>& events) {
  size_t bytes = 0;
  for (const auto& event : events) bytes += bytes_held(event);
  return bytes;
}

}  // namespace api
}  // namespace tailor
