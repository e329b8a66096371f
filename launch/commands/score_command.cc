// `tailor score`: what the scheduler makes of one length law, as a JSON object.
#include <unistd.h>

#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "launch/commands/command.h"
#include "launch/commands/terminal.h"
#include "tie/law.h"
#include "tie/rank_table.h"
#include "tie/score.h"

namespace tailor::launch {
namespace {

struct Options {
  double mu = 0, sigma = 0, nu = 3.5;
  double max_tokens = 0, generated = 0;
  double queue = 0, batch = 1;
  double kappa = 20;
};

Result<void> check(const char* name, double value, double low, double high) {
  if (value >= low && value <= high) return {};  // a NaN is neither
  char text[160];
  std::snprintf(text, sizeof text, "%s must be a number from %g to %g, not %g", name, low, high,
                value);
  return fail(ErrorCode::kInvalidArgument, text);
}

Result<void> check(const Options& options) {
  constexpr double kMost = 1e9;
  TAILOR_TRY(check("--mu", options.mu, -20, 20));
  TAILOR_TRY(check("--sigma", options.sigma, 0.001, 10));
  TAILOR_TRY(check("--nu", options.nu, 0.5, 10000));
  TAILOR_TRY(check("--max-tokens", options.max_tokens, 1, kMost));
  TAILOR_TRY(check("--generated", options.generated, 0, kMost));
  TAILOR_TRY(check("--queue", options.queue, 0, kMost));
  TAILOR_TRY(check("--batch", options.batch, 1, kMost));
  TAILOR_TRY(check("--kappa", options.kappa, 0, kMost));
  if (options.generated < options.max_tokens) return {};
  char text[160];
  std::snprintf(text, sizeof text,
                "--generated must be below --max-tokens (%g): an answer of %g tokens has ended",
                options.max_tokens, options.generated);
  return fail(ErrorCode::kInvalidArgument, text);
}

int run(const Options& options) {
  if (const auto good = check(options); !good) return print_error(good.error());
  const tie::LawMath math(options.nu);
  const LengthLaw law = tie::log_t(options.mu, options.sigma, options.nu);
  const tie::Moments moments = math.moments(law, options.max_tokens, options.generated);
  const double beta = tie::beta(options.queue, options.batch);
  const tie::RankTable rank(tie::LawGrid(math, law, options.max_tokens),
                            {.kind = tie::RankOptions::Kind::kGittins, .kappa = options.kappa});
  const nlohmann::ordered_json json = {{"E", moments.expected},
                                       {"VaR", moments.var},
                                       {"CVaR", moments.cvar},
                                       {"beta", beta},
                                       {"score", tie::score(moments, beta)},
                                       {"rank", rank.rank(options.generated)}};
  return write_all(STDOUT_FILENO, json.dump() + "\n") ? 0 : 1;
}

}  // namespace

Command add_score(CLI::App& parent) {
  auto options = std::make_shared<Options>();
  CLI::App* app = parent.add_subcommand(
      "score", "What the scheduler makes of a log-t length law: E, VaR, CVaR, score, rank (JSON)");
  app->add_option("--mu", options->mu, "Centre of ln(tokens)")->required();
  app->add_option("--sigma", options->sigma, "Scale of ln(tokens)")->required();
  app->add_option("--nu", options->nu, "Degrees of freedom of the tail");
  app->add_option("--max-tokens", options->max_tokens, "The request's limit")->required();
  app->add_option("--generated", options->generated,
                  "Tokens already out: E, VaR and CVaR are then of what remains");
  app->add_option("--queue", options->queue, "Requests waiting (sets beta)");
  app->add_option("--batch", options->batch, "Slots of the ready replicas (sets beta)");
  app->add_option("--kappa", options->kappa, "Tokens; weight of per-token latency in the rank");
  return {app, [options] { return run(*options); }};
}

}  // namespace tailor::launch
