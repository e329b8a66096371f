// The public request API between plain values (base/api.h) and bytes (proto/api.proto). Pure; any
// thread. Nothing a peer sends can do more than make a decode fail.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/api.h"
#include "base/result.h"

namespace tailor::comm {

inline constexpr size_t kMaxRequestIdBytes = 128;
/// Of one message to the server; a larger one closes its connection.
inline constexpr size_t kMaxMessageBytes = 64u << 20;
inline constexpr size_t kMaxTenantBytes = 256;
/// Of a client's message, everything that is neither prompt nor tenant: sampling, names, fields
/// this version does not know.
inline constexpr size_t kMaxBesidePromptBytes = 64u << 10;
/// A chat message counts so much beside its own bytes: it costs that much memory.
inline constexpr size_t kChatMessageBytes = 64;
/// No message that is taken is longer on the wire: a token id counts 4 bytes and takes at most 6.
constexpr size_t max_client_message_bytes(size_t max_prompt_bytes) {
  return max_prompt_bytes + max_prompt_bytes / 2 + 2 * kMaxBesidePromptBytes;
}

/// Why a client's message was not taken, and what can be said back.
struct BadClientMessage {
  bool answerable = false;  ///< false: no request id could be read; drop and count
  std::string request_id;   ///< valid UTF-8, at most 128 bytes
  Error error;
};

/// Sizes are looked at before anything is decoded, so that what is refused for its size costs
/// neither time nor memory; of a longer message the first max_client_message_bytes() + 1 bytes will
/// do. Errors: Protocol (not a message of this version), LimitExceeded (prompt larger than
/// `max_prompt_bytes`, tenant, or the rest; names the part, the limit and what was found; token ids
/// count 4 bytes each), InvalidArgument (request id, enum out of range, negative deadline).
/// Sampling numbers pass as they are, NaN included: base/request.h, validate() judges them.
tl::expected<api::ClientMessage, BadClientMessage> decode_client_message(std::string_view bytes,
                                                                         size_t max_prompt_bytes);
/// Empty when it would be larger than protobuf's 2 GiB.
std::string encode(const api::ClientMessage& message);

/// Every text of `submit` is UTF-8. A client asks before it encodes: on the wire what is not UTF-8
/// would be changed or make the whole message unreadable. Errors: InvalidArgument (names the text
/// and the byte).
Result<void> check_text(const api::Submit& submit);

/// One ServerMessage. Text that is not UTF-8 is made so, byte for byte. Empty when it would be
/// larger than protobuf's 2 GiB.
std::string encode(const std::vector<api::ServerEvent>& events);
/// Events of kinds that this version does not know are left out. Errors: Protocol.
Result<std::vector<api::ServerEvent>> decode_server_message(std::string_view bytes);

}  // namespace tailor::comm
