#include "launch/commands/sampling_options.h"

namespace tailor::launch {

void SamplingOptions::add_to(CLI::App& app) {
  app.add_option("--endpoint", endpoint, "The cluster's address");
  app.add_option("--max-tokens", params.max_tokens, "Longest answer, in tokens");
  app.add_option("--min-tokens", params.min_tokens, "No end before that many tokens");
  // Filled in by the server, which knows the model; the numbers are those of SamplingDefaults.
  const auto advised = [&](const char* name, auto& value, const char* what, const char* usual) {
    app.add_option(name, value,
                   std::string(what) + "; default: the model's generation_config, else " + usual)
        ->always_capture_default(false)
        ->default_str("");
  };
  advised("--temperature", params.temperature, "0 = greedy", "0.7");
  advised("--top-k", params.top_k, "Draw from the k likeliest tokens; 0 = off", "0");
  advised("--top-p", params.top_p, "Draw from the likeliest tokens of this mass; 1 = off", "0.95");
  advised("--min-p", params.min_p, "Drop tokens below this share of the likeliest; 0 = off", "0");
  advised("--repetition-penalty", params.repetition_penalty, "Over prompt and answer; 1 = off",
          "1");
  app.add_option("--presence-penalty", params.presence_penalty, "Over the answer; 0 = off");
  app.add_option("--frequency-penalty", params.frequency_penalty, "Over the answer; 0 = off");
  seed_option =
      app.add_option("--seed", seed, "Same seed, same answer; drawn by the server without it")
          ->always_capture_default(false)
          ->default_str("");
  app.add_option("--stop", params.stop, "End before this text (may be given several times)")
      ->allow_extra_args(false)
      ->always_capture_default(false);
  app.add_option("--stop-token-ids", params.stop_token_ids,
                 "End at these tokens too, such as 2,128009 (the model's own: tailor status)")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->always_capture_default(false);
  app.add_flag("--ignore-eos", params.ignore_eos, "Go on to --max-tokens");
  parse_option = app.add_flag(
      "--parse-special-tokens,!--no-parse-special-tokens", parse_special_tokens,
      "Special tokens written in the text are recognised (the default of a prompt), or "
      "are words (the default of chat messages)");
  app.add_option("--priority", priority, "interactive, standard or batch")
      ->check(CLI::IsMember({"interactive", "standard", "batch"}));
}

api::Submit SamplingOptions::submit() const {
  api::Submit submit;
  submit.sampling = params;
  submit.has_seed = seed_option->count() > 0;
  submit.sampling.seed = submit.has_seed ? seed : 0;
  if (parse_option->count() > 0) submit.parse_special_tokens = parse_special_tokens;
  submit.priority = priority == "interactive" ? PriorityClass::kInteractive
                    : priority == "batch"     ? PriorityClass::kBatch
                                              : PriorityClass::kStandard;
  return submit;
}

}  // namespace tailor::launch
