// What SchedulerCore is told and what it says: plain values. The live loop and the simulator
// translate between these and the world; the event log stores the events. Nothing here holds text
// or prompts: the core decides by numbers.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <variant>

#include "base/ids.h"
#include "base/length_law.h"
#include "base/request.h"
#include "base/result.h"
#include "base/time.h"

namespace tailor::coordinator {

// -----------------------------------------------------------------------------------------
// Events.

/// A request that passed every check and wants in. Ids grow from event to event.
struct Arrived {
  RequestId id;
  PriorityClass priority = PriorityClass::kStandard;
  uint32_t samples = 1;  ///< n: so many slots of one replica
  uint32_t prompt_tokens = 0;
  uint32_t max_tokens = 0;
  Time arrival;
  Duration deadline = Duration::max();  ///< after arrival; max = none
};

/// Ends a live request from outside: its client asked, its client is gone, or the driver found it
/// broken.
struct Abandoned {
  RequestId id;
  FinishReason reason = FinishReason::kCancelled;
  ErrorCode code = ErrorCode::kCancelled;
};

/// A leader said Hello and fits the cluster. A replica that was joined before is lost by that.
struct ReplicaJoined {
  ReplicaId replica;
  uint32_t slots = 0;
  uint32_t num_blocks = 0;
};

/// Not heard of for too long, or its link broke.
struct ReplicaLost {
  ReplicaId replica;
  Epoch epoch;
};

/// From now on nothing new goes there (an operator asked, or its leader is leaving).
struct DrainReplica {
  ReplicaId replica;
};
/// The drained replica has finished what it ran and leaves.
struct ReplicaDrained {
  ReplicaId replica;
  Epoch epoch;
};

/// One SequenceProgress, without what it carries.
struct ProgressEntry {
  SequenceId sequence;
  Attempt attempt;
  uint32_t first_index = 0;
  uint32_t num_tokens = 0;
  FinishReason finish = FinishReason::kNone;
};
/// A StepReport. `progress` points into the driver's memory and is read during handle() only.
struct Reported {
  ReplicaId replica;
  Epoch epoch;
  uint32_t running_sequences = 0;
  uint32_t free_blocks = 0;
  std::span<const ProgressEntry> progress;
};

/// The predictor's word on a live request; kind none says nothing. Late or for a request that has
/// ended: counted, without effect.
struct PredictedLaw {
  RequestId id;
  LengthLaw law;
};
/// The word of the probe on the served model (LawProbed): takes the predictor's place.
struct ProbedLaw {
  ReplicaId replica;
  Epoch epoch;
  RequestId id;
  Attempt attempt;
  uint32_t sample = 0;
  uint32_t generated = 0;  ///< above 0: `law` is of the tokens that remain behind so many
  LengthLaw law;
};
/// From now on this law stands in for requests that nobody has predicted; kind none: the default.
struct PopulationLaw {
  LengthLaw law;
};

/// Time has passed: the driver sends one when next_deadline() is reached.
struct Tick {};
/// The coordinator is stopping: everything live fails with Shutdown, nothing new is accepted.
struct Stop {};

using CoreEvent =
    std::variant<Arrived, Abandoned, ReplicaJoined, ReplicaLost, DrainReplica, ReplicaDrained,
                 Reported, PredictedLaw, ProbedLaw, PopulationLaw, Tick, Stop>;

// -----------------------------------------------------------------------------------------
// Commands.

/// The request is ours now: exactly one FinishCommand will follow.
struct AcceptCommand {
  RequestId id;
};
struct RejectCommand {
  RequestId id;
  Error error;
  Duration retry_after{};  ///< 0 = sending it again cannot help
};
/// Answers ReplicaJoined.
struct WelcomeCommand {
  ReplicaId replica;
  Epoch epoch;
};
/// The driver adds the Request and the tokens generated so far.
struct DispatchCommand {
  ReplicaId replica;
  Epoch epoch;
  Attempt attempt;
  RequestId id;
};
struct CancelCommand {
  ReplicaId replica;
  Epoch epoch;
  Attempt attempt;
  RequestId id;
};
struct DrainCommand {
  ReplicaId replica;
  Epoch epoch;
};
struct ShutdownCommand {
  ReplicaId replica;
  Epoch epoch;
};
/// Entry `index` of the report just handled is current: forward it, without its first `skip` tokens
/// (already seen).
struct EmitCommand {
  uint32_t index = 0;
  uint32_t skip = 0;
};
/// The request's one end. `reason` is for the samples that have not ended by themselves (kNone when
/// all have).
struct FinishCommand {
  RequestId id;
  FinishReason reason = FinishReason::kNone;
  Error error{ErrorCode::kOk, {}};
};

using CoreCommand =
    std::variant<AcceptCommand, RejectCommand, WelcomeCommand, DispatchCommand, CancelCommand,
                 DrainCommand, ShutdownCommand, EmitCommand, FinishCommand>;

/// One line for people, and the form in which replays are compared: equal commands give equal
/// lines.
std::string describe(const CoreCommand& command);
std::string describe(const CoreEvent& event);
/// "log-t mu 5.02 sigma 0.61", "histogram 1..2048", "none"
std::string describe(const LengthLaw& law);

}  // namespace tailor::coordinator
