// Pieces of the wire that both the public API and the control link carry. Private to comm's codec
// sources.
#pragma once

#include <string>

#include "base/api.h"
#include "base/messages.h"
#include "base/result.h"

namespace tailor::v1 {
class Error;
class LogprobEntry;
class ReplicaInfo;
class SamplingParams;
}  // namespace tailor::v1

namespace tailor::comm {

void to_wire(const api::Sampling& in, v1::SamplingParams* out);
/// A field that is absent stays absent, or keeps the default of base/request.h. Nothing is judged
/// here: validate() does.
api::Sampling from_wire(const v1::SamplingParams& in);

void to_wire(const ReplicaInfo& in, v1::ReplicaInfo* out);
ReplicaInfo from_wire(v1::ReplicaInfo* in);

void to_wire(const LogprobEntry& in, v1::LogprobEntry* out);
LogprobEntry from_wire(const v1::LogprobEntry& in);

void to_wire(const Error& in, v1::Error* out);
/// A code this version does not know becomes Internal.
Error from_wire(v1::Error* in);

/// Reasons this version does not know become kFailed.
FinishReason finish_reason_from_wire(int value);

/// `text` with every byte that is not part of valid UTF-8 replaced by '?': same length, so that
/// offsets stay true. A protobuf string must be valid UTF-8, or its reader refuses the whole
/// message.
std::string to_utf8(std::string text);

/// Runs protobuf's own log through ours at debug level (bad input of a client must not fill
/// stderr). Once per process.
void quiet_protobuf_log();

}  // namespace tailor::comm
