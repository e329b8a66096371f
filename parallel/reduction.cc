#include "parallel/reduction.h"

#include <algorithm>

#include "base/check.h"

namespace tailor::parallel {
namespace {

void collect(Range node, Range owned, std::vector<Range>& out) {
  if (node.end <= owned.begin || owned.end <= node.begin) return;
  if (owned.begin <= node.begin && node.end <= owned.end) {
    out.push_back(node);
    return;
  }
  const int64_t middle = tree_split(node);
  collect({node.begin, middle}, owned, out);
  collect({middle, node.end}, owned, out);
}

/// Returns the slot that holds the sum of `node`.
int32_t combine(Range node, std::span<const Range> pieces, std::vector<AddStep>& steps) {
  const auto found = std::find(pieces.begin(), pieces.end(), node);
  if (found != pieces.end()) return static_cast<int32_t>(found - pieces.begin());
  TAILOR_CHECK(node.size() > 1, "the pieces of a reduction do not tile its tree");
  const int64_t middle = tree_split(node);
  const int32_t left = combine({node.begin, middle}, pieces, steps);
  const int32_t right = combine({middle, node.end}, pieces, steps);
  steps.push_back({left, right});
  return left;
}

}  // namespace

std::vector<Range> complete_subtrees(int64_t num_units, Range owned) {
  std::vector<Range> out;
  collect({0, num_units}, owned, out);
  return out;
}

std::vector<AddStep> combine_steps(int64_t num_units, Range node, std::span<const Range> pieces) {
  TAILOR_CHECK(0 <= node.begin && node.end <= num_units, "a node outside its tree");
  std::vector<AddStep> steps;
  combine(node, pieces, steps);
  return steps;
}

ReductionPlan make_reduction_plan(std::span<const Range> owned, int rank) {
  const int64_t num_units = owned.back().end;
  ReductionPlan plan;
  std::vector<Range> pieces;
  std::vector<std::vector<Range>> by_rank;
  for (Range run : owned) {
    by_rank.push_back(complete_subtrees(num_units, run));
    plan.pieces_max = std::max(plan.pieces_max, static_cast<int32_t>(by_rank.back().size()));
  }
  for (size_t r = 0; r < by_rank.size(); ++r) {
    for (size_t i = 0; i < by_rank[r].size(); ++i) {
      pieces.push_back(by_rank[r][i]);
      plan.gathered_slots.push_back(static_cast<int32_t>(r) * plan.pieces_max +
                                    static_cast<int32_t>(i));
    }
  }
  plan.combine = combine_steps(num_units, {0, num_units}, pieces);

  const Range run = owned[static_cast<size_t>(rank)];
  for (Range node : by_rank[static_cast<size_t>(rank)]) {
    std::vector<Range> units;
    for (int64_t u = node.begin; u < node.end; ++u) units.push_back({u, u + 1});
    const auto base = static_cast<int32_t>(node.begin - run.begin);
    ReductionPlan::Subtree subtree{combine_steps(num_units, node, units), base};
    for (AddStep& step : subtree.steps) step = {step.into + base, step.from + base};
    plan.mine.push_back(std::move(subtree));
  }
  return plan;
}

}  // namespace tailor::parallel
