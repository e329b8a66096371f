// What a predictor is worth to the queue: judged prompts replayed through the simulated cluster
// (sim/), in a burst of arrivals far above capacity, ordered by the laws that were predicted for
// them.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "predict/evaluation.h"

namespace tailor::bench {

struct ReplayOptions {
  double load = 3.7;  ///< arrivals over capacity
  int slots = 32;
  int requests = 2000;
  int seeds = 5;
  uint32_t prompt_tokens = 45;
};

/// Mean per-token latency ((completion - arrival) / output tokens, seconds), one figure for each
/// seed. The same seed draws the same prompts, answers and arrivals whatever the laws are: compare
/// pairwise.
struct ReplayFigures {
  struct Run {
    std::string policy;
    std::vector<double> seconds;
  };
  /// Every policy that can serve (coordinator/ranking.h): first the one without laws, which the
  /// others are compared with, then the one that serves where laws are predicted.
  std::vector<Run> runs;
  std::vector<double> oracle;  ///< the true lengths, without preemption
  bool empty() const { return runs.empty(); }
};
/// Errors: those of the simulation.
Result<ReplayFigures> replay(std::span<const predict::JudgedPrompt> prompts,
                             const ReplayOptions& options = {});

/// Mean of a[i] / b[i] and its standard error.
struct Ratio {
  double value = 0, error = 0;
};
Ratio mean_ratio(std::span<const double> a, std::span<const double> b);

}  // namespace tailor::bench
