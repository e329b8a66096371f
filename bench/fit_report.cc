#include "bench/fit_report.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <span>

#include "bench/fit_report_shapes.h"
#include "bench/null_distances.h"
#include "bench/parallel_for.h"
#include "tie/kolmogorov.h"

namespace tailor::bench {
namespace {

using tie::Family;
using tie::kFamilyCount;
using tie::LengthSample;

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// What one left-out answer says about one family.
struct HeldOut {
  double log_likelihood = 0;
  std::array<float, kReportQuantiles.size()> above{};  // 0, 1, or a probability
};

struct Judged {
  PromptFits fits;
  std::vector<LengthSample> samples;  // jittered
  std::vector<std::array<HeldOut, kFamilyCount>> held_out;
};

std::vector<LengthSample> samples_of(const predict::PromptLengths& prompt) {
  std::vector<LengthSample> samples;
  for (size_t i = 0; i < prompt.lengths.size(); ++i) {
    samples.push_back({static_cast<double>(prompt.lengths[i]), prompt.censored[i]});
  }
  return samples;
}

bool usable(const predict::PromptLengths& prompt) {
  return std::count(prompt.censored.begin(), prompt.censored.end(), false) >= 3;
}

HeldOut judge_answer(const tie::FittedLaw& law, const LengthSample& out) {
  HeldOut held;
  held.log_likelihood = out.censored ? law.log_survival(out.tokens) : law.log_density(out.tokens);
  const double at = law.cdf(out.tokens);
  for (size_t q = 0; q < kReportQuantiles.size(); ++q) {
    const double p = kReportQuantiles[q];
    const bool above = at > p || (out.censored && at >= p);
    held.above[q] = above ? 1 : out.censored ? static_cast<float>((1 - p) / (1 - at)) : 0;
  }
  return held;
}

void leave_one_out(Judged& judged, double nu) {
  std::vector<LengthSample> others;
  for (size_t i = 0; i < judged.samples.size(); ++i) {
    others = judged.samples;
    others.erase(others.begin() + static_cast<ptrdiff_t>(i));
    if (std::all_of(others.begin(), others.end(), [](const auto& s) { return s.censored; }))
      continue;
    auto& row = judged.held_out.emplace_back();
    for (int f = 0; f < kFamilyCount; ++f) {
      const auto fitted = tie::fit(tie::kFamilies[f], others, nu);
      if (fitted) row[f] = judge_answer(fitted->law, judged.samples[i]);
    }
  }
}

Judged judge(const predict::PromptLengths& prompt, const NullDistances& null,
             const FitReportOptions& options, uint64_t seed) {
  Judged judged;
  const std::vector<LengthSample> whole = samples_of(prompt);
  tie::UniformStream random(seed);
  judged.samples = tie::jittered(whole, random);
  PromptFits& fits = judged.fits;
  fits.id = prompt.id;
  fits.samples = static_cast<uint32_t>(whole.size());
  fits.distinct = static_cast<uint32_t>(
      std::set<uint32_t>(prompt.lengths.begin(), prompt.lengths.end()).size());
  for (const LengthSample& s : whole) {
    fits.censored += s.censored;
    fits.mean += s.tokens / whole.size();
  }
  const int n = static_cast<int>(whole.size());
  for (int f = 0; f < kFamilyCount; ++f) {
    const auto fitted = tie::fit(tie::kFamilies[f], judged.samples, options.nu);
    if (!fitted) continue;  // cannot be: three uncensored answers above 0
    fits.fits[f] = *fitted;
    fits.distance[f] = tie::kolmogorov_distance(fitted->law, judged.samples);
    fits.naive[f] = tie::kolmogorov_p_value(fits.distance[f], n) > 0.05;
    fits.corrected[f] =
        fits.censored == 0
            ? fits.distance[f] <= null.critical(fitted->law, n)
            : bootstrap_p_value(fitted->law, judged.samples, fits.distance[f],
                                std::max(99, options.bootstrap / 50), seed + f) > 0.05;
  }
  leave_one_out(judged, options.nu);
  return judged;
}

double median_of(std::vector<double> values) {
  if (values.empty()) return 0;
  const size_t half = values.size() / 2;
  std::nth_element(values.begin(), values.begin() + half, values.end());
  if (values.size() % 2) return values[half];
  return (values[half] + *std::max_element(values.begin(), values.begin() + half)) / 2;
}

bool spread(const PromptFits& fits) { return 2 * fits.distinct >= fits.samples; }

// Without Pareto: its edge is the smallest answer, where a likelihood has no smooth maximum and
// AIC's penalty no ground; it would win half of all prompts of ten answers.
int best_by_aic(const PromptFits& fits) {
  int best = 0;
  double least = kInfinity;
  for (int f = 0; f < kFamilyCount; ++f) {
    if (tie::kFamilies[f] == Family::kPareto) continue;
    const double aic = 2 * tie::parameters_of(tie::kFamilies[f]) - 2 * fits.fits[f].log_likelihood;
    if (aic < least) best = f, least = aic;
  }
  return best;
}

FamilyScore score_of(int f, std::span<const Judged> judged) {
  FamilyScore score;
  score.family = tie::kFamilies[f];
  double prompts = 0, spread_prompts = 0, answers = 0;
  std::vector<double> held;
  for (const Judged& j : judged) {
    prompts += 1;
    answers += j.fits.samples;
    score.ks_naive += j.fits.naive[f];
    score.ks_corrected += j.fits.corrected[f];
    if (spread(j.fits)) {
      spread_prompts += 1;
      score.ks_corrected_spread += j.fits.corrected[f];
    }
    score.log_likelihood += j.fits.fits[f].log_likelihood;
    score.best_aic += best_by_aic(j.fits) == f;
    for (const auto& row : j.held_out) {
      held.push_back(row[f].log_likelihood);
      for (size_t q = 0; q < kReportQuantiles.size(); ++q) {
        score.above[q] += row[f].above[q];
        score.unknown[q] += row[f].above[q] > 0 && row[f].above[q] < 1;
      }
    }
  }
  score.ks_naive /= prompts;
  score.ks_corrected /= prompts;
  score.ks_corrected_spread /= std::max(spread_prompts, 1.0);
  score.log_likelihood /= answers;
  score.best_aic /= prompts;
  for (double value : held) score.held_out_mean += value / static_cast<double>(held.size());
  score.held_out_median = median_of(held);
  for (size_t q = 0; q < kReportQuantiles.size(); ++q) {
    score.above[q] /= static_cast<double>(held.size());
  }
  return score;
}

void summarize_lengths(FileReport& report, std::span<const Judged> judged) {
  std::vector<double> lengths, cvs, sigmas;
  for (const Judged& j : judged) {
    double square = 0;
    for (const LengthSample& s : j.samples) {
      lengths.push_back(s.tokens);
      square += (s.tokens - j.fits.mean) * (s.tokens - j.fits.mean) / (j.fits.samples - 1);
    }
    report.mean_tokens += j.fits.mean * j.fits.samples;
    cvs.push_back(std::sqrt(square) / j.fits.mean);
    sigmas.push_back(j.fits.fits[0].law.sigma);
    report.mu_mean += j.fits.fits[0].law.mu / static_cast<double>(judged.size());
    report.few_distinct += spread(j.fits) ? 0 : 1.0 / static_cast<double>(judged.size());
    report.samples += j.fits.samples;
    report.censored += j.fits.censored;
    report.n_least = report.n_least ? std::min(report.n_least, j.fits.samples) : j.fits.samples;
    report.n_most = std::max(report.n_most, j.fits.samples);
  }
  report.mean_tokens /= static_cast<double>(report.samples);
  report.median_tokens = median_of(std::move(lengths));
  report.within_cv = median_of(std::move(cvs));
  report.sigma_median = median_of(std::move(sigmas));
}

// The prompt with the most answers, then nearest to the median width, nothing cut if possible.
ExamplePrompt example_of(std::span<const Judged> judged, double sigma) {
  const Judged* best = nullptr;
  const auto badness = [&](const Judged& j) {
    return std::abs(std::log(j.fits.fits[0].law.sigma / sigma)) + (j.fits.censored ? 10 : 0);
  };
  for (const Judged& j : judged) {
    if (best == nullptr || j.fits.samples > best->fits.samples ||
        (j.fits.samples == best->fits.samples && badness(j) < badness(*best))) {
      best = &j;
    }
  }
  ExamplePrompt example{best->fits.id, best->samples, {}};
  for (Family family : kDrawnFamilies) {
    example.laws.push_back(best->fits.fits[static_cast<size_t>(family)].law);
  }
  return example;
}

}  // namespace

Result<FileReport> make_fit_report(const predict::LengthFile& lengths, const std::string& file,
                                   const FitReportOptions& options) {
  std::vector<const predict::PromptLengths*> prompts;
  std::set<int> sizes;
  for (const predict::PromptLengths& prompt : lengths.prompts) {
    if (!usable(prompt)) continue;
    prompts.push_back(&prompt);
    if (std::count(prompt.censored.begin(), prompt.censored.end(), true) == 0) {
      sizes.insert(static_cast<int>(prompt.lengths.size()));
    }
  }
  if (prompts.empty()) {
    return fail(ErrorCode::kInvalidArgument,
                file +
                    ": a fit needs at least 3 answers to a prompt that were not cut, but none of " +
                    std::to_string(lengths.prompts.size()) + " prompts has them");
  }
  FileReport report;
  report.file = file;
  report.model = lengths.model;
  report.prompts = lengths.prompts.size();
  report.used = prompts.size();
  report.limit = lengths.max_tokens;
  const double limit = report.limit > 0 ? report.limit : kInfinity;

  NullDistances null(options.bootstrap, options.nu, options.seed);
  for (int n : sizes) null.prepare(n, options.threads);
  std::vector<Judged> judged(prompts.size());
  const auto tell = [&](double share) {
    if (options.progress) options.progress(share);
  };
  parallel_for(
      prompts.size(), options.threads,
      [&](size_t i) {
        judged[i] = judge(*prompts[i], null, options, options.seed * 7919 + i * 104729);
      },
      [&](size_t done) { tell(0.85 * static_cast<double>(done) / prompts.size()); });
  summarize_lengths(report, judged);
  for (int f = 0; f < kFamilyCount; ++f) report.families.push_back(score_of(f, judged));
  report.example = example_of(judged, report.sigma_median);

  std::vector<ShapeInput> inputs;
  for (Judged& j : judged) inputs.push_back({&j.fits, j.samples, spread(j.fits)});
  add_shapes(report, inputs, limit, options);
  tell(1);
  for (Judged& j : judged) report.per_prompt.push_back(std::move(j.fits));
  return report;
}

}  // namespace tailor::bench
