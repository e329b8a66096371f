#include "worker/sequence_state.h"

#include <algorithm>

namespace tailor::worker {

FinishReason finish_reason(const Request& request, std::span<const TokenId> emitted,
                           const SequenceLimits& limits) {
  const SamplingParams& p = request.sampling;
  const int64_t count = static_cast<int64_t>(emitted.size());
  if (count > p.min_tokens) {
    auto last_in = [&](const std::vector<TokenId>& ids) {
      return std::find(ids.begin(), ids.end(), emitted.back()) != ids.end();
    };
    if (last_in(p.stop_token_ids)) return FinishReason::kStop;
    if (!p.ignore_eos && last_in(limits.eos_tokens)) return FinishReason::kStop;
  }
  if (count >= p.max_tokens) return FinishReason::kLength;
  if (static_cast<int64_t>(request.prompt.size()) + count >= limits.max_context)
    return FinishReason::kLength;
  return FinishReason::kNone;
}

}  // namespace tailor::worker
