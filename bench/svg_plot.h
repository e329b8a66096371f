// A small line plot as inline SVG: two axes (linear or log), lines, dots and bars, a legend under
// it. Colours are the page's CSS variables `--KEY`, so one drawing fits light and dark. Pure.
#pragma once

#include <string>
#include <vector>

namespace tailor::bench {

struct PlotAxis {
  std::string label;
  double low = 0, high = 1;
  bool log = false;
  std::vector<double> ticks;  ///< empty: chosen
};

/// CSS of a page with plots: their grid, figures, lines and legends. It wants --soft, --rule,
/// --card and --ink.
extern const char* const kPlotStyle;

class SvgPlot {
 public:
  /// `title` is read out by screen readers.
  SvgPlot(std::string title, PlotAxis x, PlotAxis y);

  /// `color` is a CSS variable without its dashes. Points outside the axes are cut off.
  void line(const std::vector<double>& x, const std::vector<double>& y, const std::string& color,
            const std::string& legend, bool dashed = false);
  void dots(const std::vector<double>& x, const std::vector<double>& y, const std::string& color,
            const std::string& legend);
  /// Bars of one width around each x, from the x axis up.
  void bars(const std::vector<double>& x, const std::vector<double>& y, double width,
            const std::string& color, const std::string& legend);
  /// Short strokes on the x axis: single answers.
  void rug(const std::vector<double>& x, const std::string& color, const std::string& legend);

  std::string str() const;

 private:
  double px(double x) const;
  double py(double y) const;
  void add_legend(const std::string& color, const std::string& legend, const char* mark);
  std::string axes() const;

  std::string title_;
  PlotAxis x_, y_;
  std::string body_, legend_;
};

/// Text as HTML shows it: & < > " escaped.
std::string html_escaped(const std::string& text);

}  // namespace tailor::bench
