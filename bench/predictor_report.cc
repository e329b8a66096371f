#include "bench/predictor_report.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "bench/svg_plot.h"

namespace tailor::bench {
namespace {

using nlohmann::json;
using predict::Bootstrap;
using predict::Evaluation;

struct Figure {
  const char* key;
  const char* title;
  int digits;
  const Bootstrap& (*of)(const Evaluation&);
};
const Figure kFigures[] = {
    {"r2_mean_log", "R2 of mean ln L", 3,
     [](const Evaluation& e) -> const Bootstrap& { return e.r2_mean_log; }},
    {"r2_mu", "R2 of mu", 3, [](const Evaluation& e) -> const Bootstrap& { return e.r2_mu; }},
    {"r2_sigma", "R2 of sigma", 3,
     [](const Evaluation& e) -> const Bootstrap& { return e.r2_sigma; }},
    {"corr_ln_sigma", "corr. of ln sigma", 3,
     [](const Evaluation& e) -> const Bootstrap& { return e.corr_sigma; }},
    {"tau", "Kendall tau", 3, [](const Evaluation& e) -> const Bootstrap& { return e.tau; }},
    {"coverage_50", "at or below P50", 3,
     [](const Evaluation& e) -> const Bootstrap& { return e.coverage[0]; }},
    {"coverage_90", "P90", 3,
     [](const Evaluation& e) -> const Bootstrap& { return e.coverage[1]; }},
    {"coverage_99", "P99", 3,
     [](const Evaluation& e) -> const Bootstrap& { return e.coverage[2]; }},
    {"crps_tokens", "CRPS, tokens", 1,
     [](const Evaluation& e) -> const Bootstrap& { return e.crps; }},
    {"log_likelihood", "log-lik. per answer", 3,
     [](const Evaluation& e) -> const Bootstrap& { return e.log_likelihood; }},
    {"spread_slope", "slope of spread", 2,
     [](const Evaluation& e) -> const Bootstrap& { return e.spread_slope; }},
    {"inverse_ratio", "E[1/L] pred./obs.", 2,
     [](const Evaluation& e) -> const Bootstrap& { return e.inverse_ratio; }}};

std::string number(double value, int digits) {
  char text[48];
  std::snprintf(text, sizeof text, "%.*f", digits, value);
  return text;
}

json interval(const predict::Interval& i) {
  return {{"value", i.value}, {"low", i.low}, {"high", i.high}};
}

bool compares(const PredictorReport& report, size_t head) {
  return report.reference < report.heads.size() && head != report.reference &&
         report.heads[head].figures.prompts == report.heads[report.reference].figures.prompts;
}

const JudgedHead* reference_of(const PredictorReport& report, size_t head) {
  return compares(report, head) ? &report.heads[report.reference] : nullptr;
}

predict::Interval difference(const PredictorReport& report, size_t head, const Figure& figure) {
  return predict::paired_difference(figure.of(report.heads[head].figures),
                                    figure.of(report.heads[report.reference].figures));
}

constexpr const char* kHead = R"(<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,
initial-scale=1">
<title>Length predictors</title>
<style>
:root{color-scheme:light dark;--page:#fbfaf8;--card:#fff;--ink:#1d2329;--soft:#66707a;
--rule:#dfe3e6;--a:#1f6feb;--b:#c2570c;--truth:#98a2ab;--bar:#b9c6d3}
@media(prefers-color-scheme:dark){:root{--page:#14181c;--card:#1b2025;--ink:#e4e8eb;
--soft:#98a2ab;--rule:#2e353b;--a:#6cb0ff;--b:#ffa45c;--truth:#77828c;--bar:#44525f}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);font:16px/1.5 system-ui,sans-serif}
main{max-width:1100px;margin:0 auto;padding:40px 20px 80px}
h1{font-size:30px;line-height:1.2;margin:0 0 8px}h2{font-size:22px;margin:48px 0 4px;
padding-top:20px;border-top:1px solid var(--rule)}p{max-width:72ch;margin:6px 0 14px}
.soft,figcaption{color:var(--soft);font-size:14px}
.wide{overflow-x:auto}table{border-collapse:collapse;font-size:14px;
font-variant-numeric:tabular-nums;margin:14px 0}
th,td{padding:5px 9px;text-align:right;border-bottom:1px solid var(--rule);white-space:nowrap}
th{color:var(--soft);font-weight:500}th:first-child,td:first-child{text-align:left}
td span{color:var(--soft);font-size:12px;display:block}
)";
constexpr const char* kTitle = R"(</style></head><body><main>
<h1>Length predictors</h1>
<p>Judged by answers to prompts that no fit has seen. Under each figure its 95 % interval, by
bootstrap over prompts. <b>Kendall tau</b>: order by E[min(X, limit)] against single answers.
<b>P50, P90, P99</b>: share of answers at or below that quantile, 0.5, 0.9 and 0.99 if honest.
<b>Slope of spread</b>: of |ln L - ln median| on what the law expects of it, 1 if honest.
<b>R2 of sigma</b> compares with the spread of each prompt's own answers; a law that contains the
predictor's own error is wider by design.</p>
)";

std::string pit_plot(const JudgedHead& head) {
  std::vector<double> x, y;
  double top = 0.1;
  for (int b = 0; b < predict::kPitBins; ++b) {
    x.push_back((b + 0.5) / predict::kPitBins);
    y.push_back(head.figures.pit[b] * predict::kPitBins);
    top = std::max(top, y.back());
  }
  SvgPlot plot("PIT of " + head.name, {"place of the answer under its law", 0, 1, false, {}},
               {"density", 0, std::max(2.0, top * 1.1), false, {}});
  plot.bars(x, y, 1.0 / predict::kPitBins, "bar", "answers");
  plot.line({0, 1}, {1, 1}, "truth", "honest", true);
  return "<figure>" + plot.str() + "<figcaption>PIT: flat if honest.</figcaption></figure>";
}

std::string loss_plot(const JudgedHead& head) {
  double low = 1e300, high = -1e300, epochs = 1;
  for (const auto& curve : head.curves) {
    epochs = std::max(epochs, static_cast<double>(curve.size()));
    for (const auto& [train, validation] : curve) {
      low = std::min({low, train, validation});
      high = std::max({high, train, validation});
    }
  }
  if (!(high > low)) return "";
  SvgPlot plot("Loss of " + head.name, {"epoch", 1, std::max(2.0, epochs), false, {}},
               {"loss", low - 0.05 * (high - low), high + 0.05 * (high - low), false, {}});
  for (size_t m = 0; m < head.curves.size(); ++m) {
    std::vector<double> x, train, validation;
    for (size_t e = 0; e < head.curves[m].size(); ++e) {
      x.push_back(static_cast<double>(e + 1));
      train.push_back(head.curves[m][e].first);
      validation.push_back(head.curves[m][e].second);
    }
    plot.line(x, train, "a", m == 0 ? "train (with dropout)" : "");
    plot.line(x, validation, "b", m == 0 ? "validation" : "");
  }
  return "<figure>" + plot.str() + "<figcaption>Loss by epoch.</figcaption></figure>";
}

/// Mean over the members of each one's best epoch.
double best_validation_loss(const JudgedHead& head) {
  double sum = 0;
  for (const auto& curve : head.curves) {
    double best = 1e300;
    for (const auto& [train, validation] : curve) best = std::min(best, validation);
    sum += best;
  }
  return sum / static_cast<double>(head.curves.size());
}

/// Per-token latency of each policy over that of the first in the same bursts.
json replay_json(const ReplayFigures& r) {
  const ReplayFigures::Run& first = r.runs.front();
  json out = {{first.policy + "_s", first.seconds}};
  const auto add = [&](const std::string& name, const std::vector<double>& seconds) {
    const Ratio ratio = mean_ratio(seconds, first.seconds);
    out[name + "_over_" + first.policy] = {{"value", ratio.value}, {"error", ratio.error}};
  };
  for (size_t i = 1; i < r.runs.size(); ++i) add(r.runs[i].policy, r.runs[i].seconds);
  add("oracle", r.oracle);
  return out;
}

std::string replay_text(const JudgedHead& head, const JudgedHead* reference) {
  const ReplayFigures& r = head.replay;
  const auto ratio = [](const std::vector<double>& a, const std::vector<double>& b) {
    const Ratio x = mean_ratio(a, b);
    return number(x.value, 3) + " +- " + number(x.error, 3);
  };
  const ReplayFigures::Run& first = r.runs.front();
  std::string out = "burst: per-token latency over " + first.policy + ": ";
  for (size_t i = 1; i < r.runs.size(); ++i)
    out += r.runs[i].policy + " " + ratio(r.runs[i].seconds, first.seconds) + ", ";
  out += "true lengths " + ratio(r.oracle, first.seconds);
  if (reference != nullptr && !reference->replay.empty()) {
    const ReplayFigures::Run &own = r.runs[1], &other = reference->replay.runs[1];
    out += "; " + own.policy + " over " + other.policy + " by " + reference->name + ": " +
           ratio(own.seconds, other.seconds);
  }
  return out;
}

std::string cell(const predict::Interval& i, int digits) {
  return "<td>" + number(i.value, digits) + "<span>" + number(i.low, digits) + " &ndash; " +
         number(i.high, digits) + "</span></td>";
}

}  // namespace

std::string predictor_report_json(const PredictorReport& report) {
  json out = json::array();
  for (size_t h = 0; h < report.heads.size(); ++h) {
    const JudgedHead& head = report.heads[h];
    json one = {{"name", head.name},
                {"features", head.features},
                {"model", head.model},
                {"prompts", head.figures.prompts},
                {"answers", head.figures.answers},
                {"cut", head.figures.cut},
                {"pit", head.figures.pit}};
    for (const Figure& figure : kFigures)
      one[figure.key] = interval(figure.of(head.figures).interval());
    if (!head.curves.empty()) one["validation_loss"] = best_validation_loss(head);
    if (!head.replay.empty()) one["replay"] = replay_json(head.replay);
    if (compares(report, h)) {
      one["minus"] = {{"name", report.heads[report.reference].name}};
      for (const Figure& figure : kFigures)
        one["minus"][figure.key] = interval(difference(report, h, figure));
    }
    out.push_back(std::move(one));
  }
  return json{{"heads", out}}.dump(2) + "\n";
}

std::string predictor_report_html(const PredictorReport& report) {
  std::string out = std::string(kHead) + kPlotStyle + kTitle;
  const auto table = [&](auto row_of) {
    out += "<div class=\"wide\"><table><tr><th>head</th>";
    for (const Figure& figure : kFigures) out += std::string("<th>") + figure.title + "</th>";
    out += "</tr>";
    for (size_t h = 0; h < report.heads.size(); ++h) row_of(h);
    out += "</table></div>";
  };
  table([&](size_t h) {
    const JudgedHead& head = report.heads[h];
    out += "<tr><td>" + html_escaped(head.name) + "<span>" + html_escaped(head.features) + "; " +
           std::to_string(head.figures.prompts) + " prompts, " +
           std::to_string(head.figures.answers) + " answers of " + html_escaped(head.model) + ", " +
           std::to_string(head.figures.cut) + " cut</span></td>";
    for (const Figure& figure : kFigures)
      out += cell(figure.of(head.figures).interval(), figure.digits);
    out += "</tr>";
  });
  if (report.reference < report.heads.size()) {
    out += "<h2>Minus " + html_escaped(report.heads[report.reference].name) +
           "</h2><p class=\"soft\">Paired over the same prompts: an interval without 0 is a "
           "difference.</p>";
    table([&](size_t h) {
      if (!compares(report, h)) return;
      out += "<tr><td>" + html_escaped(report.heads[h].name) + "</td>";
      for (const Figure& figure : kFigures)
        out += cell(difference(report, h, figure), figure.digits);
      out += "</tr>";
    });
  }
  for (size_t h = 0; h < report.heads.size(); ++h) {
    const JudgedHead& head = report.heads[h];
    out += "<h2>" + html_escaped(head.name) + "</h2>";
    if (!head.replay.empty())
      out +=
          "<p class=\"soft\">" + html_escaped(replay_text(head, reference_of(report, h))) + "</p>";
    out += "<div class=\"plots\">" + pit_plot(head) + loss_plot(head) + "</div>";
  }
  return out + "</main></body></html>\n";
}

std::string predictor_report_text(const PredictorReport& report) {
  std::string out;
  for (size_t h = 0; h < report.heads.size(); ++h) {
    const JudgedHead& head = report.heads[h];
    out += head.name + " (" + head.features + "; " + std::to_string(head.figures.prompts) +
           " prompts, " + std::to_string(head.figures.answers) + " answers)\n";
    for (const Figure& figure : kFigures) {
      const predict::Interval i = figure.of(head.figures).interval();
      char line[200];
      std::snprintf(line, sizeof line, "  %-20s %9s  [%s, %s]", figure.title,
                    number(i.value, figure.digits).c_str(), number(i.low, figure.digits).c_str(),
                    number(i.high, figure.digits).c_str());
      out += line;
      if (compares(report, h)) {
        const predict::Interval d = difference(report, h, figure);
        out += "   minus " + report.heads[report.reference].name + ": " +
               number(d.value, figure.digits) + " [" + number(d.low, figure.digits) + ", " +
               number(d.high, figure.digits) + "]";
      }
      out += "\n";
    }
    if (!head.replay.empty()) out += "  " + replay_text(head, reference_of(report, h)) + "\n";
  }
  return out;
}

}  // namespace tailor::bench
