// The control link and the doorbell between plain values (base/messages.h) and bytes
// (proto/control.proto). Pure; any thread.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <variant>

#include "base/messages.h"
#include "base/result.h"

namespace tailor::comm {

/// A command as it travels: its number within the replica's epoch, and that epoch.
struct CommandEnvelope {
  uint64_t sequence = 0;
  Epoch epoch;
  WorkerCommand command;
};

std::string encode(const CommandEnvelope& envelope);
/// Errors: Protocol (damaged, another protocol version, or a command this version does not know).
Result<CommandEnvelope> decode_command(std::string_view bytes);

std::string encode(const WorkerReport& report);
/// Errors: Protocol.
Result<WorkerReport> decode_report(std::string_view bytes);

std::string encode(const PredictorReport& report);
std::string encode(const Predict& question);
/// Errors: Protocol (another command too: a predictor is asked nothing else).
Result<Predict> decode_predict(std::string_view bytes);

/// What arrives at the coordinator's control socket.
using ControlReport = std::variant<WorkerReport, PredictorReport>;
/// Errors: Protocol; a predicted law that can be none (well_formed()) too.
Result<ControlReport> decode_control(std::string_view bytes);

/// Follower: its rank and how often it heard the bell. Leader: how often it has rung.
struct DoorbellWord {
  uint32_t rank = 0;
  uint64_t rings = 0;
};
std::string encode(const DoorbellWord& word);
/// Errors: Protocol.
Result<DoorbellWord> decode_doorbell(std::string_view bytes);

}  // namespace tailor::comm
