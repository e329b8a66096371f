// Ranking: which waiting request runs first. A policy is one row of one table: its name, what it
// does in words, what it needs to know, and a function that makes one number of what is known of a
// request; the smaller number runs first, equal ones go by arrival, then by id. The command line,
// the status, the simulator and the benchmarks read these rows, and a policy's name stands nowhere
// else. To add one: a row at the end of the table in ranking.cc, and a test
// (tests/coordinator/ranking_test.cc adds "shortest prompt first").
//
// Keys are time-invariant: they change when a request's own law or the level of beta changes, never
// because time passes, so a queue is never rebuilt for waiting.
//
// Plain structs and functions: nothing allocates per key, nothing is virtual. Pure. A row is known
// by its place in the table, which event logs keep: new rows go to the end.
// Source: docs/decisions/012.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/length_law.h"
#include "base/request.h"
#include "base/result.h"
#include "base/time.h"
#include "tie/law.h"
#include "tie/rank_table.h"
#include "tie/score.h"

namespace tailor::coordinator {

/// The numbers a policy can be turned by; a row reads those that it knows. They are in the event
/// log.
struct PolicyParameters {
  /// after a wait of tau a score counts `gamma` of itself
  double tau_seconds = tie::kTieTauSeconds;
  double gamma = tie::kDecayPerTau;
};

/// What is known of one request that waits.
struct WorkView {
  // When the row needs a law.
  tie::Moments moments;                ///< of the work left, in tokens, at most up to max_tokens
  const LengthLaw* law = nullptr;      ///< whose moments these are: one sample's length ...
  uint32_t law_from = 0;               ///< ... behind so many of its tokens
  const tie::LawMath* math = nullptr;  ///< what else to ask of it
  double beta = 0;                     ///< the level now

  uint32_t prompt_tokens = 0;
  uint32_t max_tokens = 0;
  uint32_t samples = 1;
  uint32_t generated = 0;  ///< by its longest sample, in earlier attempts
  Time arrival;            ///< on any one clock
  PriorityClass priority = PriorityClass::kStandard;
  // Tokens; 0 = nobody says.
  uint32_t hint = 0;   ///< what its client expects
  uint32_t truth = 0;  ///< how long it will be: known where a trace is simulated
};

struct PolicyRow {
  struct Needs {
    bool law = false;   ///< a predictor and a population's law; without them `moments` are 0
    bool beta = false;  ///< all keys are made anew when its level moves
    bool hint = false;
    bool truth = false;  ///< an oracle: for simulations only
  };
  std::string_view name;
  std::string_view help;  ///< goes on from "NAME: "
  Needs needs;
  /// Smaller runs first; never NaN.
  double (*waiting_key)(const WorkView&, const PolicyParameters&) = nullptr;
  /// How its rank goes on with its age while it runs, for policies that may preempt; null = none.
  tie::RankTable (*ranks)(const WorkView&, const PolicyParameters&) = nullptr;
};

/// The policy of a core: a row of a table, by its place, and its parameters.
struct Policy {
  uint8_t row = 0;
  PolicyParameters parameters;
};

/// A table of policies. Tests bring their own; everybody else means `policies()`.
using PolicyTable = std::span<const PolicyRow>;
PolicyTable policies();

/// Aborts when the table has no such row: a log's is checked where it is read.
const PolicyRow& row_of(const Policy& policy, PolicyTable table = policies());
/// Errors: InvalidArgument (names what is known).
Result<Policy> policy_named(std::string_view name, PolicyTable table = policies());
/// "tie (tau 30 s, gamma 0.9)"
std::string describe(const Policy& policy, PolicyTable table = policies());

/// What a cluster can serve with, in the table's order: oracles cannot.
std::vector<std::string> served_policies(PolicyTable table = policies());
/// "fcfs: by arrival; sept: ...": served_policies() with their help, for a command line.
std::string policies_help(PolicyTable table = policies());

// The rows that are chosen by what they mean.
Policy policy_without_laws();  ///< where nobody predicts
Policy policy_with_laws();     ///< where somebody does
/// By the expected work alone: told true lengths as laws, the oracle of replayed bursts.
Policy policy_by_expected_work();

}  // namespace tailor::coordinator
