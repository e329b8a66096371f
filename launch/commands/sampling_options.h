// The options that `generate` and `chat` share: where the cluster is and how tokens are drawn.
#pragma once

#include <CLI/CLI.hpp>
#include <optional>
#include <string>

#include "base/api.h"
#include "base/endpoint.h"
#include "launch/commands/command.h"

namespace tailor::launch {

struct SamplingOptions {
  std::string endpoint = kDefaultEndpoint;
  api::Sampling params;
  uint64_t seed = 0;
  CLI::Option* seed_option = nullptr;
  std::string priority = "standard";
  bool parse_special_tokens = false;
  CLI::Option* parse_option = nullptr;

  void add_to(CLI::App& app);
  /// What the options say, without a prompt.
  api::Submit submit() const;
};

}  // namespace tailor::launch
