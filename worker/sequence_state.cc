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

void append_chunk(const PlannedChunk& chunk, std::span<const kv::BlockId> table,
                  int32_t block_tokens, const SequenceState& state, parallel::StepInput& out) {
  const int32_t end = chunk.first_position + chunk.num_tokens;
  table = table.first(static_cast<size_t>((end + block_tokens - 1) / block_tokens));
  out.chunks.push_back({.first_row = out.num_rows(),
                        .num_rows = chunk.num_tokens,
                        .first_position = chunk.first_position,
                        .first_block = static_cast<int32_t>(out.block_ids.size()),
                        .num_blocks = static_cast<int32_t>(table.size()),
                        .wants_logits = chunk.wants_logits});
  out.block_ids.insert(out.block_ids.end(), table.begin(), table.end());
  for (int32_t position = chunk.first_position; position < end; ++position)
    out.token_ids.push_back(state.token_at(position));
}

}  // namespace tailor::worker
