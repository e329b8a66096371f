// How good predicted length laws are, judged by answers that the predictor never saw. Pure.
//
// Everything is about min(X, limit): an answer cut at the limit is at least that long. A length is
// a whole number: under a law its place is spread evenly between F(L - 1/2) and F(L + 1/2), and
// that of a cut answer between F(limit) and 1, so that coverage and PIT are exact expectations
// instead of draws.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/length_law.h"
#include "predict/rank_statistics.h"
#include "tie/law.h"

namespace tailor::predict {

/// A prompt, what was predicted, and what the model answered.
struct JudgedPrompt {
  LengthLaw law;
  double limit = 0;  ///< tokens at which answers are cut
  std::vector<uint32_t> lengths;
  std::vector<bool> censored;
};

/// Where an answer stands in its law: P(X < length - 1/2) to P(X < length + 1/2), to 1 if it was
/// cut.
struct AnswerPlace {
  double low = 0, high = 0;
  double share_below(double p) const {  ///< of it, at or below p
    return p >= high ? 1 : p <= low ? 0 : (p - low) / (high - low);
  }
};
AnswerPlace place_of(const tie::LawMath& math, const LengthLaw& law, double length, bool cut);

/// ln f(length), or ln P(X > length) of a cut answer; at least ln 1e-12.
double log_likelihood_of(const tie::LawMath& math, const LengthLaw& law, double length, bool cut);

/// Mean over prompts of ((integral of (F(x) - 1{x >= L})^2 dx up to the limit), per answer.
double crps(const tie::LawMath& math, const LengthLaw& law, double length, double limit);
/// E ln min(X, limit), from the law's quantiles.
double expected_log(const tie::LawMath& math, const LengthLaw& law, double limit);

constexpr int kPitBins = 20;
constexpr std::array<double, 3> kCoverageLevels = {0.5, 0.9, 0.99};

struct Evaluation {
  size_t prompts = 0, answers = 0, cut = 0;
  /// Of the mean of ln L over a prompt's answers, against E ln min(X, limit).
  Bootstrap r2_mean_log;
  /// Of each prompt's own fitted mu and sigma (log-t, prompts with 4 uncut answers and more). A
  /// sigma that contains the model's own error is larger than the prompts' own: its R2 is low or
  /// negative by design, `corr_sigma` (correlation of the logarithms) says whether it orders well.
  Bootstrap r2_mu, r2_sigma, corr_sigma;
  Bootstrap tau;  ///< of E min(X, limit) against single answers: mean of tau-b over the samples
  std::array<Bootstrap, 3> coverage;   ///< share of answers at or below the 50, 90, 99 % quantile
  Bootstrap crps;                      ///< tokens, mean over answers
  Bootstrap log_likelihood;            ///< mean ln f(L), or ln P(X > limit) of a cut answer
  Bootstrap spread_slope;              ///< of |ln L - mu| on what the law says of it: 1 if honest
  Bootstrap inverse_ratio;             ///< predicted over observed mean of 1 / length
  std::array<double, kPitBins> pit{};  ///< shares; flat if honest
};

struct EvaluationOptions {
  size_t resamples = 1000;
  uint64_t seed = 1;
  /// What is drawn together, from 0, one number for each of `prompts`; empty: each by itself. For
  /// several entries of one prompt, whose answers are no independent news.
  std::vector<uint32_t> groups;
};
/// `scores` orders the prompts instead of E min(X, limit) where it is not empty.
Evaluation evaluate(std::span<const JudgedPrompt> prompts, const tie::LawMath& math,
                    const EvaluationOptions& options = {}, std::span<const double> scores = {});

}  // namespace tailor::predict
