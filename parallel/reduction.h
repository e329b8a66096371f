// The one order in which a row-parallel product is summed. Its partials (reduction units,
// parallel/sharding.h) are the leaves of one fixed binary tree: a node over [begin, end) splits
// after its first ceil(n / 2) leaves. A rank that owns a run of units adds up the maximal complete
// subtrees inside its run; the ranks gather these sums and finish the tree. So the order of
// additions is the same for every tp size, 1 included. Pure; source: design of
// docs/architecture.md.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace tailor::parallel {

/// Half-open [begin, end).
struct Range {
  int64_t begin = 0, end = 0;
  int64_t size() const { return end - begin; }
  friend bool operator==(const Range&, const Range&) = default;
};

/// slot[into] += slot[from].
struct AddStep {
  int32_t into = 0, from = 0;
  friend bool operator==(const AddStep&, const AddStep&) = default;
};

/// Where a node of two or more leaves splits.
inline int64_t tree_split(Range node) { return node.begin + (node.size() + 1) / 2; }

/// The maximal complete subtrees of the tree over [0, num_units) that lie inside `owned`, left to
/// right.
std::vector<Range> complete_subtrees(int64_t num_units, Range owned);

/// The additions that reduce `node` of the tree over [0, num_units), given the sums of `pieces`:
/// complete subtrees that tile `node`, left to right. Slot i starts as the sum of pieces[i]; slot 0
/// ends as the node's sum.
std::vector<AddStep> combine_steps(int64_t num_units, Range node, std::span<const Range> pieces);

/// Everything one rank needs to reduce one row-parallel product.
struct ReductionPlan {
  struct Subtree {
    std::vector<AddStep> steps;  ///< over the rank's own units, slot = unit - owned.begin
    int32_t slot = 0;            ///< that ends with the subtree's sum
  };
  std::vector<Subtree> mine;  ///< what this rank adds and sends, left to right
  int32_t pieces_max = 0;     ///< most pieces any rank sends: what every rank pads to
  /// [all pieces] place in the gathered [size, pieces_max] array
  std::vector<int32_t> gathered_slots;
  std::vector<AddStep> combine;  ///< over gathered pieces: slots are indices into gathered_slots
};

/// `owned[r]` is rank r's run of units; the runs tile [0, num_units).
ReductionPlan make_reduction_plan(std::span<const Range> owned, int rank);

}  // namespace tailor::parallel
