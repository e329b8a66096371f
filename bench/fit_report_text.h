// A fit report as people, programs and browsers read it. Pure.
#pragma once

#include <span>
#include <string>

#include "bench/fit_report.h"

namespace tailor::bench {

/// One block per file: the families' table, tail and profile, for the terminal.
std::string fit_report_table(std::span<const FileReport> reports);

/// {"format": "tailor-fit-report-1", "files": [...]}, without the per-prompt fits; numbers that are
/// not finite are null. tools/make_length_laws.py makes docs/length-laws.md from it.
std::string fit_report_json(std::span<const FileReport> reports);

/// One line per prompt and family: file, prompt, family, n, censored, distinct, mu, sigma, nu,
/// log-likelihood, distance, naive, corrected.
std::string fit_report_csv(std::span<const FileReport> reports);

/// A page of its own: inline styles and SVG, no script, readable in light and dark.
std::string fit_report_html(std::span<const FileReport> reports);

}  // namespace tailor::bench
