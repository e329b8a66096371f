// The pooled shapes of a fit report: tail, residuals, profile of nu; each beside the same procedure
// on lengths simulated from the per-prompt fits of a family, at the same sample sizes and limit. A
// fit to ten answers bends every pooled statistic; the simulation bends its own in the same way.
#pragma once

#include <array>
#include <span>
#include <vector>

#include "bench/fit_report.h"

namespace tailor::bench {

/// The families that plots draw and simulate.
inline constexpr std::array kDrawnFamilies = {tie::Family::kLogT, tie::Family::kLogNormal,
                                              tie::Family::kGamma, tie::Family::kWeibull};

struct ShapeInput {
  const PromptFits* fits = nullptr;
  std::span<const tie::LengthSample> samples;  ///< jittered
  bool spread = true;                          ///< many distinct lengths
};

/// Fills nu_profile*, nu_matched, tail, survival and residuals of `report`.
void add_shapes(FileReport& report, std::span<const ShapeInput> prompts, double limit,
                const FitReportOptions& options);

}  // namespace tailor::bench
