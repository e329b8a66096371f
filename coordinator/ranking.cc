#include "coordinator/ranking.h"

#include <cstdio>

#include "base/check.h"

namespace tailor::coordinator {
namespace {

double by_arrival(const WorkView&, const PolicyParameters&) { return 0.0; }

double decayed(double score, const WorkView& work, const PolicyParameters& p) {
  return tie::time_invariant_key(score, work.arrival.time_since_epoch(), p.tau_seconds, p.gamma);
}
double by_expected_work(const WorkView& work, const PolicyParameters& p) {
  return decayed(tie::score(work.moments, 0.0), work, p);
}
double by_tie_score(const WorkView& work, const PolicyParameters& p) {
  return decayed(tie::score(work.moments, work.beta), work, p);
}

// Source of the scores and of the waiting decay: arXiv 2604.00499.
constexpr PolicyRow kPolicies[] = {
    {.name = "fcfs", .help = "by arrival", .needs = {}, .waiting_key = by_arrival},
    {.name = "sept",
     .help = "the least expected work E first, waiting counted",
     .needs = {.law = true},
     .waiting_key = by_expected_work},
    {.name = "tie",
     .help = "the least E + beta CVaR_0.9 first, waiting counted; beta grows with the queue",
     .needs = {.law = true, .beta = true},
     .waiting_key = by_tie_score},
};
constexpr uint8_t kFcfs = 0, kSept = 1, kTie = 2;

bool can_serve(const PolicyRow& row) { return !row.needs.truth; }

}  // namespace

PolicyTable policies() { return kPolicies; }

Policy policy_without_laws() { return {kFcfs, {}}; }
Policy policy_with_laws() { return {kTie, {}}; }
Policy policy_by_expected_work() { return {kSept, {}}; }

const PolicyRow& row_of(const Policy& policy, PolicyTable table) {
  TAILOR_CHECK(policy.row < table.size(), "a policy is a row of its table");
  return table[policy.row];
}

Result<Policy> policy_named(std::string_view name, PolicyTable table) {
  std::string known;
  for (uint8_t row = 0; row < table.size(); ++row) {
    if (table[row].name == name) return Policy{row, {}};
    known += (row > 0 ? ", " : "") + std::string(table[row].name);
  }
  return fail(ErrorCode::kInvalidArgument,
              "unknown policy '" + std::string(name) + "'; known: " + known);
}

std::string describe(const Policy& policy, PolicyTable table) {
  char parameters[64];
  std::snprintf(parameters, sizeof parameters, " (tau %g s, gamma %g)",
                policy.parameters.tau_seconds, policy.parameters.gamma);
  return std::string(row_of(policy, table).name) + parameters;
}

std::vector<std::string> served_policies(PolicyTable table) {
  std::vector<std::string> names;
  for (const PolicyRow& row : table)
    if (can_serve(row)) names.emplace_back(row.name);
  return names;
}

std::string policies_help(PolicyTable table) {
  std::string help;
  for (const PolicyRow& row : table)
    if (can_serve(row))
      help += (help.empty() ? "" : "; ") + std::string(row.name) + ": " + std::string(row.help);
  return help;
}

}  // namespace tailor::coordinator
