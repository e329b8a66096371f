#include "bench/fit_report_text.h"

#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>

namespace tailor::bench {
namespace {

template <class... Args>
void append(std::string& out, const char* format, Args... args) {
  char line[512];
  std::snprintf(line, sizeof line, format, args...);
  out += line;
}

// A likelihood, or that there is none: a density of 0, or a law so wrong that the mean says
// nothing.
std::string nats(double value) {
  if (!(value > -1000)) return "diverges";
  char text[32];
  std::snprintf(text, sizeof text, "%.3f", value);
  return text;
}

nlohmann::json number(double value) {
  return std::isfinite(value) ? nlohmann::json(value) : nlohmann::json(nullptr);
}

nlohmann::json to_json(const Curve& curve) {
  return {{"name", curve.name}, {"key", curve.key}, {"x", curve.x}, {"y", curve.y}};
}

nlohmann::json to_json(const FamilyScore& s) {
  nlohmann::json quantiles = nlohmann::json::array();
  for (size_t q = 0; q < kReportQuantiles.size(); ++q) {
    quantiles.push_back(
        {{"p", kReportQuantiles[q]}, {"above", s.above[q]}, {"unknown", s.unknown[q]}});
  }
  return {{"family", tie::key_of(s.family)},
          {"ks_naive", s.ks_naive},
          {"ks_corrected", s.ks_corrected},
          {"ks_corrected_spread", s.ks_corrected_spread},
          {"log_likelihood", number(s.log_likelihood)},
          {"best_aic", s.best_aic},
          {"held_out_mean", number(s.held_out_mean)},
          {"held_out_median", number(s.held_out_median)},
          {"quantiles", std::move(quantiles)}};
}

nlohmann::json to_json(const FileReport& r) {
  nlohmann::json families = nlohmann::json::array(), tail = nlohmann::json::array();
  for (const FamilyScore& s : r.families) families.push_back(to_json(s));
  for (size_t i = 0; i < r.tail.size(); ++i) {
    tail.push_back({{"of", r.survival[i].key},
                    {"index", r.tail[i].index},
                    {"error", r.tail[i].error},
                    {"k", r.tail[i].k},
                    {"threshold", r.tail[i].threshold}});
  }
  nlohmann::json truths = nlohmann::json::array();
  for (const Curve& curve : r.nu_profiles_true) truths.push_back(to_json(curve));
  return {{"file", r.file},
          {"model", r.model},
          {"prompts", r.prompts},
          {"used", r.used},
          {"answers", r.samples},
          {"censored", r.censored},
          {"answers_per_prompt", {r.n_least, r.n_most}},
          {"limit", r.limit},
          {"few_distinct", r.few_distinct},
          {"mean_tokens", r.mean_tokens},
          {"median_tokens", r.median_tokens},
          {"within_cv", r.within_cv},
          {"mu_mean", r.mu_mean},
          {"sigma_median", r.sigma_median},
          {"families", std::move(families)},
          {"tail", std::move(tail)},
          {"nu_matched", r.nu_matched},
          {"nu_profile", to_json(r.nu_profile)},
          {"nu_profiles_true", std::move(truths)}};
}

std::string csv_field(const std::string& text) {
  if (text.find_first_of(",\"\n") == std::string::npos) return text;
  std::string out = "\"";
  for (char c : text) out += c == '"' ? "\"\"" : std::string(1, c);
  return out + "\"";
}

}  // namespace

std::string fit_report_table(std::span<const FileReport> reports) {
  std::string out;
  for (const FileReport& r : reports) {
    out += (out.empty() ? "" : "\n") + r.model + " (" + r.file + ")\n";
    append(out, "%llu of %llu prompts, %u to %u answers each, %llu answers, %llu of them cut\n",
           static_cast<unsigned long long>(r.used), static_cast<unsigned long long>(r.prompts),
           r.n_least, r.n_most, static_cast<unsigned long long>(r.samples),
           static_cast<unsigned long long>(r.censored));
    append(out,
           "mean %.1f tokens, median %.1f, within-prompt CV %.2f, few distinct lengths %.1f %%\n",
           r.mean_tokens, r.median_tokens, r.within_cv, 100 * r.few_distinct);
    append(out, "%-18s %8s %9s %9s %9s %9s %9s %8s %7s %7s %7s\n", "family", "KS naive", "KS corr.",
           "log-lik", "held mean", "held P50", "AIC best", "> P50", "> P90", "> P99", "> P99.9");
    for (const FamilyScore& s : r.families) {
      append(out, "%-18s %7.1f%% %8.1f%% %9s %9s %9s %8.1f%% %7.1f%% %6.1f%% %6.1f%% %6.2f%%\n",
             tie::name_of(s.family), 100 * s.ks_naive, 100 * s.ks_corrected,
             nats(s.log_likelihood).c_str(), nats(s.held_out_mean).c_str(),
             nats(s.held_out_median).c_str(), 100 * s.best_aic, 100 * s.above[0], 100 * s.above[1],
             100 * s.above[3], 100 * s.above[4]);
    }
    out += "tail index (Hill)";
    for (size_t i = 0; i < r.tail.size(); ++i) {
      if (r.tail[i].k == 0) continue;
      append(out, "%s %s %.2f +- %.2f", i == 0 ? "" : ", if", r.survival[i].name.c_str(),
             r.tail[i].index, r.tail[i].error);
    }
    append(out, "\nnu profile matches a true nu of %s\n",
           r.nu_matched > 0 ? std::to_string(r.nu_matched).substr(0, 4).c_str() : "none simulated");
  }
  return out;
}

std::string fit_report_json(std::span<const FileReport> reports) {
  nlohmann::json files = nlohmann::json::array();
  for (const FileReport& r : reports) files.push_back(to_json(r));
  return nlohmann::json{{"format", "tailor-fit-report-1"}, {"files", std::move(files)}}.dump(
      -1, ' ', false, nlohmann::json::error_handler_t::replace);
}

std::string fit_report_csv(std::span<const FileReport> reports) {
  std::string out =
      "file,prompt,family,answers,censored,distinct,mu,sigma,nu,log_likelihood,distance,naive,"
      "corrected\n";
  for (const FileReport& r : reports) {
    for (const PromptFits& p : r.per_prompt) {
      for (int f = 0; f < tie::kFamilyCount; ++f) {
        const tie::Fit& fit = p.fits[f];
        out += csv_field(r.file) + "," + csv_field(p.id) + "," + tie::key_of(tie::kFamilies[f]);
        append(out, ",%u,%u,%u,%.6g,%.6g,%.4g,%.6g,%.5g,%d,%d\n", p.samples, p.censored, p.distinct,
               fit.law.mu, fit.law.sigma, f < 2 ? fit.law.nu : 0, fit.log_likelihood, p.distance[f],
               p.naive[f], p.corrected[f]);
      }
    }
  }
  return out;
}

}  // namespace tailor::bench
