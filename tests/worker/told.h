// A report entry by entry, with what its payload holds of each: what tests look at.
#pragma once

#include <string>
#include <vector>

#include "base/payload.h"

namespace tailor::worker::test {

struct Told {
  SequenceId sequence;
  Attempt attempt;
  uint32_t first_index = 0;
  std::vector<TokenId> token_ids;
  uint64_t text_offset = 0;
  std::string text;
  std::vector<LogprobEntry> logprobs;
  FinishReason finish = FinishReason::kNone;
  std::string stop_match;
  Error error{ErrorCode::kOk, {}};
};

inline std::vector<Told> told(const StepReport& report, StepPayload payload) {
  std::vector<Told> out;
  PayloadReader reader(payload);
  for (const SequenceProgress& p : report.progress) {
    const ProgressParts parts = reader.next(p);
    Told t{p.sequence(), p.attempt, p.first_index};
    t.token_ids.assign(parts.token_ids.begin(), parts.token_ids.end());
    t.text_offset = parts.text_offset;
    t.text = parts.text;
    t.logprobs.assign(parts.logprobs.begin(), parts.logprobs.end());
    t.finish = p.finish;
    if (parts.end) t.stop_match = parts.end->stop_match;
    if (parts.end) t.error = parts.end->error;
    out.push_back(std::move(t));
  }
  return out;
}

}  // namespace tailor::worker::test
