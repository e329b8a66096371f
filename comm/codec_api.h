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

/// Why a client's message was not taken, and what can be said back.
struct BadClientMessage {
  bool answerable = false;  ///< false: no request id could be read; drop and count
  std::string request_id;   ///< valid UTF-8, at most 128 bytes
  Error error;
};

/// Errors: Protocol (not a message of this version), LimitExceeded (prompt larger than
/// `max_prompt_bytes`, names both numbers; token ids count 4 bytes each), InvalidArgument (request
/// id, enum out of range, negative deadline). Sampling numbers pass as they are, NaN included:
/// base/request.h, validate() judges them.
tl::expected<api::ClientMessage, BadClientMessage> decode_client_message(std::string_view bytes,
                                                                         size_t max_prompt_bytes);
std::string encode(const api::ClientMessage& message);

/// Every text of `submit` is UTF-8. A client asks before it encodes: on the wire what is not UTF-8
/// would be changed or make the whole message unreadable. Errors: InvalidArgument (names the text
/// and the byte).
Result<void> check_text(const api::Submit& submit);

/// One ServerMessage. Text that is not UTF-8 is made so, byte for byte.
std::string encode(const std::vector<api::ServerEvent>& events);
/// Events of kinds that this version does not know are left out. Errors: Protocol.
Result<std::vector<api::ServerEvent>> decode_server_message(std::string_view bytes);

}  // namespace tailor::comm
