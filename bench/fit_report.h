// What the answer lengths of a file look like: fits of seven families per prompt, how well they
// pass a Kolmogorov-Smirnov test, predict a length they did not see, and place their quantiles; the
// weight of the tail. `tailor fit-report` prints and draws it; docs/length-laws.md explains it.
//
// Conventions. Uncensored lengths are jittered by U(-0.5, 0.5) with a fixed seed, so ties of
// integers decide nothing. A prompt counts when it has at least three uncensored answers. `held
// out` leaves each answer out once and predicts it by the fit of the others. Every share is over
// prompts, every likelihood in nats per answer. The result does not depend on the number of
// threads.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "predict/length_file.h"
#include "tie/fit.h"

namespace tailor::bench {

inline constexpr std::array kReportQuantiles = {0.5, 0.9, 0.95, 0.99, 0.999};

struct FitReportOptions {
  double nu = 3.5;  ///< of the log-t with nu fixed
  /// simulated samples behind a critical value; a fiftieth for a censored prompt
  int bootstrap = 10'000;
  int threads = 2;
  uint64_t seed = 1;
  /// Called now and then with the share done, in [0, 1].
  std::function<void(double)> progress;
};

struct FamilyScore {
  tie::Family family = tie::Family::kLogT;
  double ks_naive = 0;  ///< share that passes at the 5 % value of a law known beforehand
  /// the same with the value for fitted parameters: the truth passes 95 %
  double ks_corrected = 0;
  double ks_corrected_spread = 0;  ///< of the prompts with many distinct lengths
  double log_likelihood = 0;       ///< of the fitted samples, mean
  /// share of prompts with this family's AIC the least; Pareto does not compete
  double best_aic = 0;
  double held_out_mean = 0;  ///< -infinity where a density was 0
  double held_out_median = 0;
  /// Share of left-out answers above the predicted quantile (nominal: 1 - p). Of an answer cut
  /// below the quantile nobody knows; it enters with the predicted law's own P(X > q | X > limit).
  std::array<double, kReportQuantiles.size()> above{};
  std::array<uint64_t, kReportQuantiles.size()> unknown{};  ///< answers cut below their quantile
};

/// Hill's estimate over the `k` largest of X / (median of the prompt's other answers). Cut answers
/// count as exceedances of unknown size: index = uncensored among the k / sum of ln(r / threshold).
struct TailIndex {
  double index = 0, error = 0, threshold = 0;
  uint64_t k = 0;
};

/// One curve of a plot: the data, or the same procedure on data simulated from the fits of a
/// family.
struct Curve {
  std::string name;
  std::string key;  ///< "observed" or a family's key
  std::vector<double> x, y;
};

struct ExamplePrompt {
  std::string id;
  std::vector<tie::LengthSample> samples;
  std::vector<tie::FittedLaw> laws;  ///< log-t, log-normal, gamma, Weibull
};

struct PromptFits {
  std::string id;
  uint32_t samples = 0, censored = 0, distinct = 0;
  double mean = 0;  ///< censored answers at their limit
  std::array<tie::Fit, tie::kFamilyCount> fits;
  std::array<double, tie::kFamilyCount> distance{};  ///< Kolmogorov-Smirnov
  std::array<bool, tie::kFamilyCount> naive{}, corrected{};
};

struct FileReport {
  std::string file, model;
  uint64_t prompts = 0;                ///< in the file
  uint64_t used = 0;                   ///< with at least three uncensored answers
  uint64_t samples = 0, censored = 0;  ///< answers of the used prompts
  uint32_t n_least = 0, n_most = 0;    ///< answers per used prompt
  uint32_t limit = 0;                  ///< tokens; 0 = not known
  /// share of prompts with fewer distinct lengths than half their answers
  double few_distinct = 0;
  double mean_tokens = 0, median_tokens = 0, within_cv = 0;  ///< CV: median over prompts
  double mu_mean = 0, sigma_median = 0;                      ///< of log-t, nu fixed
  std::vector<FamilyScore> families;
  Curve nu_profile;                     ///< mean log-likelihood minus the log-normal's, over nu
  std::vector<Curve> nu_profiles_true;  ///< the same where the truth is log-t of a known nu
  /// the true nu whose profile at `nu` equals the observed one; 0: none, or too few answers
  double nu_matched = 0;
  std::vector<TailIndex> tail;   ///< parallel to `survival`
  std::vector<Curve> survival;   ///< P(r > x), r = X / median of the others
  std::vector<Curve> residuals;  ///< density of (ln x - mu) / sigma of log-t
  ExamplePrompt example;
  std::vector<PromptFits> per_prompt;
};

/// Errors: InvalidArgument when no prompt has three uncensored answers.
Result<FileReport> make_fit_report(const predict::LengthFile& lengths, const std::string& file,
                                   const FitReportOptions& options);

}  // namespace tailor::bench
