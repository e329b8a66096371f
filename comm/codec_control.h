// The control link and the doorbell between plain values (base/messages.h) and bytes
// (proto/control.proto), by the field lists of base/fields.h. Pure; any thread.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <variant>

#include "base/messages.h"
#include "base/result.h"

namespace tailor::comm {

/// A command as it travels: with its payload, when it is a Dispatch.
struct CommandFrame {
  ToReplica to;
  DispatchPayload payload;
};
/// A report as it travels: with its payload, when it is a StepReport.
struct ReportFrame {
  FromReplica from;
  StepPayload payload;
};

std::string encode(const CommandFrame& frame);
/// What comes back is whole: a Dispatch has its request, of as many tokens and samples as it says.
/// Errors: Protocol (damaged, another protocol version, a command this version does not know).
Result<CommandFrame> decode_command(std::string_view bytes);

std::string encode(const ReportFrame& frame);
std::string encode(const PredictorReport& report);
std::string encode(const Predict& question);
/// Errors: Protocol (another command too: a predictor is asked nothing else).
Result<Predict> decode_predict(std::string_view bytes);

/// What arrives at the coordinator's control socket.
using ControlReport = std::variant<ReportFrame, PredictorReport>;
/// What comes back is whole: the parts of a StepReport's payload add up to what its entries say.
/// A probed law that can be none (well_formed()) is left out. Errors: Protocol; a predicted law
/// that can be none too.
Result<ControlReport> decode_control(std::string_view bytes);
/// Of a worker. Errors: Protocol.
Result<ReportFrame> decode_report(std::string_view bytes);

/// Follower: its rank and how often it heard the bell. Leader: how often it has rung.
struct DoorbellWord {
  uint32_t rank = 0;
  uint64_t rings = 0;
};
std::string encode(const DoorbellWord& word);
/// Errors: Protocol.
Result<DoorbellWord> decode_doorbell(std::string_view bytes);

}  // namespace tailor::comm
