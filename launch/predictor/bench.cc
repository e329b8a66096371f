// `tailor-predictor bench`: how many prompts a second a predictor takes, and how long after its
// arrival a prompt's law is there, with the batcher of `serve` and arrivals as a Poisson process.
#include <poll.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <random>

#include "base/clock.h"
#include "launch/predictor/commands.h"
#include "predict/length_file.h"
#include "predict/process/batcher.h"
#include "predict/process/source.h"

namespace tailor::launch {
namespace {

struct Options {
  std::string source, prompts;
  std::vector<double> rates = {5, 20, 50};
  double seconds = 20;
  int threads = 1, most = 512;
  bool json = false;
};

struct Run {
  double rate = 0;  ///< asked for; 0 = all at once
  size_t prompts = 0, batches = 0;
  double per_s = 0, p50_ms = 0, p99_ms = 0;
};

double quantile(std::vector<double>& sorted, double p) {
  const auto at = static_cast<size_t>(p * static_cast<double>(sorted.size() - 1) + 0.5);
  return sorted[at];
}

/// `rate` prompts a second for `seconds`, or each prompt once and all at once.
Run run(predict::PromptPredictor& predictor, const std::vector<std::string>& prompts, double rate,
        double length) {
  std::mt19937_64 random(7);
  std::exponential_distribution<double> gap(std::max(rate, 1e-9));
  std::vector<double> arrivals;
  if (rate == 0)
    arrivals.assign(prompts.size(), 0);
  else
    for (double t = gap(random); t < length; t += gap(random)) arrivals.push_back(t);
  predict::PredictorBatcher batcher({.capacity = arrivals.size() + 1});
  std::vector<double> delays_ms;
  Run out{rate, arrivals.size()};
  const Time start = now();
  size_t next = 0;
  while (delays_ms.size() < arrivals.size()) {
    const Time at = now();
    for (; next < arrivals.size() && start + from_seconds(arrivals[next]) <= at; ++next)
      batcher.add(Predict{RequestId{next}, prompts[next % prompts.size()]}, at);
    const std::vector<Predict> batch = batcher.take(now());
    if (batch.empty()) {
      Time wake = batcher.due();
      if (next < arrivals.size()) wake = std::min(wake, start + from_seconds(arrivals[next]));
      const auto wait = std::chrono::ceil<milliseconds>(wake - now()).count();
      poll(nullptr, 0, static_cast<int>(std::clamp<int64_t>(wait, 0, 1000)));
      continue;
    }
    std::vector<std::string> texts;
    for (const Predict& question : batch) texts.push_back(question.prompt);
    (void)predictor.predict(texts);
    ++out.batches;
    const double done = to_seconds(now() - start);
    for (const Predict& question : batch)
      delays_ms.push_back(1e3 * (done - arrivals[question.request.value]));
  }
  out.per_s = static_cast<double>(arrivals.size()) / to_seconds(now() - start);
  if (delays_ms.empty()) return out;
  std::sort(delays_ms.begin(), delays_ms.end());
  out.p50_ms = quantile(delays_ms, 0.5);
  out.p99_ms = quantile(delays_ms, 0.99);
  return out;
}

Result<void> bench(const Options& o) {
  TAILOR_ASSIGN(predict::PredictorSource source, predict::open_predictor(o.source, o.threads));
  TAILOR_ASSIGN(const auto file, predict::read_prompts_file(o.prompts));
  std::vector<std::string> prompts;
  for (const auto& prompt : file) {
    if (prompts.size() == static_cast<size_t>(o.most)) break;
    prompts.push_back(prompt.text);
  }
  if (prompts.empty()) return fail(ErrorCode::kInvalidArgument, o.prompts + " has no prompts");
  (void)source.predictor->predict(std::span(prompts).first(1));  // once around before the clock
  std::vector<double> rates = o.rates;
  rates.insert(rates.begin(), 0);
  nlohmann::ordered_json json = nlohmann::ordered_json::array();
  if (!o.json)
    std::printf("%-14s %8s %12s %10s %10s %10s\n", "arrivals/s", "prompts", "a batch", "prompts/s",
                "P50, ms", "P99, ms");
  for (const double rate : rates) {
    const Run r = run(*source.predictor, prompts, rate, o.seconds);
    const double each =
        r.batches > 0 ? static_cast<double>(r.prompts) / static_cast<double>(r.batches) : 0;
    json.push_back({{"arrivals_per_s", r.rate},
                    {"prompts", r.prompts},
                    {"batch", each},
                    {"prompts_per_s", r.per_s},
                    {"p50_ms", r.p50_ms},
                    {"p99_ms", r.p99_ms}});
    if (o.json) continue;
    char name[32];
    std::snprintf(name, sizeof name, "%g", rate);
    std::printf("%-14s %8zu %12.1f %10.1f %10.1f %10.1f\n", rate == 0 ? "all at once" : name,
                r.prompts, each, r.per_s, r.p50_ms, r.p99_ms);
  }
  if (o.json) std::printf("%s\n", json.dump().c_str());
  return {};
}

}  // namespace

PredictorCommand add_predictor_bench(CLI::App& parent) {
  auto o = std::make_shared<Options>();
  CLI::App* app = parent.add_subcommand("bench", "Prompts a second, and how late their laws come");
  app->add_option("--predictor", o->source,
                  "A predictor's folder, constant:MU,SIGMA or prompt-length")
      ->required();
  app->add_option("--prompts", o->prompts, "JSON lines with \"id\" and \"text\"")->required();
  app->add_option("--rates", o->rates, "Arrivals a second")->delimiter(',');
  app->add_option("--seconds", o->seconds, "Of each rate")->check(CLI::Range(0.1, 3600.0));
  app->add_option("--threads", o->threads, "Threads of the encoder")->check(CLI::Range(1, 1024));
  app->add_option("--most", o->most, "Prompts of the file")->check(CLI::PositiveNumber);
  app->add_flag("--json", o->json, "Figures as JSON");
  return {app, [o] {
            const auto done = bench(*o);
            if (done) return 0;
            std::fprintf(stderr, "tailor-predictor: %s\n", done.error().message.c_str());
            return 1;
          }};
}

}  // namespace tailor::launch
