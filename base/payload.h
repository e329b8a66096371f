// Messages and their payloads: whether a Dispatch and its own belong together, and what a
// StepReport's holds of each entry, taken one behind the other. Pure.
#pragma once

#include <span>
#include <string_view>

#include "base/messages.h"

namespace tailor {

/// What a Dispatch says in numbers is what its payload holds, but for the prompt, which stays away
/// where lengths only are known (the simulator).
inline bool fits(const Dispatch& dispatch, const DispatchPayload& payload) {
  if (!payload.request) return false;
  const SamplingParams& sampling = payload.request->sampling;
  return dispatch.samples >= 1 && sampling.n == static_cast<int64_t>(dispatch.samples) &&
         sampling.max_tokens == static_cast<int64_t>(dispatch.max_tokens) &&
         (payload.generated.empty() || payload.generated.size() == dispatch.samples);
}

/// What a StepPayload holds of one entry.
struct ProgressParts {
  std::span<const TokenId> token_ids;
  uint64_t text_offset = 0;
  std::string_view text;
  std::span<LogprobEntry> logprobs;  ///< empty, or one per token
  SequenceEnd* end = nullptr;        ///< null: says nothing
};

/// Goes through a report's payload, entry by entry.
class PayloadReader {
 public:
  explicit PayloadReader(StepPayload& payload) : payload_(payload) {}

  /// Of the next entry, which is `progress`. The payload is whole, as comm/codec_control.h sees to.
  ProgressParts next(const SequenceProgress& progress) {
    const ProgressText& text = payload_.texts[entry_];
    ProgressParts parts;
    parts.token_ids = std::span(payload_.token_ids).subspan(token_, progress.num_tokens);
    parts.text_offset = text.offset;
    parts.text = std::string_view(payload_.text).substr(text_, text.bytes);
    parts.logprobs = std::span(payload_.logprobs).subspan(logprob_, text.num_logprobs);
    if (end_ < payload_.ends.size() && payload_.ends[end_].entry == entry_)
      parts.end = &payload_.ends[end_++];
    ++entry_;
    token_ += progress.num_tokens;
    text_ += text.bytes;
    logprob_ += text.num_logprobs;
    return parts;
  }

 private:
  StepPayload& payload_;
  size_t entry_ = 0, token_ = 0, text_ = 0, logprob_ = 0, end_ = 0;
};

}  // namespace tailor
