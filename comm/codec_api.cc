#include "comm/codec_api.h"

#include <google/protobuf/arena.h>

#include <algorithm>
#include <optional>
#include <type_traits>

#include "base/utf8.h"
#include "comm/codec_shared.h"
#include "proto/api.pb.h"

namespace tailor::comm {
namespace {

using google::protobuf::Arena;

// A deadline further away than this is none; it also keeps arrival + deadline within the clock's
// range.
constexpr int64_t kLongestDeadlineUs = 10ll * 365 * 24 * 3600 * 1'000'000;
// A field that claims more bytes is no field: far above any message, far below overflow.
constexpr uint64_t kMostClaimed = uint64_t{1} << 40;

int64_t wire_us(Duration d) { return to_us(d); }
Duration from_us(int64_t us) {
  constexpr int64_t kLimit = Duration::max().count() / 1000;
  return microseconds(std::clamp(us, -kLimit, kLimit));
}

// ---- a message's fields before protobuf sees it ----

// Reads a protobuf varint at `at`; false at the end of the bytes.
bool read_varint(std::string_view bytes, size_t& at, uint64_t& value) {
  value = 0;
  for (int shift = 0; shift < 64 && at < bytes.size(); shift += 7) {
    const auto byte = static_cast<unsigned char>(bytes[at++]);
    value |= static_cast<uint64_t>(byte & 0x7F) << shift;
    if (byte < 0x80) return true;
  }
  return false;
}

struct Field {
  uint64_t number = 0;
  bool has_content = false;  // length-delimited
  std::string_view content;  // as much of it as is there,
  size_t claimed = 0;        // and how much it says there is
  size_t bytes = 0;          // on the wire, content as claimed
};

// Takes the first field off `rest`; false at its end and at what is no field. A group's fields are
// taken as if they stood outside it. A last field may claim more bytes than there are.
bool next_field(std::string_view& rest, Field& field) {
  size_t at = 0;
  uint64_t tag, value;
  if (!read_varint(rest, at, tag)) return false;
  field = Field{.number = tag >> 3};
  switch (tag & 7) {
    case 0:
      if (!read_varint(rest, at, value)) return false;
      break;
    case 1:
      at += 8;
      break;
    case 2:
      if (!read_varint(rest, at, value) || value > kMostClaimed) return false;
      field.has_content = true;
      field.content = rest.substr(at, value);
      field.claimed = value;
      at += value;
      break;
    case 3:
    case 4:
      break;
    case 5:
      at += 4;
      break;
    default:
      return false;
  }
  field.bytes = at;
  rest.remove_prefix(std::min(at, rest.size()));
  return true;
}

bool is_body(const Field& field) {
  return field.has_content && field.number >= 2 && field.number <= 15;
}

// Every message of ClientMessage's oneof (fields 2..15) that names a request has the id as its
// field 1.
std::optional<std::string> find_request_id(std::string_view bytes) {
  Field body, id;
  do {
    if (!next_field(bytes, body)) return std::nullopt;
  } while (!is_body(body));
  do {
    if (!next_field(body.content, id)) return std::nullopt;
  } while (!id.has_content || id.number != 1);
  if (id.content.empty() || id.content.size() > kMaxRequestIdBytes ||
      find_invalid_utf8(id.content) != std::string_view::npos)
    return std::nullopt;
  return std::string(id.content);
}

struct Sizes {
  size_t prompt = 0, tenant = 0, beside = 0;
};

// Never more than take_submit() will count: role and content have headers of their own.
size_t chat_bytes(std::string_view chat) {
  constexpr size_t kHeaders = 12;
  size_t bytes = 0;
  for (Field message; next_field(chat, message);)
    bytes += kChatMessageBytes - kHeaders + message.claimed;
  return bytes;
}

size_t token_id_bytes(std::string_view ids) {
  size_t count = 0;
  for (Field field; next_field(ids, field);)
    count += field.has_content
                 ? static_cast<size_t>(std::count_if(field.content.begin(), field.content.end(),
                                                     [](char byte) { return (byte & 0x80) == 0; }))
                 : 1;
  return count * sizeof(TokenId);
}

void measure_submit(std::string_view submit, Sizes& sizes) {
  for (Field field; sizes.beside <= kMaxBesidePromptBytes && next_field(submit, field);) {
    const bool is_prompt = field.number >= v1::Submit::kTextFieldNumber &&
                           field.number <= v1::Submit::kTokenIdsFieldNumber;
    if (field.has_content && is_prompt) {
      sizes.prompt += field.number == v1::Submit::kTextFieldNumber ? field.claimed
                      : field.number == v1::Submit::kChatFieldNumber
                          ? chat_bytes(field.content)
                          : token_id_bytes(field.content);
    } else if (field.has_content && field.number == v1::Submit::kTenantFieldNumber) {
      sizes.tenant += field.claimed;
    } else {
      sizes.beside += field.bytes;
    }
  }
}

// A field that comes twice counts twice: protobuf would merge them. Ends early once a part that is
// walked field by field is too large.
Sizes measure(std::string_view message) {
  Sizes sizes;
  for (Field field; sizes.beside <= kMaxBesidePromptBytes && next_field(message, field);) {
    if (field.has_content && field.number == v1::ClientMessage::kSubmitFieldNumber)
      measure_submit(field.content, sizes);
    else
      sizes.beside += field.bytes;
  }
  return sizes;
}

// ---- decoding what a client says ----

tl::unexpected<BadClientMessage> refuse(std::string id, ErrorCode code, std::string message) {
  const std::string_view head = std::string_view(id).substr(0, kMaxRequestIdBytes);
  id.resize(std::min(find_invalid_utf8(head), head.size()));
  return tl::unexpected(BadClientMessage{true, std::move(id), Error{code, std::move(message)}});
}

tl::unexpected<BadClientMessage> refuse_bytes(std::string_view bytes, ErrorCode code,
                                              std::string message) {
  auto id = find_request_id(bytes);
  const bool answerable = id.has_value();
  return tl::unexpected(
      BadClientMessage{answerable, std::move(id).value_or(""), Error{code, std::move(message)}});
}

std::optional<std::string> what_is_wrong_with_id(const std::string& id) {
  if (!id.empty() && id.size() <= kMaxRequestIdBytes) return std::nullopt;
  return "request_id must have 1 to 128 bytes, found " + std::to_string(id.size());
}

std::string too_large(size_t found, size_t limit) {
  return "the prompt has " + std::to_string(found) +
         " bytes (a token id counts 4, a chat message " + std::to_string(kChatMessageBytes) +
         " beside its text), the limit is " + std::to_string(limit);
}

tl::expected<api::ClientMessage, BadClientMessage> take_submit(v1::Submit& in,
                                                               size_t max_prompt_bytes) {
  const std::string& id = in.request_id();
  if (auto wrong = what_is_wrong_with_id(id))
    return refuse(id, ErrorCode::kInvalidArgument, *wrong);
  api::Submit out;
  size_t bytes = 0;
  switch (in.prompt_case()) {
    case v1::Submit::kText:
      bytes = in.text().size();
      break;
    case v1::Submit::kChat:
      for (const auto& m : in.chat().messages())
        bytes += kChatMessageBytes + m.role().size() + m.content().size();
      break;
    case v1::Submit::kTokenIds:
      bytes = 4 * static_cast<size_t>(in.token_ids().ids_size());
      break;
    case v1::Submit::PROMPT_NOT_SET:
      return refuse(id, ErrorCode::kInvalidArgument,
                    "one of text, chat and token_ids must be set as the prompt");
  }
  if (bytes > max_prompt_bytes)
    return refuse(id, ErrorCode::kLimitExceeded, too_large(bytes, max_prompt_bytes));
  if (in.prompt_case() == v1::Submit::kText) {
    out.prompt = std::move(*in.mutable_text());
  } else if (in.prompt_case() == v1::Submit::kChat) {
    std::vector<api::ChatMessage> messages;
    messages.reserve(in.chat().messages_size());
    for (auto& m : *in.mutable_chat()->mutable_messages())
      messages.push_back({std::move(*m.mutable_role()), std::move(*m.mutable_content())});
    out.prompt = std::move(messages);
  } else {
    out.prompt = std::vector<TokenId>(in.token_ids().ids().begin(), in.token_ids().ids().end());
  }
  if (in.has_add_special_tokens()) out.add_special_tokens = in.add_special_tokens();
  if (in.has_parse_special_tokens()) out.parse_special_tokens = in.parse_special_tokens();
  out.sampling = from_wire(in.sampling());
  out.has_seed = in.sampling().has_seed();
  if (in.priority() < 0 || in.priority() > v1::PRIORITY_CLASS_BATCH)
    return refuse(id, ErrorCode::kInvalidArgument,
                  "priority must be 1 (interactive), 2 (standard) or 3 (batch), found " +
                      std::to_string(static_cast<int>(in.priority())));
  if (in.priority() != v1::PRIORITY_CLASS_UNSPECIFIED)
    out.priority = static_cast<PriorityClass>(in.priority() - v1::PRIORITY_CLASS_INTERACTIVE);
  out.tenant = std::move(*in.mutable_tenant());
  if (in.has_deadline_us()) {
    if (in.deadline_us() <= 0)
      return refuse(id, ErrorCode::kInvalidArgument,
                    "deadline_us must be above 0, found " + std::to_string(in.deadline_us()));
    if (in.deadline_us() < kLongestDeadlineUs) out.deadline = microseconds(in.deadline_us());
  }
  out.detach = in.detach();
  out.request_id = std::move(*in.mutable_request_id());
  return api::ClientMessage(std::move(out));
}

void put(const api::Submit& in, v1::ClientMessage* message) {
  auto* out = message->mutable_submit();
  out->set_request_id(in.request_id);
  if (const auto* text = std::get_if<std::string>(&in.prompt)) {
    out->set_text(*text);
  } else if (const auto* chat = std::get_if<std::vector<api::ChatMessage>>(&in.prompt)) {
    out->mutable_chat();
    for (const auto& m : *chat) {
      auto* entry = out->mutable_chat()->add_messages();
      entry->set_role(m.role);
      entry->set_content(m.content);
    }
  } else {
    const auto& ids = std::get<std::vector<TokenId>>(in.prompt);
    out->mutable_token_ids()->mutable_ids()->Add(ids.begin(), ids.end());
  }
  out->set_add_special_tokens(in.add_special_tokens);
  if (in.parse_special_tokens) out->set_parse_special_tokens(*in.parse_special_tokens);
  to_wire(in.sampling, out->mutable_sampling());
  if (!in.has_seed) out->mutable_sampling()->clear_seed();
  out->set_priority(static_cast<v1::PriorityClass>(static_cast<int>(in.priority) +
                                                   v1::PRIORITY_CLASS_INTERACTIVE));
  out->set_tenant(in.tenant);
  if (in.deadline) out->set_deadline_us(wire_us(*in.deadline));
  out->set_detach(in.detach);
}

void put(const api::Cancel& in, v1::ClientMessage* message) {
  message->mutable_cancel()->set_request_id(in.request_id);
  message->mutable_cancel()->set_token(in.token);
}

void put(const api::Credit& in, v1::ClientMessage* message) {
  message->mutable_credit()->set_messages(in.messages);
}

void put(const api::Resume& in, v1::ClientMessage* message) {
  auto* out = message->mutable_resume();
  out->set_request_id(in.request_id);
  out->mutable_from_token()->Add(in.from_token.begin(), in.from_token.end());
  out->set_token(in.token);
}

void put(const api::StatusQuery&, v1::ClientMessage* message) { message->mutable_status(); }

// ---- what the server says ----

void put(const api::Accepted& in, v1::ServerEvent* event) {
  auto* out = event->mutable_accepted();
  out->set_request_id(in.request_id);
  out->mutable_prompt_token_ids()->Add(in.prompt_token_ids.begin(), in.prompt_token_ids.end());
  out->set_seed(in.seed);
  out->set_max_tokens(in.max_tokens);
  out->set_token(in.token);
}

api::Accepted take(v1::Accepted& in) {
  api::Accepted out;
  out.request_id = std::move(*in.mutable_request_id());
  out.prompt_token_ids.assign(in.prompt_token_ids().begin(), in.prompt_token_ids().end());
  out.seed = in.seed();
  out.max_tokens = in.max_tokens();
  out.token = std::move(*in.mutable_token());
  return out;
}

void put(const api::TokenChunk& in, v1::ServerEvent* event) {
  auto* out = event->mutable_chunk();
  out->set_request_id(in.request_id);
  out->set_sample(in.sample);
  out->set_first_index(in.first_index);
  out->mutable_token_ids()->Add(in.token_ids.begin(), in.token_ids.end());
  out->set_text_offset(in.text_offset);
  out->set_text(to_utf8(in.text));
  for (const auto& entry : in.logprobs) to_wire(entry, out->add_logprobs());
}

api::TokenChunk take(v1::TokenChunk& in) {
  api::TokenChunk out;
  out.request_id = std::move(*in.mutable_request_id());
  out.sample = in.sample();
  out.first_index = in.first_index();
  out.token_ids.assign(in.token_ids().begin(), in.token_ids().end());
  out.text_offset = in.text_offset();
  out.text = std::move(*in.mutable_text());
  out.logprobs.reserve(in.logprobs_size());
  for (const auto& entry : in.logprobs()) out.logprobs.push_back(from_wire(entry));
  return out;
}

void put(const api::Finished& in, v1::ServerEvent* event) {
  auto* out = event->mutable_finished();
  out->set_request_id(in.request_id);
  for (const auto& sample : in.samples) {
    auto* entry = out->add_samples();
    entry->set_reason(static_cast<v1::FinishReason>(sample.reason));
    entry->set_stop_match(to_utf8(sample.stop_match));
    entry->set_completion_tokens(sample.completion_tokens);
  }
  out->set_prompt_tokens(in.prompt_tokens);
  out->set_cached_tokens(in.cached_tokens);
  auto* timings = out->mutable_timings();
  timings->set_tokenized_us(wire_us(in.timings.tokenized));
  timings->set_dispatched_us(wire_us(in.timings.dispatched));
  timings->set_first_token_us(wire_us(in.timings.first_token));
  timings->set_finished_us(wire_us(in.timings.finished));
  timings->set_preemptions(in.timings.preemptions);
  timings->set_attempts(in.timings.attempts);
  timings->set_replica(in.timings.replica);
  if (in.error.code != ErrorCode::kOk || !in.error.message.empty())
    to_wire(in.error, out->mutable_error());
}

api::Finished take(v1::Finished& in) {
  api::Finished out;
  out.request_id = std::move(*in.mutable_request_id());
  out.samples.reserve(in.samples_size());
  for (auto& sample : *in.mutable_samples())
    out.samples.push_back({finish_reason_from_wire(sample.reason()),
                           std::move(*sample.mutable_stop_match()), sample.completion_tokens()});
  out.prompt_tokens = in.prompt_tokens();
  out.cached_tokens = in.cached_tokens();
  const auto& timings = in.timings();
  out.timings.tokenized = from_us(timings.tokenized_us());
  out.timings.dispatched = from_us(timings.dispatched_us());
  out.timings.first_token = from_us(timings.first_token_us());
  out.timings.finished = from_us(timings.finished_us());
  out.timings.preemptions = timings.preemptions();
  out.timings.attempts = timings.attempts();
  out.timings.replica = timings.replica();
  out.error = {ErrorCode::kOk, ""};
  if (in.has_error()) out.error = from_wire(in.mutable_error());
  return out;
}

void put(const api::Rejected& in, v1::ServerEvent* event) {
  auto* out = event->mutable_rejected();
  out->set_request_id(in.request_id);
  to_wire(in.error, out->mutable_error());
  out->set_retry_after_us(wire_us(in.retry_after));
}

api::Rejected take(v1::Rejected& in) {
  api::Rejected out;
  out.request_id = std::move(*in.mutable_request_id());
  out.error = from_wire(in.mutable_error());
  out.retry_after = from_us(in.retry_after_us());
  return out;
}

void put(const api::StatusReport& in, v1::ServerEvent* event) {
  auto* out = event->mutable_status();
  out->set_ready(in.ready);
  out->set_version(to_utf8(in.version));
  out->set_protocol_version(in.protocol_version);
  out->set_model(to_utf8(in.model));
  out->set_policy(to_utf8(in.policy));
  out->set_waiting_requests(in.waiting_requests);
  out->set_active_requests(in.active_requests);
  out->set_queue_limit(in.queue_limit);
  out->set_expected_replicas(in.expected_replicas);
  out->set_uptime_s(in.uptime_s);
  out->set_predictor(to_utf8(in.predictor));
  for (const auto& end : in.end_tokens) {
    auto* entry = out->add_end_tokens();
    entry->set_token(end.token);
    entry->set_text(to_utf8(end.text));
  }
  for (const auto& r : in.replicas) {
    auto* entry = out->add_replicas();
    entry->set_replica(r.replica.value);
    entry->set_epoch(r.epoch.value);
    entry->set_ready(r.ready);
    entry->set_draining(r.draining);
    to_wire(r.info, entry->mutable_info());
    entry->set_running_sequences(r.running_sequences);
    entry->set_dispatched_requests(r.dispatched_requests);
    entry->set_free_blocks(r.free_blocks);
    entry->set_commands_in_flight(r.commands_in_flight);
    entry->set_steps(r.steps);
    entry->set_tokens(r.tokens);
    entry->set_step_ms(r.step_ms);
    entry->set_forward_ms(r.forward_ms);
    entry->set_tokens_per_s(r.tokens_per_s);
    entry->set_busy_s(r.busy_s);
    entry->set_forward_s(r.forward_s);
    entry->set_sample_s(r.sample_s);
  }
  for (const auto& drained : in.drained) {
    auto* entry = out->add_drained();
    entry->set_replica(drained.replica.value);
    entry->set_epoch(drained.epoch.value);
  }
  for (const auto& [name, value] : in.counters) {
    auto* entry = out->add_counters();
    entry->set_name(to_utf8(name));
    entry->set_value(value);
  }
}

api::StatusReport take(v1::StatusReport& in) {
  api::StatusReport out;
  out.ready = in.ready();
  out.version = std::move(*in.mutable_version());
  out.protocol_version = in.protocol_version();
  out.model = std::move(*in.mutable_model());
  out.policy = std::move(*in.mutable_policy());
  out.waiting_requests = in.waiting_requests();
  out.active_requests = in.active_requests();
  out.queue_limit = in.queue_limit();
  out.expected_replicas = in.expected_replicas();
  out.uptime_s = in.uptime_s();
  out.predictor = std::move(*in.mutable_predictor());
  for (auto& end : *in.mutable_end_tokens())
    out.end_tokens.push_back({end.token(), std::move(*end.mutable_text())});
  for (auto& r : *in.mutable_replicas()) {
    auto& entry = out.replicas.emplace_back();
    entry.replica.value = r.replica();
    entry.epoch.value = r.epoch();
    entry.ready = r.ready();
    entry.draining = r.draining();
    entry.info = from_wire(r.mutable_info());
    entry.running_sequences = r.running_sequences();
    entry.dispatched_requests = r.dispatched_requests();
    entry.free_blocks = r.free_blocks();
    entry.commands_in_flight = r.commands_in_flight();
    entry.steps = r.steps();
    entry.tokens = r.tokens();
    entry.step_ms = r.step_ms();
    entry.forward_ms = r.forward_ms();
    entry.tokens_per_s = r.tokens_per_s();
    entry.busy_s = r.busy_s();
    entry.forward_s = r.forward_s();
    entry.sample_s = r.sample_s();
  }
  for (const auto& drained : in.drained())
    out.drained.push_back({ReplicaId{drained.replica()}, Epoch{drained.epoch()}});
  for (auto& c : *in.mutable_counters())
    out.counters.emplace_back(std::move(*c.mutable_name()), c.value());
  return out;
}

void put(const api::Forgotten&, v1::ServerEvent* event) { event->mutable_forgotten(); }

}  // namespace

tl::expected<api::ClientMessage, BadClientMessage> decode_client_message(std::string_view bytes,
                                                                         size_t max_prompt_bytes) {
  const Sizes sizes = measure(bytes);
  if (sizes.prompt > max_prompt_bytes)
    return refuse_bytes(bytes, ErrorCode::kLimitExceeded,
                        too_large(sizes.prompt, max_prompt_bytes));
  if (sizes.tenant > kMaxTenantBytes)
    return refuse_bytes(bytes, ErrorCode::kLimitExceeded,
                        "tenant has " + std::to_string(sizes.tenant) + " bytes, the limit is " +
                            std::to_string(kMaxTenantBytes));
  if (sizes.beside > kMaxBesidePromptBytes)
    return refuse_bytes(bytes, ErrorCode::kLimitExceeded,
                        "the message has " + std::to_string(sizes.beside) +
                            " bytes or more beside its prompt (sampling, names, unknown fields), "
                            "the limit is " +
                            std::to_string(kMaxBesidePromptBytes));
  if (const size_t limit = max_client_message_bytes(max_prompt_bytes); bytes.size() > limit)
    return refuse_bytes(bytes, ErrorCode::kLimitExceeded,
                        "the message has more than " + std::to_string(limit) + " bytes");
  Arena arena;
  auto* message = Arena::CreateMessage<v1::ClientMessage>(&arena);
  if (!message->ParseFromArray(bytes.data(), static_cast<int>(bytes.size())))
    return refuse_bytes(
        bytes, ErrorCode::kProtocol,
        "the bytes are not a tailor.v1.ClientMessage (damaged, or text that is not UTF-8)");
  if (message->protocol_version() > api::kProtocolVersion)
    return refuse_bytes(bytes, ErrorCode::kProtocol,
                        "this server speaks version " + std::to_string(api::kProtocolVersion) +
                            ", the client sent version " +
                            std::to_string(message->protocol_version()));
  switch (message->body_case()) {
    case v1::ClientMessage::kSubmit:
      return take_submit(*message->mutable_submit(), max_prompt_bytes);
    case v1::ClientMessage::kCancel: {
      auto& in = *message->mutable_cancel();
      auto& id = *in.mutable_request_id();
      if (auto wrong = what_is_wrong_with_id(id))
        return refuse(id, ErrorCode::kInvalidArgument, *wrong);
      return api::ClientMessage(api::Cancel{std::move(id), std::move(*in.mutable_token())});
    }
    case v1::ClientMessage::kCredit:
      return api::ClientMessage(api::Credit{message->credit().messages()});
    case v1::ClientMessage::kResume: {
      auto& in = *message->mutable_resume();
      auto& id = *in.mutable_request_id();
      if (auto wrong = what_is_wrong_with_id(id))
        return refuse(id, ErrorCode::kInvalidArgument, *wrong);
      return api::ClientMessage(api::Resume{
          std::move(id), std::vector<uint32_t>(in.from_token().begin(), in.from_token().end()),
          std::move(*in.mutable_token())});
    }
    case v1::ClientMessage::kStatus:
      return api::ClientMessage(api::StatusQuery{});
    case v1::ClientMessage::BODY_NOT_SET:
      break;
  }
  return refuse_bytes(bytes, ErrorCode::kProtocol,
                      "this server speaks version " + std::to_string(api::kProtocolVersion) +
                          " and does not know this kind of message");
}

Result<void> check_text(const api::Submit& submit) {
  const auto check = [](const std::string& what, std::string_view text) -> Result<void> {
    const size_t bad = find_invalid_utf8(text);
    if (bad == std::string_view::npos) return {};
    return fail(ErrorCode::kInvalidArgument, what + " is not UTF-8 at byte " + std::to_string(bad));
  };
  TAILOR_TRY(check("the request id", submit.request_id));
  TAILOR_TRY(check("the tenant", submit.tenant));
  for (size_t i = 0; i < submit.sampling.stop.size(); ++i)
    TAILOR_TRY(check("stop[" + std::to_string(i) + "]", submit.sampling.stop[i]));
  if (const auto* text = std::get_if<std::string>(&submit.prompt))
    TAILOR_TRY(check("the prompt", *text));
  if (const auto* chat = std::get_if<std::vector<api::ChatMessage>>(&submit.prompt)) {
    for (size_t i = 0; i < chat->size(); ++i) {
      const std::string where = "messages[" + std::to_string(i) + "]";
      TAILOR_TRY(check(where + ".role", (*chat)[i].role));
      TAILOR_TRY(check(where + ".content", (*chat)[i].content));
    }
  }
  return {};
}

std::string encode(const api::ClientMessage& value) {
  Arena arena;
  auto* message = Arena::CreateMessage<v1::ClientMessage>(&arena);
  message->set_protocol_version(api::kProtocolVersion);
  std::visit([&](const auto& body) { put(body, message); }, value);
  return message->SerializeAsString();
}

std::string encode(const std::vector<api::ServerEvent>& events) {
  Arena arena;
  auto* message = Arena::CreateMessage<v1::ServerMessage>(&arena);
  message->set_protocol_version(api::kProtocolVersion);
  for (const auto& event : events)
    std::visit([&](const auto& body) { put(body, message->add_events()); }, event);
  return message->SerializeAsString();
}

Result<std::vector<api::ServerEvent>> decode_server_message(std::string_view bytes) {
  Arena arena;
  auto* message = Arena::CreateMessage<v1::ServerMessage>(&arena);
  if (!message->ParseFromArray(bytes.data(), static_cast<int>(bytes.size())))
    return fail(ErrorCode::kProtocol,
                "the server sent bytes that are not a tailor.v1.ServerMessage");
  if (message->protocol_version() > api::kProtocolVersion)
    return fail(ErrorCode::kProtocol,
                "this client speaks version " + std::to_string(api::kProtocolVersion) +
                    ", the server sent version " + std::to_string(message->protocol_version()));
  std::vector<api::ServerEvent> events;
  events.reserve(message->events_size());
  for (auto& event : *message->mutable_events()) {
    switch (event.body_case()) {
      case v1::ServerEvent::kAccepted:
        events.emplace_back(take(*event.mutable_accepted()));
        break;
      case v1::ServerEvent::kChunk:
        events.emplace_back(take(*event.mutable_chunk()));
        break;
      case v1::ServerEvent::kFinished:
        events.emplace_back(take(*event.mutable_finished()));
        break;
      case v1::ServerEvent::kRejected:
        events.emplace_back(take(*event.mutable_rejected()));
        break;
      case v1::ServerEvent::kStatus:
        events.emplace_back(take(*event.mutable_status()));
        break;
      case v1::ServerEvent::kForgotten:
        events.emplace_back(api::Forgotten{});
        break;
      case v1::ServerEvent::BODY_NOT_SET:
        break;
    }
  }
  return events;
}

}  // namespace tailor::comm
