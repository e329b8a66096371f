// The page of `tailor fit-report`: a table over all files, then per file a table and five plots.
#include <algorithm>
#include <cmath>
#include <cstdio>

#include "bench/fit_report_shapes.h"
#include "bench/fit_report_text.h"
#include "bench/svg_plot.h"

namespace tailor::bench {
namespace {

constexpr const char* kHead = R"(<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,
initial-scale=1">
<title>Answer lengths and their laws</title>
<style>
:root{color-scheme:light dark;--page:#fbfaf8;--card:#fff;--ink:#1d2329;--soft:#66707a;
--rule:#dfe3e6;
--observed:#1d2329;--log_t:#1f6feb;--log_normal:#c2570c;--gamma:#1a7f4b;--weibull:#8250c4;
--truth:#98a2ab;--bar:#b9c6d3}
@media(prefers-color-scheme:dark){:root{--page:#14181c;--card:#1b2025;--ink:#e4e8eb;
--soft:#98a2ab;--rule:#2e353b;
--observed:#e4e8eb;--log_t:#6cb0ff;--log_normal:#ffa45c;--gamma:#5fcf94;--weibull:#c39cf5;
--truth:#77828c;--bar:#44525f}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);font:16px/1.5 system-ui,sans-serif}
main{max-width:1040px;margin:0 auto;padding:40px 20px 80px}
h1{font-size:30px;line-height:1.2;margin:0 0 8px}h2{font-size:22px;margin:56px 0 4px;
padding-top:20px;border-top:1px solid var(--rule)}
h3{font-size:15px;margin:0 0 2px}p{max-width:70ch;margin:6px 0 14px}
.soft,figcaption,.facts{color:var(--soft);font-size:14px}
.wide{overflow-x:auto}table{border-collapse:collapse;font-size:14px;
font-variant-numeric:tabular-nums;width:100%;margin:14px 0}
th,td{padding:5px 9px;text-align:right;border-bottom:1px solid var(--rule);white-space:nowrap}
th{color:var(--soft);font-weight:500}th:first-child,td:first-child{text-align:left}
td.best{font-weight:650}
a{color:var(--log_t)}
)";
constexpr const char* kTitle = R"(</style></head><body><main>
<h1>Answer lengths and their laws</h1>
<p>Every prompt was answered several times;
each family of laws was fitted to each prompt's lengths by maximum
likelihood, cut answers by their survival. <b>KS naive</b> uses the 5 % value of a law known
beforehand, though the
law was fitted to the same answers: too lenient. <b>KS corrected</b> uses the value simulated
with fitted parameters:
a true family passes 95 % of prompts. <b>Held out</b> is the log-likelihood (nats) of each answer
under the fit of the
prompt's other answers: the figure that matters for prediction. <b>Above P90</b> is the share of
left-out answers above
the predicted 90 % quantile; 10 % would be right, but fits to few answers are too narrow for any
family.</p>
)";

template <class... Args>
void append(std::string& out, const char* format, Args... args) {
  char text[512];
  std::snprintf(text, sizeof text, format, args...);
  out += text;
}

std::string nats(double value) {
  if (!(value > -1000)) return "diverges";
  char text[32];
  std::snprintf(text, sizeof text, "%.2f", value);
  return text;
}

void overview(std::string& out, std::span<const FileReport> reports) {
  out +=
      "<div class=\"wide\"><table><tr><th>model</th><th>prompts</th><th>answers "
      "each</th><th>cut</th>"
      "<th>mean tokens</th><th>within CV</th><th>KS naive<br>log-t / log-normal</th>"
      "<th>KS corrected<br>log-t / log-normal</th><th>held out, mean<br>log-t / log-normal</th>"
      "<th>tail index</th><th>nu</th></tr>";
  for (size_t i = 0; i < reports.size(); ++i) {
    const FileReport& r = reports[i];
    const FamilyScore &t = r.families[0], &normal = r.families[2];
    append(out, "<tr><td><a href=\"#file-%zu\">", i);
    out += html_escaped(r.model) + "</a></td>";
    append(out, "<td>%llu</td><td>%s%u</td><td>%.1f %%</td><td>%.0f</td><td>%.2f</td>",
           static_cast<unsigned long long>(r.used),
           r.n_least == r.n_most ? "" : (std::to_string(r.n_least) + "&ndash;").c_str(), r.n_most,
           100.0 * static_cast<double>(r.censored) / static_cast<double>(r.samples), r.mean_tokens,
           r.within_cv);
    append(out, "<td>%.1f / %.1f %%</td><td>%.1f / %.1f %%</td><td>%s / %s</td>", 100 * t.ks_naive,
           100 * normal.ks_naive, 100 * t.ks_corrected, 100 * normal.ks_corrected,
           nats(t.held_out_mean).c_str(), nats(normal.held_out_mean).c_str());
    append(out, r.tail[0].k ? "<td>%.2f &plusmn; %.2f</td>" : "<td>&ndash;</td>", r.tail[0].index,
           r.tail[0].error);
    append(out, r.nu_matched > 0 ? "<td>%.1f</td></tr>" : "<td>&ndash;</td></tr>", r.nu_matched);
  }
  out += "</table></div>";
}

void family_table(std::string& out, const FileReport& r) {
  out +=
      "<div class=\"wide\"><table><tr><th>family</th><th>KS naive</th><th>KS corrected</th>"
      "<th>where lengths differ</th><th>log-lik.</th><th>held out, mean</th><th>held out, "
      "median</th>"
      "<th>AIC best</th><th>above P50</th><th>P90</th><th>P95</th><th>P99</th><th>P99.9</th></tr>";
  double best_mean = -INFINITY, best_median = -INFINITY;
  for (const FamilyScore& s : r.families) {
    best_mean = std::max(best_mean, s.held_out_mean);
    best_median = std::max(best_median, s.held_out_median);
  }
  for (const FamilyScore& s : r.families) {
    append(out, "<tr><td>%s</td><td>%.1f %%</td><td>%.1f %%</td><td>%.1f %%</td><td>%s</td>",
           tie::name_of(s.family), 100 * s.ks_naive, 100 * s.ks_corrected,
           100 * s.ks_corrected_spread, nats(s.log_likelihood).c_str());
    append(out, "<td%s>%s</td><td%s>%s</td><td>%.1f %%</td>",
           s.held_out_mean == best_mean ? " class=\"best\"" : "", nats(s.held_out_mean).c_str(),
           s.held_out_median == best_median ? " class=\"best\"" : "",
           nats(s.held_out_median).c_str(), 100 * s.best_aic);
    for (size_t q = 0; q < kReportQuantiles.size(); ++q) {
      append(out, q < 3 ? "<td>%.1f %%</td>" : "<td>%.2f %%</td>", 100 * s.above[q]);
    }
    out += "</tr>";
  }
  out += "</table></div>";
}

void figure(std::string& out, const char* title, const std::string& caption, const SvgPlot& plot) {
  out += std::string("<figure><h3>") + title + "</h3><figcaption>" + caption + "</figcaption>" +
         plot.str() + "</figure>";
}

void example_plot(std::string& out, const FileReport& r) {
  std::vector<double> lengths;
  for (const auto& s : r.example.samples) lengths.push_back(s.tokens);
  const auto [least, most] = std::minmax_element(lengths.begin(), lengths.end());
  const double margin = std::max(0.35 * (*most - *least), 2.0);
  const double low = std::max(*least - margin, 0.5), high = *most + margin;
  const int bins = std::clamp(static_cast<int>(2 * std::sqrt(lengths.size())), 6, 40);
  const double width = (high - low) / bins;
  std::vector<double> x(bins), y(bins);
  for (int b = 0; b < bins; ++b) x[b] = low + (b + 0.5) * width;
  for (double v : lengths) {
    y[std::min<size_t>(static_cast<size_t>((v - low) / width), bins - 1)] +=
        1 / (width * lengths.size());
  }
  std::vector<std::vector<double>> densities;
  std::vector<double> grid;
  for (int i = 0; i <= 240; ++i) grid.push_back(low + (high - low) * i / 240);
  double top = *std::max_element(y.begin(), y.end());
  for (const auto& law : r.example.laws) {
    auto& curve = densities.emplace_back();
    for (double v : grid) curve.push_back(std::exp(law.log_density(v)));
    top = std::max(top, std::min(*std::max_element(curve.begin(), curve.end()), 4 * top));
  }
  SvgPlot plot("histogram of one prompt's lengths with fitted laws", {"tokens", low, high},
               {"density per token", 0, top * 1.05});
  plot.bars(x, y, width, "bar", "answers");
  plot.rug(lengths, "observed", "");
  for (size_t i = 0; i < densities.size(); ++i) {
    plot.line(grid, densities[i], tie::key_of(kDrawnFamilies[i]), tie::name_of(kDrawnFamilies[i]));
  }
  figure(out, "One prompt",
         html_escaped(r.example.id) + ": " + std::to_string(lengths.size()) +
             " answers of typical width, and the fitted laws.",
         plot);
}

void residual_plot(std::string& out, const FileReport& r) {
  double top = 0.45;
  for (const Curve& c : r.residuals) top = std::max(top, *std::max_element(c.y.begin(), c.y.end()));
  SvgPlot plot("histogram of standardized lengths",
               {"(ln x - mu) / sigma of each prompt's log-t fit", -6, 6},
               {"density", 0, top * 1.05});
  plot.bars(r.residuals[0].x, r.residuals[0].y, 0.25, "bar", "observed");
  for (size_t i = 1; i < r.residuals.size(); ++i) {
    plot.line(r.residuals[i].x, r.residuals[i].y, r.residuals[i].key, "if " + r.residuals[i].name);
  }
  figure(out, "All prompts, standardized",
         "Bars: data. Lines: the same procedure on lengths simulated from each family's fits.",
         plot);
}

void survival_plot(std::string& out, const FileReport& r) {
  double least = 1e-1, most = 4;
  for (const Curve& c : r.survival) {
    for (double y : c.y) least = std::min(least, y);
    if (!c.x.empty()) most = std::max(most, c.x.back());
  }
  SvgPlot plot("tail of lengths on log-log axes",
               {"length / median of the prompt's other answers",
                1,
                most * 1.1,
                true,
                {1, 2, 5, 10, 20, 50, 100}},
               {"share of answers longer", std::pow(10, std::floor(std::log10(least))), 1, true});
  for (size_t i = 1; i < r.survival.size(); ++i) {
    plot.line(r.survival[i].x, r.survival[i].y, r.survival[i].key, "if " + r.survival[i].name);
  }
  plot.dots(r.survival[0].x, r.survival[0].y, "observed", "observed");
  std::string caption = "Log-log.";
  if (r.tail[0].k > 0) {
    append(caption,
           " Hill index over the largest %llu (ratio above %.2f): observed %.2f &plusmn; %.2f",
           static_cast<unsigned long long>(r.tail[0].k), r.tail[0].threshold, r.tail[0].index,
           r.tail[0].error);
    for (size_t i = 1; i < 3; ++i)
      append(caption, ", if %s %.2f", r.survival[i].name.c_str(), r.tail[i].index);
    caption += ".";
  }
  figure(out, "Tail", caption, plot);
}

void nu_plot(std::string& out, const FileReport& r) {
  if (r.nu_profile.y.empty()) return;
  double low = 0, high = 0.005;
  for (double y : r.nu_profile.y) low = std::min(low, y), high = std::max(high, y);
  for (const Curve& c : r.nu_profiles_true) {
    for (double y : c.y) high = std::max(high, y);
  }
  low = std::max(low, -0.15);
  SvgPlot plot("profile of nu", {"nu", 1, 50, true, {1, 2, 3.5, 5, 10, 20, 50}},
               {"log-likelihood over log-normal", low * 1.1 - 0.005, high * 1.1 + 0.005});
  for (const Curve& c : r.nu_profiles_true) plot.line(c.x, c.y, "truth", "", true);
  if (!r.nu_profiles_true.empty()) {
    std::string names;
    for (const Curve& c : r.nu_profiles_true)
      names += (names.empty() ? "" : ", ") + c.name.substr(8);
    plot.line({1.0001, 1.0001}, {0, 0}, "truth", "simulated, true nu " + names + " (top to bottom)",
              true);
  }
  plot.line(r.nu_profile.x, r.nu_profile.y, "log_t", "observed");
  std::string caption =
      "Mean gain per answer of log-t over the log-normal, nu given to all prompts.";
  if (r.nu_matched > 0) append(caption, " The data match a true nu of %.1f.", r.nu_matched);
  figure(out, "Degrees of freedom", caption, plot);
}

void calibration_plot(std::string& out, const FileReport& r) {
  double least = 5e-4;
  for (int f : {0, 2, 3, 4}) {
    for (double a : r.families[f].above) least = a > 0 ? std::min(least, a) : least;
  }
  const double floor = std::pow(10, std::floor(std::log10(least)));
  SvgPlot plot("calibration of quantiles",
               {"nominal share above the predicted quantile", 5e-4, 1, true},
               {"share of left-out answers above", floor, 1, true});
  plot.line({5e-4, 1}, {5e-4, 1}, "truth", "right", true);
  for (int f : {0, 2, 3, 4}) {
    const FamilyScore& s = r.families[f];
    std::vector<double> x, y;
    for (size_t q = 0; q < kReportQuantiles.size(); ++q) {
      if (s.above[q] <= 0) continue;
      x.push_back(1 - kReportQuantiles[q]);
      y.push_back(s.above[q]);
    }
    plot.line(x, y, tie::key_of(s.family), tie::name_of(s.family));
    plot.dots(x, y, tie::key_of(s.family), "");
  }
  figure(out, "Quantiles of answers left out",
         "P50, P90, P95, P99, P99.9 predicted by the fit of the other answers; above the dashed "
         "line: longer than predicted.",
         plot);
}

void section(std::string& out, const FileReport& r, size_t index) {
  append(out, "<h2 id=\"file-%zu\">", index);
  out += html_escaped(r.model) + "</h2><p class=\"facts\">" + html_escaped(r.file);
  append(out,
         ": %llu of %llu prompts used, %llu answers, %llu cut%s; mean %.0f tokens, median %.0f; "
         "within-prompt CV %.2f; "
         "%.1f %% of prompts have few distinct lengths.</p>",
         static_cast<unsigned long long>(r.used), static_cast<unsigned long long>(r.prompts),
         static_cast<unsigned long long>(r.samples), static_cast<unsigned long long>(r.censored),
         r.limit ? (" at " + std::to_string(r.limit)).c_str() : "", r.mean_tokens, r.median_tokens,
         r.within_cv, 100 * r.few_distinct);
  family_table(out, r);
  out += "<div class=\"plots\">";
  example_plot(out, r);
  residual_plot(out, r);
  survival_plot(out, r);
  nu_plot(out, r);
  calibration_plot(out, r);
  out += "</div>";
}

}  // namespace

std::string fit_report_html(std::span<const FileReport> reports) {
  std::string out = std::string(kHead) + kPlotStyle + kTitle;
  overview(out, reports);
  out +=
      "<p class=\"soft\">Tail index: Hill's, over length / median of the prompt's other answers. "
      "nu: the degrees of "
      "freedom whose simulated profile matches the data.</p>";
  for (size_t i = 0; i < reports.size(); ++i) section(out, reports[i], i);
  return out + "</main></body></html>\n";
}

}  // namespace tailor::bench
