// The memory that a value holds, about: what queues bounded in bytes count. Pure.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "base/api.h"
#include "base/fields.h"
#include "base/request.h"

namespace tailor {

/// What `value` holds beside itself.
template <class T>
size_t bytes_outside(const T& value);
inline size_t bytes_outside(const std::string& text) { return text.size(); }
template <class A, class B>
size_t bytes_outside(const std::pair<A, B>& both) {
  return bytes_outside(both.first) + bytes_outside(both.second);
}
template <class T>
size_t bytes_outside(const std::vector<T>& values) {
  size_t bytes = values.size() * sizeof(T);
  if constexpr (!std::is_trivially_copyable_v<T>)
    for (const T& value : values) bytes += bytes_outside(value);
  return bytes;
}
template <class T>
size_t bytes_outside(const std::shared_ptr<T>& shared) {  // the holders' together: each counts it
  return shared ? sizeof(T) + bytes_outside(*shared) : 0;
}
template <class... Ts>
size_t bytes_outside(const std::variant<Ts...>& one) {
  return std::visit([](const auto& value) { return bytes_outside(value); }, one);
}
template <class T>
size_t bytes_outside(const T& value) {
  if constexpr (Listed<T>) {
    size_t bytes = 0;
    for_each_field(value, [&](const auto&, const auto& field) { bytes += bytes_outside(field); });
    return bytes;
  } else {
    static_assert(std::is_trivially_copyable_v<T>, "give it a field list");
    return 0;
  }
}

namespace api {

inline size_t bytes_held(const Submit& submit) {
  size_t bytes = sizeof submit + submit.request_id.size() + submit.tenant.size() +
                 bytes_outside(submit.sampling.stop) +
                 bytes_outside(submit.sampling.stop_token_ids) +
                 bytes_outside(submit.sampling.logit_bias);
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
             chunk->text.size() + bytes_outside(chunk->logprobs);
  } else if (const auto* finished = std::get_if<Finished>(&event)) {
    bytes += finished->request_id.size() + finished->error.message.size();
    for (const auto& sample : finished->samples) bytes += sizeof sample + sample.stop_match.size();
  } else if (const auto* rejected = std::get_if<Rejected>(&event)) {
    bytes += rejected->request_id.size() + rejected->error.message.size();
  } else if (const auto* status = std::get_if<StatusReport>(&event)) {
    bytes += status->replicas.size() * sizeof(ReplicaStatus) + status->predictor.size();
    bytes += status->drained.size() * sizeof(DrainedReplica);
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
