#include "bench/svg_plot.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

namespace tailor::bench {

const char* const kPlotStyle =
    R"(.plots{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(440px,100%),1fr));gap:18px;
margin-top:18px}
figure{margin:0;background:var(--card);border:1px solid var(--rule);border-radius:8px;
padding:14px 14px 10px}
svg{display:block;width:100%;height:auto;margin-top:8px}svg text{fill:var(--soft);
font-size:11.5px}svg .label{font-size:12px;fill:var(--ink)}
.grid{stroke:var(--rule);fill:none}.line{fill:none;stroke-width:1.8}.bar{opacity:.85}
.legend{display:flex;flex-wrap:wrap;gap:2px 14px;font-size:13px;margin:6px 0 2px}
.legend i{display:inline-block;width:18px;margin-right:6px;vertical-align:middle;
border-top:2px solid var(--k)}
.legend i.dash{border-top-style:dashed}.legend i.dot{width:7px;height:7px;border:0;
border-radius:4px;background:var(--k)}
.legend i.box{width:11px;height:11px;border:0;background:var(--k)}
)";
namespace {

constexpr double kWidth = 460, kHeight = 290;
constexpr double kLeft = 66, kRight = 12, kTop = 10, kBottom = 44;

template <class... Args>
std::string text_of(const char* format, Args... args) {
  char text[512];
  std::snprintf(text, sizeof text, format, args...);
  return text;
}

// 1, 2 or 5 times a power of ten apart, four to eight of them; decades on a log axis.
std::vector<double> ticks_of(const PlotAxis& axis) {
  if (!axis.ticks.empty()) return axis.ticks;
  std::vector<double> ticks;
  if (axis.log) {
    for (double t = std::pow(10, std::ceil(std::log10(axis.low) - 1e-9)); t <= axis.high * 1.0001;
         t *= 10) {
      ticks.push_back(t);
    }
    return ticks;
  }
  const double span = axis.high - axis.low;
  double step = std::pow(10, std::floor(std::log10(span / 4)));
  for (double factor : {5.0, 2.0}) {
    if (span / (step * factor) >= 4) {
      step *= factor;
      break;
    }
  }
  for (double t = std::ceil(axis.low / step - 1e-9) * step; t <= axis.high + step * 1e-6;
       t += step) {
    ticks.push_back(std::abs(t) < step * 1e-6 ? 0 : t);
  }
  return ticks;
}

double placed(const PlotAxis& axis, double value) {
  if (!axis.log) return (value - axis.low) / (axis.high - axis.low);
  return std::log(value / axis.low) / std::log(axis.high / axis.low);
}

bool inside(const PlotAxis& axis, double value) {
  const double slack = axis.log ? 0 : 1e-9 * (axis.high - axis.low);
  return value >= axis.low - slack && value <= axis.high + slack;
}

}  // namespace

SvgPlot::SvgPlot(std::string title, PlotAxis x, PlotAxis y)
    : title_(std::move(title)), x_(std::move(x)), y_(std::move(y)) {}

double SvgPlot::px(double x) const { return kLeft + placed(x_, x) * (kWidth - kLeft - kRight); }
double SvgPlot::py(double y) const {
  return kHeight - kBottom - placed(y_, y) * (kHeight - kTop - kBottom);
}

void SvgPlot::add_legend(const std::string& color, const std::string& legend, const char* mark) {
  if (legend.empty()) return;
  legend_ += "<span><i class=\"" + std::string(mark) + "\" style=\"--k:var(--" + color +
             ")\"></i>" + html_escaped(legend) + "</span>";
}

void SvgPlot::line(const std::vector<double>& x, const std::vector<double>& y,
                   const std::string& color, const std::string& legend, bool dashed) {
  std::string path;
  bool open = false;
  for (size_t i = 0; i < x.size(); ++i) {
    if (!std::isfinite(y[i]) || !inside(x_, x[i]) || !inside(y_, y[i])) {
      open = false;
      continue;
    }
    path += text_of("%c%.1f %.1f", open ? 'L' : 'M', px(x[i]), py(y[i]));
    open = true;
  }
  if (path.empty()) return;
  body_ += "<path class=\"line\" style=\"stroke:var(--" + color + ")\"" +
           (dashed ? " stroke-dasharray=\"5 4\"" : "") + " d=\"" + path + "\"/>";
  add_legend(color, legend, dashed ? "dash" : "stroke");
}

void SvgPlot::dots(const std::vector<double>& x, const std::vector<double>& y,
                   const std::string& color, const std::string& legend) {
  for (size_t i = 0; i < x.size(); ++i) {
    if (!std::isfinite(y[i]) || !inside(x_, x[i]) || !inside(y_, y[i])) continue;
    body_ += text_of("<circle r=\"2.4\" cx=\"%.1f\" cy=\"%.1f\" style=\"fill:var(--%s)\"/>",
                     px(x[i]), py(y[i]), color.c_str());
  }
  add_legend(color, legend, "dot");
}

void SvgPlot::bars(const std::vector<double>& x, const std::vector<double>& y, double width,
                   const std::string& color, const std::string& legend) {
  for (size_t i = 0; i < x.size(); ++i) {
    const double left = std::max(x[i] - width / 2, x_.low),
                 right = std::min(x[i] + width / 2, x_.high);
    if (!(y[i] > 0) || left >= right) continue;
    const double top = py(std::min(y[i], y_.high));
    body_ += text_of(
        "<rect class=\"bar\" x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" "
        "style=\"fill:var(--%s)\"/>",
        px(left) + 0.5, top, std::max(px(right) - px(left) - 1, 0.5), kHeight - kBottom - top,
        color.c_str());
  }
  add_legend(color, legend, "box");
}

void SvgPlot::rug(const std::vector<double>& x, const std::string& color,
                  const std::string& legend) {
  for (double value : x) {
    if (!inside(x_, value)) continue;
    body_ += text_of("<path class=\"line\" style=\"stroke:var(--%s)\" d=\"M%.1f %.1fv-14\"/>",
                     color.c_str(), px(value), kHeight - kBottom);
  }
  add_legend(color, legend, "dot");
}

std::string SvgPlot::axes() const {
  std::string out;
  for (double t : ticks_of(x_)) {
    if (!inside(x_, t)) continue;
    out += text_of("<path class=\"grid\" d=\"M%.1f %.1fV%.1f\"/>", px(t), kTop, kHeight - kBottom);
    out += text_of("<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\">%g</text>", px(t),
                   kHeight - kBottom + 16, t);
  }
  for (double t : ticks_of(y_)) {
    if (!inside(y_, t)) continue;
    out += text_of("<path class=\"grid\" d=\"M%.1f %.1fH%.1f\"/>", kLeft, py(t), kWidth - kRight);
    out += text_of("<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"end\">%g</text>", kLeft - 6,
                   py(t) + 4, t);
  }
  out += text_of("<text class=\"label\" x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\">",
                 (kLeft + kWidth - kRight) / 2, kHeight - 8);
  out += html_escaped(x_.label) + "</text>";
  out += text_of(
      "<text class=\"label\" transform=\"translate(13 %.1f) rotate(-90)\" text-anchor=\"middle\">",
      (kTop + kHeight - kBottom) / 2);
  out += html_escaped(y_.label) + "</text>";
  return out;
}

std::string SvgPlot::str() const {
  return text_of("<svg viewBox=\"0 0 %g %g\" role=\"img\"><title>", kWidth, kHeight) +
         html_escaped(title_) + "</title>" + axes() + body_ + "</svg><div class=\"legend\">" +
         legend_ + "</div>";
}

std::string html_escaped(const std::string& text) {
  std::string out;
  for (char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

}  // namespace tailor::bench
