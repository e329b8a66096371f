// What SchedulerCore is told and what it says. Most of it are the very messages of base/messages.h:
// a replica's reports and the commands to it in their envelopes, the predictor's words. Here is the
// short list of what has no other end. Nothing here holds text or prompts: the core decides by
// numbers.
#pragma once

#include <cstdint>
#include <string>
#include <variant>

#include "base/fields.h"
#include "base/messages.h"

namespace tailor::coordinator {

// ---- events ----

/// A request that passed every check and wants in. Ids grow from event to event.
struct Arrived {
  RequestId id;
  PriorityClass priority = PriorityClass::kStandard;
  uint32_t samples = 1;  ///< n: so many slots of one replica
  uint32_t prompt_tokens = 0;
  uint32_t max_tokens = 0;
  Time arrival;
  Duration deadline = Duration::max();  ///< after arrival; max = none
  // For policies that ask for it (ranking.h). Tokens of the answer; 0 = nobody says.
  uint32_t hint = 0;   ///< what the client expects
  uint32_t truth = 0;  ///< how long it will be: known where a trace is simulated
};

/// Ends a live request from outside: its client asked, its client is gone, or the driver found it
/// broken.
struct Abandoned {
  RequestId id;
  FinishReason reason = FinishReason::kCancelled;
  ErrorCode code = ErrorCode::kCancelled;
};

/// Not heard of for too long, or its link broke.
struct ReplicaLost {
  ReplicaId replica;
  Epoch epoch;
};

/// From now on nothing new goes there: it finishes what runs and leaves for good (an operator
/// asked). Once every replica does so, nobody will come for what waits: it ends.
struct DrainReplica {
  ReplicaId replica;
  bool spare_last = false;  ///< the last one that serves stays: then nothing happens
};

/// Time has passed: the driver sends one when next_deadline() is reached.
struct Tick {};
/// The coordinator is stopping: everything live fails with Shutdown, nothing new is accepted.
struct Stop {};

/// Of FromReplica: a Hello that fits the cluster (a replica that was joined before is lost by
/// that), StepReport, Drained (of one that was not to drain: it is lost by that); heartbeats are
/// the driver's. Predicted: kind none says nothing; late or for a request that has ended: counted,
/// without effect. PredictorHello: its population law stands in for requests that nobody has
/// predicted (kind none: the default).
using CoreEvent = std::variant<Arrived, Abandoned, FromReplica, ReplicaLost, DrainReplica,
                               PredictorHello, Predicted, Tick, Stop>;

// ---- commands ----
// `slot` is the request's place in the core's books: dense from 0, its own from Accept to Finish,
// then another's. The driver keeps what it knows of the request at the same place.

/// The request is ours now: exactly one Finish will follow.
struct Accept {
  RequestId id;
  uint32_t slot = 0;
};
struct Reject {
  RequestId id;
  Error error;
  Duration retry_after{};  ///< 0 = sending it again cannot help
};
/// Entry `entry` of the report just handled is current: forward it, without its first `skip` tokens
/// (already seen).
struct Emit {
  uint32_t entry = 0;
  uint32_t skip = 0;
  uint32_t slot = 0;
};
/// The request's one end. `reason` is for the samples that have not ended by themselves (kNone when
/// all have).
struct Finish {
  RequestId id;
  uint32_t slot = 0;
  FinishReason reason = FinishReason::kNone;
  Error error{ErrorCode::kOk, {}};
};

/// The driver adds to a Dispatch its payload: the Request and the tokens generated so far.
using CoreCommand = std::variant<Accept, Reject, ToReplica, Emit, Finish>;

/// One line for people, and the form in which replays are compared.
std::string describe(const CoreCommand& command);
std::string describe(const CoreEvent& event);

}  // namespace tailor::coordinator

namespace tailor {

// clang-format off
#define TAILOR_MESSAGE(message, message_number)             \
  using M = coordinator::message;                           \
  static constexpr const char* name = #message;             \
  static constexpr uint32_t number = message_number;
#define F(field_number, member) Field<field_number, &M::member>{#member}

template <> struct Fields<coordinator::Arrived> {
  TAILOR_MESSAGE(Arrived, 100)
  static constexpr auto list = std::tuple{F(1, id), F(2, priority), F(3, samples),
      F(4, prompt_tokens), F(5, max_tokens), F(6, arrival), F(7, deadline),
      F(8, hint), F(9, truth)};
};
template <> struct Fields<coordinator::Abandoned> {
  TAILOR_MESSAGE(Abandoned, 101)
  static constexpr auto list = std::tuple{F(1, id), F(2, reason), F(3, code)};
};
template <> struct Fields<coordinator::ReplicaLost> {
  TAILOR_MESSAGE(ReplicaLost, 102)
  static constexpr auto list = std::tuple{F(1, replica), F(2, epoch)};
};
template <> struct Fields<coordinator::DrainReplica> {
  TAILOR_MESSAGE(DrainReplica, 103)
  static constexpr auto list = std::tuple{F(1, replica), F(2, spare_last)};
};
template <> struct Fields<coordinator::Tick> {
  TAILOR_MESSAGE(Tick, 104)
  static constexpr auto list = std::tuple{};
};
template <> struct Fields<coordinator::Stop> {
  TAILOR_MESSAGE(Stop, 105)
  static constexpr auto list = std::tuple{};
};
template <> struct Fields<coordinator::Accept> {
  TAILOR_MESSAGE(Accept, 0)
  static constexpr auto list = std::tuple{F(1, id), F(2, slot)};
};
template <> struct Fields<coordinator::Reject> {
  TAILOR_MESSAGE(Reject, 0)
  static constexpr auto list = std::tuple{F(1, id), F(2, error), F(3, retry_after)};
};
template <> struct Fields<coordinator::Emit> {
  TAILOR_MESSAGE(Emit, 0)
  static constexpr auto list = std::tuple{F(1, entry), F(2, skip), F(3, slot)};
};
template <> struct Fields<coordinator::Finish> {
  TAILOR_MESSAGE(Finish, 0)
  static constexpr auto list = std::tuple{F(1, id), F(2, slot), F(3, reason), F(4, error)};
};

#undef TAILOR_MESSAGE
#undef F
// clang-format on

}  // namespace tailor
