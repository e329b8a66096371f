// The fit report on lengths whose law is known: what must pass does, at the rate it must.
#include "bench/fit_report.h"

#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "bench/fit_report_text.h"
#include "bench/null_distances.h"
#include "bench/svg_plot.h"
#include "tie/kolmogorov.h"

namespace tailor::bench {
namespace {

using tie::Family;

// `prompts` prompts, each with a law of its own, n integer answers cut at `limit` (0: never).
predict::LengthFile drawn(Family family, int prompts, int n, double sigma, uint32_t limit = 0,
                          double nu = 3.5) {
  tie::UniformStream random(91);
  predict::LengthFile file;
  file.model = "simulated <model>";
  file.max_tokens = limit;
  for (int p = 0; p < prompts; ++p) {
    const tie::FittedLaw law{family, 5.5 + random(), sigma, nu};
    predict::PromptLengths& prompt = file.prompts.emplace_back();
    prompt.id = "p/" + std::to_string(p);
    for (int i = 0; i < n; ++i) {
      const double x = std::max(1.0, std::min(std::round(law.quantile(random())), 4e9));
      const bool cut = limit > 0 && x > limit;
      prompt.lengths.push_back(cut ? limit : static_cast<uint32_t>(x));
      prompt.censored.push_back(cut);
    }
  }
  return file;
}

FileReport report_of(const predict::LengthFile& file, int threads = 2, int bootstrap = 4000) {
  FitReportOptions options;
  options.bootstrap = bootstrap;
  options.threads = threads;
  auto report = make_fit_report(file, "simulated.jsonl", options);
  EXPECT_TRUE(report) << report.error().message;
  return report ? *report : FileReport{};
}

const FamilyScore& score(const FileReport& report, Family family) {
  return report.families[static_cast<size_t>(family)];
}

TEST(NullDistances, LogNormalIsLillieforsTable) {
  NullDistances null(20000, 3.5, 1);
  null.prepare(10, 2);
  // Lilliefors' 5 % value at n = 10 is .262 (Dallal and Wilkinson 1986), with s of n - 1; ours has
  // the maximum-likelihood sigma, which moves it by less than .01.
  EXPECT_NEAR(null.critical({Family::kLogNormal, 5, 0.4, 0}, 10), 0.262, 0.01);
  // A gamma of a huge shape is a normal; log-t of a huge nu a log-normal.
  EXPECT_NEAR(null.critical({Family::kGamma, 5, 0.01, 0}, 10), 0.262, 0.012);
  EXPECT_NEAR(null.critical({Family::kLogTFree, 5, 1, 100}, 10), 0.26, 0.02);
  for (Family family : tie::kFamilies) {
    EXPECT_LT(null.critical({family, 5, 0.4, 3.5}, 10), 0.40925) << tie::name_of(family);
  }
}

TEST(FitReport, TheTrueFamilyPassesNinetyFivePercentAndTheNaiveTestNearlyAlways) {
  for (Family family : {Family::kLogT, Family::kLogNormal, Family::kWeibull}) {
    const FileReport report = report_of(drawn(family, 300, 10, 0.4));
    EXPECT_NEAR(score(report, family).ks_corrected, 0.95, 0.04) << tie::name_of(family);
    EXPECT_GT(score(report, family).ks_naive, 0.99) << tie::name_of(family);
  }
}

TEST(FitReport, ATwoPeakedPromptFailsTheCorrectedTestButNotTheNaiveOne) {
  predict::LengthFile file = drawn(Family::kLogNormal, 40, 10, 0.01);
  for (auto& prompt : file.prompts) {
    for (size_t i = 0; i < 5; ++i) prompt.lengths[i] *= 3;
  }
  const FamilyScore s = score(report_of(file), Family::kLogNormal);
  EXPECT_LT(s.ks_corrected, 0.1);
  EXPECT_GT(s.ks_naive, 0.9);
}

TEST(FitReport, TheTrueFamilyPredictsLeftOutAnswersBest) {
  const FileReport heavy = report_of(drawn(Family::kLogT, 400, 12, 0.4, 0, 2));
  EXPECT_GT(score(heavy, Family::kLogT).held_out_mean,
            score(heavy, Family::kLogNormal).held_out_mean + 0.05);
  const FileReport light = report_of(drawn(Family::kWeibull, 400, 12, 0.4));
  EXPECT_GT(score(light, Family::kWeibull).held_out_median,
            score(light, Family::kPareto).held_out_median + 0.3);
  // with 12 answers the predicted quantiles are a little short, at every family
  const auto& above = score(heavy, Family::kLogT).above;
  EXPECT_NEAR(above[0], 0.5, 0.04);
  EXPECT_NEAR(above[1], 0.115, 0.03);
}

TEST(FitReport, NuAndTailAreThoseOfTheTruth) {
  const FileReport heavy = report_of(drawn(Family::kLogT, 700, 10, 0.3, 0, 2.5));
  EXPECT_GT(heavy.nu_matched, 1.9);
  EXPECT_LT(heavy.nu_matched, 3.4);
  const FileReport normal = report_of(drawn(Family::kLogNormal, 700, 10, 0.3));
  EXPECT_TRUE(normal.nu_matched > 10 || normal.nu_matched == 0) << normal.nu_matched;
  ASSERT_GT(heavy.tail[0].k, 100u);
  EXPECT_LT(heavy.tail[0].index, normal.tail[0].index - 1);
  // observed and simulated from the true family agree
  EXPECT_NEAR(normal.tail[0].index, normal.tail[2].index, 5 * normal.tail[0].error);
  const FileReport pareto = report_of(drawn(Family::kPareto, 700, 10, 0.5));  // index 2
  EXPECT_NEAR(pareto.tail[0].index, 2, 0.5);
}

TEST(FitReport, CutAnswersAreJudgedByTheSameCutAndQuantilesBeyondItStayOpen) {
  const FileReport report = report_of(drawn(Family::kLogNormal, 60, 8, 0.5, 500), 2, 1000);
  EXPECT_GT(report.censored, 50u);
  EXPECT_GT(score(report, Family::kLogNormal).ks_corrected, 0.87);
  const FamilyScore& s = score(report, Family::kLogNormal);
  EXPECT_LT(s.unknown[0], s.unknown[3]);  // P99 lies beyond the cut more often than P50
  EXPECT_NEAR(s.above[0], 0.5, 0.07);
  EXPECT_LT(s.above[1], 0.22);
  // mu is in [5.5, 6.5]: taking 500 for a length would pull its mean well below 6
  EXPECT_NEAR(report.mu_mean, 6, 0.16);
}

TEST(FitReport, DoesNotDependOnThreads) {
  const predict::LengthFile file = drawn(Family::kLogT, 25, 6, 0.5, 900);
  const std::vector<FileReport> one = {report_of(file, 1, 500)}, three = {report_of(file, 3, 500)};
  EXPECT_EQ(fit_report_json(one), fit_report_json(three));
  EXPECT_EQ(fit_report_csv(one), fit_report_csv(three));
  EXPECT_EQ(fit_report_html(one), fit_report_html(three));
}

TEST(FitReport, EqualLengthsAndOnePromptGiveAReport) {
  predict::LengthFile file;
  file.model = "flat";
  file.prompts.push_back({"a", 3, std::vector<uint32_t>(6, 77), std::vector<bool>(6)});
  file.prompts.push_back({"too few", 3, {5, 6}, {false, false}});
  file.prompts.push_back({"cut", 3, {9, 9, 9, 9}, {true, true, true, false}});
  const std::vector<FileReport> reports = {report_of(file, 1, 500)};
  EXPECT_EQ(reports[0].used, 1u);
  EXPECT_EQ(reports[0].prompts, 3u);
  EXPECT_EQ(reports[0].few_distinct, 1);
  EXPECT_NEAR(reports[0].median_tokens, 77, 0.5);
  EXPECT_NE(fit_report_html(reports).find("</html>"), std::string::npos);
  EXPECT_TRUE(nlohmann::json::accept(fit_report_json(reports)));
}

TEST(FitReport, NothingToFitIsOneSentence) {
  predict::LengthFile file;
  file.prompts.push_back({"too few", 3, {5, 6}, {false, false}});
  const auto report = make_fit_report(file, "x.jsonl", {});
  ASSERT_FALSE(report);
  EXPECT_NE(report.error().message.find("x.jsonl"), std::string::npos);
  EXPECT_NE(report.error().message.find("none of 1 prompts"), std::string::npos);
}

TEST(FitReport, ThePageHoldsNoForeignMarkupOrAddress) {
  const std::vector<FileReport> reports = {report_of(drawn(Family::kLogT, 30, 6, 0.5), 1, 500)};
  const std::string page = fit_report_html(reports);
  EXPECT_EQ(page.find("simulated <model>"), std::string::npos);
  EXPECT_NE(page.find("simulated &lt;model&gt;"), std::string::npos);
  for (const char* foreign : {"http:", "https:", "<script", "nan", "inf\""}) {
    EXPECT_EQ(page.find(foreign), std::string::npos) << foreign;
  }
}

TEST(SvgPlot, CutsWhatLiesOutsideItsAxes) {
  SvgPlot plot("t", {"x", 1, 100, true}, {"y", 0, 1});
  plot.line({0.1, 1, 10, 100, 1000}, {0.5, 0.5, 0.5, 2, 0.5}, "observed", "a & b");
  const std::string svg = plot.str();
  EXPECT_NE(svg.find("a &amp; b"), std::string::npos);
  EXPECT_EQ(svg.find("nan"), std::string::npos);
  const size_t at = svg.find(" d=\"M", svg.find("class=\"line\""));
  const std::string path = svg.substr(at, svg.find("\"/>", at) - at);
  EXPECT_EQ(std::count(path.begin(), path.end(), 'L'), 1) << path;  // 1 to 10 alone
}

}  // namespace
}  // namespace tailor::bench
