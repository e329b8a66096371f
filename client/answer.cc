#include "client/answer.h"

#include <algorithm>

namespace tailor::client {
namespace {

using nlohmann::json;

json logprob_to_json(const TokenLogprob& entry) {
  return {{"token", entry.token}, {"logprob", entry.logprob}};
}

json logprobs_to_json(const std::vector<LogprobEntry>& entries) {
  json list = json::array();
  for (const LogprobEntry& entry : entries) {
    json item = logprob_to_json(entry.chosen);
    if (!entry.top.empty()) {
      json top = json::array();
      for (const TokenLogprob& candidate : entry.top) top.push_back(logprob_to_json(candidate));
      item["top"] = std::move(top);
    }
    list.push_back(std::move(item));
  }
  return list;
}

json sample_to_json(const SampleAnswer& sample) {
  json out = {{"token_ids", sample.token_ids}, {"text", sample.text}};
  out["finish_reason"] =
      sample.reason == FinishReason::kNone ? json(nullptr) : json(to_string(sample.reason));
  if (!sample.stop_match.empty()) out["stop_match"] = sample.stop_match;
  if (!sample.logprobs.empty()) out["logprobs"] = logprobs_to_json(sample.logprobs);
  return out;
}

}  // namespace

Answer::Answer(const api::Submit& submit)
    : request_id_(submit.request_id),
      samples_(static_cast<size_t>(std::clamp(submit.sampling.n, 1, 1024))) {}

void Answer::accept(const api::Accepted& accepted) {
  accepted_ = true;
  prompt_token_ids_ = accepted.prompt_token_ids;
  prompt_tokens_ = static_cast<uint32_t>(prompt_token_ids_.size());
  seed_ = accepted.seed;
  token_ = accepted.token;
}

Result<std::string_view> Answer::add(const api::TokenChunk& chunk) {
  if (chunk.sample >= samples_.size()) {
    return tailor::fail(ErrorCode::kProtocol,
                        "sample " + std::to_string(chunk.sample) + " was not asked for");
  }
  accepted_ = true;  // whether or not that was heard
  SampleAnswer& sample = samples_[chunk.sample];
  const size_t have = sample.token_ids.size();
  if (chunk.first_index > have || chunk.text_offset > sample.text.size()) {
    return tailor::fail(ErrorCode::kProtocol, "the answer has a hole: token " +
                                                  std::to_string(chunk.first_index) +
                                                  " came after " + std::to_string(have));
  }
  const size_t skip_tokens = std::min(have - chunk.first_index, chunk.token_ids.size());
  sample.token_ids.insert(sample.token_ids.end(), chunk.token_ids.begin() + skip_tokens,
                          chunk.token_ids.end());
  if (skip_tokens < chunk.logprobs.size()) {
    sample.logprobs.insert(sample.logprobs.end(), chunk.logprobs.begin() + skip_tokens,
                           chunk.logprobs.end());
  }
  const size_t had_text = sample.text.size();
  const size_t skip_text = std::min<size_t>(had_text - chunk.text_offset, chunk.text.size());
  sample.text.append(chunk.text, skip_text);
  return std::string_view(sample.text).substr(had_text);
}

void Answer::finish(const api::Finished& finished) {
  ended_ = true;
  for (size_t i = 0; i < samples_.size() && i < finished.samples.size(); ++i) {
    samples_[i].reason = finished.samples[i].reason;
    samples_[i].stop_match = finished.samples[i].stop_match;
  }
  prompt_tokens_ = finished.prompt_tokens;
  cached_tokens_ = finished.cached_tokens;
  timings_ = finished.timings;
  error_ = finished.error;
  if (error_.code == ErrorCode::kOk) accepted_ = true;
}

void Answer::fail(Error error) {
  ended_ = true;
  error_ = std::move(error);
}

json Answer::to_json() const {
  json out = {{"request_id", request_id_}};
  if (error_.code != ErrorCode::kOk) out["error"] = error_to_json(error_);
  if (!accepted_) return out;
  out["prompt_token_ids"] = prompt_token_ids_;
  out.update(sample_to_json(samples_[0]));
  out["seed"] = seed_;
  if (!token_.empty()) out["token"] = token_;
  size_t completion_tokens = 0;
  for (const SampleAnswer& sample : samples_) completion_tokens += sample.token_ids.size();
  out["usage"] = {{"prompt_tokens", prompt_tokens_},
                  {"prompt_tokens_details", {{"cached_tokens", cached_tokens_}}},
                  {"completion_tokens", completion_tokens}};
  if (samples_.size() > 1) {
    json list = json::array();
    for (const SampleAnswer& sample : samples_) list.push_back(sample_to_json(sample));
    out["samples"] = std::move(list);
  }
  if (ended_) {
    out["timings"] = {{"tokenized", to_seconds(timings_.tokenized)},
                      {"queued", to_seconds(timings_.dispatched)},
                      {"first_token", to_seconds(timings_.first_token)},
                      {"finished", to_seconds(timings_.finished)},
                      {"preemptions", timings_.preemptions},
                      {"attempts", timings_.attempts},
                      {"replica", timings_.replica}};
  }
  return out;
}

json error_to_json(const Error& error) {
  return {{"code", std::string(to_string(error.code))}, {"message", error.message}};
}

std::string dump_line(const json& value) {
  return value.dump(-1, ' ', false, json::error_handler_t::replace) + "\n";
}

}  // namespace tailor::client
