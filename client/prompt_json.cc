#include "client/prompt_json.h"

#include <cmath>
#include <limits>

#include "base/json_text.h"
#include "base/numbers.h"

namespace tailor::client {
namespace {

using nlohmann::json;

Unexpected wrong(const std::string& field, const char* expected, const json& found) {
  std::string text = found.dump(-1, ' ', false, json::error_handler_t::replace);
  if (text.size() > 60) text = text.substr(0, 57) + "...";
  return fail(ErrorCode::kInvalidArgument,
              "field '" + field + "' must be " + expected + ", found " + text);
}

template <class Out>  // float or std::optional<float>
Result<void> read_float(const std::string& name, const json& value, Out& out) {
  if (!value.is_number()) return wrong(name, "a number", value);
  out = value.get<float>();
  return {};
}

template <class Out>  // int32_t or std::optional<int32_t>
Result<void> read_int(const std::string& name, const json& value, Out& out) {
  constexpr int64_t kMax = std::numeric_limits<int32_t>::max();
  const bool whole =
      value.is_number_integer() ||
      (value.is_number_float() && std::nearbyint(value.get<double>()) == value.get<double>());
  if (!whole || std::abs(value.get<double>()) > static_cast<double>(kMax)) {
    return wrong(name, "a whole number of 32 bits", value);
  }
  out = static_cast<int32_t>(value.get<double>());
  return {};
}

Result<void> read_bool(const std::string& name, const json& value, bool& out) {
  if (!value.is_boolean()) return wrong(name, "true or false", value);
  out = value.get<bool>();
  return {};
}

Result<void> read_string(const std::string& name, const json& value, std::string& out) {
  if (!value.is_string()) return wrong(name, "a string", value);
  out = value.get<std::string>();
  return {};
}

Result<void> read_token_ids(const std::string& name, const json& value, std::vector<TokenId>& out) {
  if (!value.is_array()) return wrong(name, "a list of token ids", value);
  out.clear();
  out.reserve(value.size());
  for (const json& item : value) {
    int32_t id = 0;
    TAILOR_TRY(read_int(name + "[" + std::to_string(out.size()) + "]", item, id));
    out.push_back(id);
  }
  return {};
}

Result<void> read_stop(const json& value, std::vector<std::string>& out) {
  out.clear();
  if (value.is_string()) {
    out.push_back(value.get<std::string>());
    return {};
  }
  if (!value.is_array()) return wrong("stop", "a string or a list of strings", value);
  for (const json& item : value) {
    std::string text;
    TAILOR_TRY(read_string("stop", item, text));
    out.push_back(std::move(text));
  }
  return {};
}

Result<void> read_logit_bias(const json& value, std::vector<std::pair<TokenId, float>>& out) {
  if (!value.is_object()) return wrong("logit_bias", "an object {\"token id\": bias}", value);
  out.clear();
  for (const auto& [key, bias] : value.items()) {
    const auto id = parse_number<TokenId>(key);
    if (!id) return wrong("logit_bias", "keyed by token ids", json(key));
    float number = 0;
    TAILOR_TRY(read_float("logit_bias", bias, number));
    out.emplace_back(*id, number);
  }
  return {};
}

Result<void> read_messages(const json& value, std::vector<api::ChatMessage>& out) {
  if (!value.is_array() || value.empty()) {
    return wrong("messages", "a list of {\"role\", \"content\"}", value);
  }
  for (const json& item : value) {
    if (!item.is_object() || !item.contains("role") || !item.contains("content")) {
      return wrong("messages", "a list of {\"role\", \"content\"}", item);
    }
    api::ChatMessage message;
    TAILOR_TRY(read_string("role", item["role"], message.role));
    TAILOR_TRY(read_string("content", item["content"], message.content));
    out.push_back(std::move(message));
  }
  return {};
}

Result<void> read_logprobs(const json& value, int32_t& out) {
  if (value.is_boolean()) {
    out = value.get<bool>() ? std::max(out, 0) : -1;
    return {};
  }
  return read_int("logprobs", value, out);
}

Result<void> read_priority(const json& value, PriorityClass& out) {
  if (value == "interactive") {
    out = PriorityClass::kInteractive;
  } else if (value == "standard") {
    out = PriorityClass::kStandard;
  } else if (value == "batch") {
    out = PriorityClass::kBatch;
  } else {
    return wrong("priority", "interactive, standard or batch", value);
  }
  return {};
}

Result<void> read_seed(const json& value, api::Submit& submit) {
  if (!value.is_number_unsigned())
    return wrong("seed", "a whole number of 0..18446744073709551615", value);
  submit.sampling.seed = value.get<uint64_t>();
  submit.has_seed = true;
  return {};
}

Result<void> read_deadline(const json& value, std::optional<Duration>& out) {
  if (!value.is_number() || value.get<double>() <= 0 || value.get<double>() > 1e9) {
    return wrong("deadline", "a positive number of seconds", value);
  }
  out = from_seconds(value.get<double>());
  return {};
}

/// False: no such field.
Result<bool> read_field(const std::string& name, const json& value, PromptLine& line) {
  api::Submit& submit = line.submit;
  api::Sampling& s = submit.sampling;
  const auto known = [](Result<void> result) -> Result<bool> {
    if (!result) return fail(result.error());
    return true;
  };
  if (name == "temperature") return known(read_float(name, value, s.temperature));
  if (name == "top_k") return known(read_int(name, value, s.top_k));
  if (name == "top_p") return known(read_float(name, value, s.top_p));
  if (name == "min_p") return known(read_float(name, value, s.min_p));
  if (name == "repetition_penalty") return known(read_float(name, value, s.repetition_penalty));
  if (name == "presence_penalty") return known(read_float(name, value, s.presence_penalty));
  if (name == "frequency_penalty") return known(read_float(name, value, s.frequency_penalty));
  if (name == "logit_bias") return known(read_logit_bias(value, s.logit_bias));
  if (name == "seed") return known(read_seed(value, submit));
  if (name == "n") return known(read_int(name, value, s.n));
  if (name == "max_tokens") return known(read_int(name, value, s.max_tokens));
  if (name == "min_tokens") return known(read_int(name, value, s.min_tokens));
  if (name == "ignore_eos") return known(read_bool(name, value, s.ignore_eos));
  if (name == "stop") return known(read_stop(value, s.stop));
  if (name == "stop_token_ids") return known(read_token_ids(name, value, s.stop_token_ids));
  if (name == "include_stop_in_output")
    return known(read_bool(name, value, s.include_stop_in_output));
  if (name == "logprobs") return known(read_logprobs(value, s.logprobs));
  if (name == "top_logprobs") return known(read_int(name, value, s.logprobs));
  if (name == "skip_special_tokens") return known(read_bool(name, value, s.skip_special_tokens));
  if (name == "add_special_tokens") return known(read_bool(name, value, submit.add_special_tokens));
  if (name == "parse_special_tokens") {
    bool parse = false;
    TAILOR_TRY(read_bool(name, value, parse));
    submit.parse_special_tokens = parse;
    return true;
  }
  if (name == "priority") return known(read_priority(value, submit.priority));
  if (name == "tenant") return known(read_string(name, value, submit.tenant));
  if (name == "deadline") return known(read_deadline(value, submit.deadline));
  if (name == "request_id") return known(read_string(name, value, submit.request_id));
  return false;
}

}  // namespace

Result<PromptLine> read_prompt_line(const std::string& text, const api::Submit& defaults) {
  TAILOR_ASSIGN(const json object, parse_json(text));
  if (!object.is_object()) return fail(ErrorCode::kInvalidArgument, "not a JSON object");

  PromptLine line;
  line.submit = defaults;
  line.submit.request_id.clear();
  int prompts = 0;
  for (const auto& [name, value] : object.items()) {
    if (value.is_null()) continue;
    if (name == "id") {
      line.id = value;
    } else if (name == "prompt") {
      std::string prompt;
      TAILOR_TRY(read_string(name, value, prompt));
      line.submit.prompt = std::move(prompt);
      ++prompts;
    } else if (name == "messages") {
      std::vector<api::ChatMessage> messages;
      TAILOR_TRY(read_messages(value, messages));
      line.submit.prompt = std::move(messages);
      ++prompts;
    } else if (name == "token_ids") {
      std::vector<TokenId> ids;
      TAILOR_TRY(read_token_ids(name, value, ids));
      line.submit.prompt = std::move(ids);
      ++prompts;
    } else {
      TAILOR_ASSIGN(const bool known, read_field(name, value, line));
      if (!known) line.unknown_fields.push_back(name);
    }
  }
  if (prompts != 1) {
    return fail(ErrorCode::kInvalidArgument,
                "exactly one of 'prompt', 'messages', 'token_ids' is needed, found " +
                    std::to_string(prompts));
  }
  return line;
}

}  // namespace tailor::client
