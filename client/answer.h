// One request's answer as it arrives: gathers the events of a request, drops repeats, writes it as
// JSON. Pure.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "base/api.h"

namespace tailor::client {

struct SampleAnswer {
  std::vector<TokenId> token_ids;
  std::string text;
  std::vector<LogprobEntry> logprobs;
  FinishReason reason = FinishReason::kNone;
  std::string stop_match;
};

class Answer {
 public:
  explicit Answer(const api::Submit& submit);

  /// Adds what is new in `chunk`; a repeat (after a migration or a restart) is dropped by token
  /// index and text offset. Returns the new text. Errors: Protocol (a hole, or a sample that was
  /// not asked for).
  Result<std::string_view> add(const api::TokenChunk& chunk);
  void accept(const api::Accepted& accepted);
  /// The end, whatever it was.
  void finish(const api::Finished& finished);
  void fail(Error error);

  bool ended() const { return ended_; }
  const Error& error() const { return error_; }
  const std::string& request_id() const { return request_id_; }
  const std::vector<SampleAnswer>& samples() const { return samples_; }
  uint32_t prompt_tokens() const { return prompt_tokens_; }
  const api::Timings& timings() const { return timings_; }
  bool accepted() const { return accepted_; }

  /// {"request_id", "prompt_token_ids", "token_ids", "text", "finish_reason", "usage", "timings",
  /// ...}: one object with the first sample's fields, and "samples" with all of them when there are
  /// several; or {"error": {...}} beside whatever had arrived. Durations in seconds.
  nlohmann::json to_json() const;

 private:
  std::string request_id_;
  bool accepted_ = false;
  bool ended_ = false;
  std::vector<TokenId> prompt_token_ids_;
  uint64_t seed_ = 0;
  std::string token_;
  uint32_t prompt_tokens_ = 0, cached_tokens_ = 0;
  std::vector<SampleAnswer> samples_;
  api::Timings timings_;
  Error error_{ErrorCode::kOk, ""};
};

/// {"code": "QueueFull", "message": "..."}
nlohmann::json error_to_json(const Error& error);

/// One line; bytes that are not UTF-8 become U+FFFD.
std::string dump_line(const nlohmann::json& value);

}  // namespace tailor::client
