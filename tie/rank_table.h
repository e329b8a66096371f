// Rank indices of a request over its age (tokens generated), for policies that may preempt: the
// smallest rank runs. One LawGrid per request holds the law on a geometric grid; a RankTable holds
// one index at the grid's ages and interpolates between them.
//
// With A_k the area under the survival function from x_k to the limit, S_k the survival, W_k the
// expected 1/length of answers that end beyond x_k (an answer that reaches the limit ends there):
//
//   gittins          rank_kappa(x_j) = min over k > j of
//                                      (A_j - A_k) / ((S_j - S_k) + kappa (W_j - W_k))
//   h                the same with k = K alone: E / (1 + kappa E[1/X]), given the age
//   conditional tie  E + beta CVaR of what remains, given the age
//   mlfq             the quantum of the queue that this age has sunk to (skip-join: from a given
//                    queue on); no law needed
//
// kappa 0 is Gittins' index for the mean latency, a large kappa that for the mean latency per
// token. A stopping candidate lies at least `stop_ahead` tokens ahead (or is the limit): a law that
// leaks mass to very short lengths would else start everything to try it.
//
// Pure plain values of fixed size: nothing allocates. Cost: grid 4 to 10 us, gittins 2 us,
// conditional tie 8 to 12 us, h 0.2 us. Source: Gittins index for M/G/1 (Scully, Harchol-Balter);
// FastServe, arXiv 2305.05920 (MLFQ).
#pragma once

#include <array>
#include <cstdint>

#include "tie/law.h"

namespace tailor::tie {

/// A law on the grid x_0 = 0 < x_1 = 0.5 < ... < x_K = the limit.
struct LawGrid {
  static constexpr int kSteps = 64;  ///< K
  using Values = std::array<double, kSteps + 1>;

  Values age{};       ///< x_k, tokens
  Values survival{};  ///< S_k, but 0 at the limit: whoever is left ends there
  Values area{};      ///< A_k
  Values inverse{};   ///< W_k

  LawGrid() = default;
  LawGrid(const LawMath& math, const LengthLaw& law, double xmax);
  double xmax() const { return age[kSteps]; }
  /// Fills `inverse` from the other values.
  void sum_inverse(double survival_at_limit);
};

struct RankOptions {
  enum class Kind : uint8_t { kGittins, kH, kConditionalTie, kMlfq };
  Kind kind = Kind::kGittins;
  double kappa = 20;       ///< tokens; of gittins and h
  double stop_ahead = 16;  ///< tokens; of gittins
  double beta = 0.1;       ///< of conditional tie
  double quantum = 16;     ///< tokens of the first queue; of mlfq: the next has twice as many
  int first_queue = 0;     ///< of mlfq: where the request joins
};

class RankTable {
 public:
  RankTable() = default;
  /// `law` is the one that `grid` was made of; conditional tie asks it for its quantiles.
  RankTable(const LawMath& math, const LengthLaw& law, const LawGrid& grid,
            const RankOptions& options);
  /// From the grid alone: gittins, h and mlfq.
  RankTable(const LawGrid& grid, const RankOptions& options);

  /// Tokens (mlfq: tokens of quantum), at least kLeast. At the limit and beyond: kLeast, the
  /// request is as good as done. Cost: a binary search.
  double rank(double generated) const;
  static constexpr double kLeast = 1e-2;

 private:
  std::array<float, LawGrid::kSteps + 1> age_{}, rank_{};
  RankOptions mlfq_;
};

/// The quantum of the queue that a request of this age is in: first_queue at first, one queue down
/// after each used quantum.
double mlfq_rank(double generated, double quantum, int first_queue);
/// The first queue whose quantum covers `prefill_tokens` of work (skip-join).
int mlfq_first_queue(double prefill_tokens, double quantum);

}  // namespace tailor::tie
