// `tailor fit-report`: fits laws to collected answer lengths and draws them (bench/fit_report.h).
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <memory>

#include "base/clock.h"
#include "bench/fit_report.h"
#include "bench/fit_report_text.h"
#include "client/answer.h"
#include "launch/commands/command.h"
#include "launch/commands/terminal.h"

namespace tailor::launch {
namespace {

struct Options {
  std::vector<std::string> files;
  std::string out;
  bench::FitReportOptions report;
  bool json = false;
};

Result<bool> write_file(const std::filesystem::path& path, const std::string& text) {
  std::ofstream file(path, std::ios::binary);
  file << text;
  file.flush();
  if (!file) return fail(ErrorCode::kUnavailable, "cannot write " + path.string());
  return true;
}

Result<std::vector<bench::FileReport>> make_reports(const Options& options) {
  // all are read before the first fit: a bad one costs no time
  std::vector<predict::LengthFile> lengths;
  for (const std::string& file : options.files) {
    TAILOR_ASSIGN(lengths.emplace_back(), predict::read_length_file(file));
  }
  std::vector<bench::FileReport> reports;
  const bool shows = isatty(STDERR_FILENO);
  const Time began = now();
  for (size_t i = 0; i < lengths.size(); ++i) {
    bench::FitReportOptions one = options.report;
    int shown = -1;
    one.progress = [&](double share) {
      const double done = (static_cast<double>(i) + share) / static_cast<double>(lengths.size());
      if (!shows || static_cast<int>(done * 100) == shown) return;
      shown = static_cast<int>(done * 100);
      const double spent = to_seconds(now() - began);
      std::fprintf(stderr, "\r%3d %%  file %zu of %zu, %.0f s left\x1b[K", shown, i + 1,
                   lengths.size(), done > 0 ? spent * (1 - done) / done : 0);
    };
    auto report = bench::make_fit_report(lengths[i], options.files[i], one);
    if (shows) std::fprintf(stderr, "\r\x1b[K");
    if (!report) return fail(std::move(report.error()));
    report->file = std::filesystem::path(report->file).filename().string();
    reports.push_back(std::move(*report));
  }
  return reports;
}

Result<bool> write_reports(const std::filesystem::path& out,
                           const std::vector<bench::FileReport>& reports) {
  std::error_code error;
  std::filesystem::create_directories(out, error);
  if (error)
    return fail(ErrorCode::kUnavailable,
                "cannot make the folder " + out.string() + ": " + error.message());
  TAILOR_TRY(write_file(out / "fit-report.html", bench::fit_report_html(reports)));
  TAILOR_TRY(write_file(out / "fit-report.json", bench::fit_report_json(reports) + "\n"));
  return write_file(out / "prompt-fits.csv", bench::fit_report_csv(reports));
}

int run(const Options& options) {
  const auto reports = make_reports(options);
  if (!reports) return print_error(reports.error());
  if (const auto written = write_reports(options.out, *reports); !written)
    return print_error(written.error());
  const std::string text =
      options.json
          ? bench::fit_report_json(*reports) + "\n"
          : bench::fit_report_table(*reports) +
                "\nwritten: " + (std::filesystem::path(options.out) / "fit-report.html").string() +
                ", fit-report.json, prompt-fits.csv\n";
  return write_all(STDOUT_FILENO, text) ? 0 : 1;
}

}  // namespace

Command add_fit_report(CLI::App& parent) {
  auto options = std::make_shared<Options>();
  CLI::App* app = parent.add_subcommand(
      "fit-report",
      "Fit laws to collected answer lengths; write tables and plots (docs/length-laws.md)");
  app->add_option("FILE", options->files, "Length files (tailor-lengths-1)")
      ->required()
      ->configurable(false);
  app->add_option("--out", options->out,
                  "Folder for fit-report.html, fit-report.json, prompt-fits.csv")
      ->required();
  app->add_option("--nu", options->report.nu, "Degrees of freedom of the log-t with nu fixed")
      ->check(CLI::Range(1.0, 1000.0));
  app->add_option(
         "--bootstrap", options->report.bootstrap,
         "Simulated samples behind each critical value; a fiftieth for a prompt with cut answers")
      ->check(CLI::Range(100, 10'000'000));
  app->add_option("--threads", options->report.threads, "Threads")->check(CLI::Range(1, 64));
  app->add_option("--seed", options->report.seed, "Seed of jitter and simulations");
  app->add_flag("--json", options->json, "The report as one JSON object on stdout");
  return {app, [options] { return run(*options); }};
}

}  // namespace tailor::launch
