// A line of a prompts file: one JSON object -> one request. Pure.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/api.h"

namespace tailor::client {

struct PromptLine {
  api::Submit submit;
  nlohmann::json id;  ///< the object's "id" or null; handed back in the output
  std::vector<std::string> unknown_fields;  ///< ignored; the caller says so
};

/// Reads `line`: exactly one of "prompt" (text), "messages" ([{"role", "content"}]), "token_ids";
/// and any field of SamplingParams by its name ("stop" also as one string, "logit_bias" as {"token
/// id": bias}), "seed", "add_special_tokens", "parse_special_tokens", "priority" (interactive,
/// standard, batch), "tenant", "deadline" (seconds), "request_id". What is not given comes from
/// `defaults`. Gives no request id of its own. A null field counts as not given. Errors:
/// InvalidArgument (names the field, what was expected and what was found; no JSON, nested too
/// deep).
Result<PromptLine> read_prompt_line(const std::string& line, const api::Submit& defaults);

}  // namespace tailor::client
